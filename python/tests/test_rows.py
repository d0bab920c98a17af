"""What becomes a line, and what a line becomes. No program runs here."""

import doctest
import io
import json
import unittest

import gristmill._options
from gristmill import _results, _rows


def lines(rows):
    file = io.BytesIO()
    name = _rows.write(rows, file, "m")
    return name, [json.loads(line) for line in file.getvalue().splitlines()]


class Rows(unittest.TestCase):
    def test_every_form_of_a_row_becomes_a_line(self):
        for row, expected in (
            ("hi", {"custom_id": "row-0", "prompt": "hi"}),
            ({"prompt": "hi", "topic": "x"}, {"custom_id": "row-0", "prompt": "hi", "topic": "x"}),
            ({"messages": [], "custom_id": 7}, {"custom_id": "7", "messages": []}),
            (
                {"body": {"model": "m"}},
                {"custom_id": "row-0", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}},
            ),
            (
                {"custom_id": "e", "method": "POST", "url": "/v1/embeddings", "body": {"input": "a"}},
                {"custom_id": "e", "method": "POST", "url": "/v1/embeddings", "body": {"input": "a"}},
            ),
            ({"custom_id": "a", "params": {"max_tokens": 1}}, {"custom_id": "a", "params": {"max_tokens": 1}}),
        ):
            self.assertEqual(lines([row])[1], [expected])

    def test_rows_are_read_one_by_one(self):
        self.assertEqual(len(lines(f"question {n}" for n in range(3))[1]), 3)

    def test_values_of_numpy_and_missing_ones_are_written_as_json(self):
        import pandas

        frame = pandas.DataFrame({"prompt": ["a", "b"], "n": [1, 2], "day": pandas.to_datetime(["2026-01-02", None])})
        frame["n"] = frame["n"].astype("Int64")
        _, (first, second) = lines(frame)
        self.assertEqual(first, {"custom_id": "row-0", "prompt": "a", "n": 1, "day": "2026-01-02T00:00:00"})
        self.assertEqual(second, {"custom_id": "row-1", "prompt": "b", "n": 2})
        self.assertEqual([line["prompt"] for line in lines(frame["prompt"])[1]], ["a", "b"])

    def test_what_is_no_row_is_refused_with_its_number(self):
        for rows, message in (
            ({"prompt": "a"}, "put it in a list"),
            (["a", 3], "row 1 is a int"),
            ([{"question": "a"}], "row 0 has none of prompt, messages, body; it has custom_id, question"),
            ([{"prompt": "a", "x": object()}], "a object cannot be written as JSON"),
        ):
            with self.assertRaisesRegex(TypeError, message):
                lines(rows)

    def test_the_same_rows_have_the_same_name_and_others_another(self):
        self.assertEqual(lines(["a", "b"])[0], lines(["a", "b"])[0])
        self.assertNotEqual(lines(["a", "b"])[0], lines(["a", "c"])[0])

    def test_options_become_flags(self):
        self.assertEqual(doctest.testmod(gristmill._options).failed, 0)


class Texts(unittest.TestCase):
    def test_the_text_of_every_kind_of_answer_is_found(self):
        message = {"type": "message", "content": [{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}]}
        for body, text in (
            ({"choices": [{"message": {"content": "hi"}}]}, "hi"),
            ({"choices": [{"message": {"content": None, "tool_calls": []}}]}, None),
            ({"choices": [{"text": "hi"}]}, "hi"),
            ({"output": [{"type": "reasoning", "summary": []}, message]}, "ab"),
            ({"content": [{"type": "text", "text": "hi"}]}, "hi"),
            ({"data": [{"embedding": [0.5]}]}, None),
        ):
            self.assertEqual(_results._output_text(body), text, body)


if __name__ == "__main__":
    unittest.main()
