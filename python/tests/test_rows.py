"""What becomes a line, and what a line becomes. No program runs here."""

import doctest
import decimal
import io
import json
import unittest

import gristmill._options
from gristmill import _results, _rows


def lines(rows, **options):
    file = io.BytesIO()
    written = _rows.write(rows, file, "m", **options)
    return written.name, [json.loads(line) for line in file.getvalue().splitlines()]


def result(custom_id, **ours):
    line = {"custom_id": custom_id, "gristmill": {"status": "succeeded", "job_id": custom_id, "run": 1, **ours}}
    return _results.row(line)


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
            ([{"question": "a"}], "row 0 has none of prompt, messages, body; it has question"),
            ([{"prompt": "a", "x": object()}], "row 0, key 'x': a object cannot be written as JSON"),
            ([{"body": {}, "topic": "x"}], "row 0 has body and beside it topic, which would be lost"),
            (["a", {"custom_id": "b", "params": {}, "n": 1}], "row 1 has params and beside it n"),
            (None, "rows is None; give strings"),
            (7, "rows is a int"),
            (b"a", "rows is a bytes"),
        ):
            with self.assertRaisesRegex(TypeError, message):
                lines(rows)
        for rows, message in (
            ([{"prompt": "a", "score": float("nan")}], "row 0, key 'score': holds NaN"),
            (["a", {"prompt": "b", "n": [1, {"m": float("inf")}]}], "row 1, key 'n': holds NaN or infinity"),
            (["a", "b\ud83d"], "row 1, key 'prompt': holds the lone surrogate .ud83d"),
            ([], "there are no rows"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                lines(rows)

    def test_a_path_that_is_none_is_told(self):
        with self.assertRaisesRegex(FileNotFoundError, r"no file 'What is it\?'; one prompt goes into a list: \["):
            _rows.path_of("What is it?")
        self.assertRaisesRegex(ValueError, "standard input is Python's", _rows.path_of, "-")

    def test_a_name_is_a_text_and_none_is_the_position(self):
        import pandas

        named = pandas.DataFrame({"custom_id": [7, None], "prompt": ["a", "b"]})
        self.assertEqual([line["custom_id"] for line in lines(named)[1]], ["7", "row-1"])
        rows = [{"custom_id": None, "prompt": "a"}, {"custom_id": 3, "prompt": "b"}]
        self.assertEqual([line["custom_id"] for line in lines(rows)[1]], ["row-0", "3"])

    def test_the_prompt_may_have_another_name(self):
        rows = [{"question": "a", "n": 1}, "b"]
        expected = [{"custom_id": "row-0", "question": "a", "n": 1}, {"custom_id": "row-1", "question": "b"}]
        self.assertEqual(lines(rows, prompt_key="question")[1], expected)
        with self.assertRaisesRegex(TypeError, r"none of question \(prompt_column\)"):
            lines([{"prompt": "a"}], prompt_key="question")

    def test_a_decimal_number_is_a_number(self):
        row = {"prompt": "a", "price": decimal.Decimal("1.5"), "n": decimal.Decimal("2.0")}
        self.assertEqual(lines([row])[1][0], {"custom_id": "row-0", "prompt": "a", "price": 1.5, "n": 2})

    def test_the_same_rows_have_the_same_name_and_others_another(self):
        self.assertEqual(lines(["a", "b"])[0], lines(["a", "b"])[0])
        self.assertNotEqual(lines(["a", "b"])[0], lines(["a", "c"])[0])

    def test_options_become_flags(self):
        self.assertEqual(doctest.testmod(gristmill._options).failed, 0)
        form = {"type": "json_object"}
        for options, expected in (
            ({"set": {"x": form}}, ["--set=x=" + json.dumps(form)]),
            ({"set": {"x": [None, True, 0.5]}}, ["--set=x=null,true,0.5"]),
            ({"set": {"x": ("a,b", "7", "é")}}, ['--set=x="a,b","7","é"']),
            ({"set": {"x": range(3)}}, ["--set=x=0,1,2"]),
            ({"set": {"stop": [["a", "b"]]}}, ['--set=stop=["a", "b"]']),
            ({"set": ["temperature=0,1", "n=2"]}, ["--set=temperature=0,1", "--set=n=2"]),
            ({"tag": {"team": "a"}, "model": iter(["m", "n"])}, ["--tag=team=a", "--model=m", "--model=n"]),
        ):
            self.assertEqual(gristmill._options.flags(options), expected)
        self.assertRaisesRegex(ValueError, "no value for x", gristmill._options.flags, {"set": {"x": []}})
        self.assertRaisesRegex(ValueError, "set x: holds NaN", gristmill._options.flags, {"set": {"x": float("nan")}})
        self.assertRaisesRegex(TypeError, "set x: a object", gristmill._options.flags, {"set": {"x": object()}})


class Frames(unittest.TestCase):
    def test_what_a_sweep_varied_is_a_number_and_other_tags_are_texts(self):
        tags = {"temperature": "0.7", "effort": "low", "version": "1.0", "sample": "0"}
        frame = _results.Results([result("a|x|temperature=0.7|effort=low", tags=tags)]).to_frame()
        values = [frame[name][0] for name in tags]
        self.assertEqual(values, [0.7, "low", "1.0", 0])

    def test_parts_of_a_result_are_results(self):
        rows = _results.Results([result("a"), result("b", status="failed", error={"class": "Timeout"})], batch="x")
        self.assertEqual((rows.failed.batch, len(rows.failed.to_frame())), ("x", 1))
        self.assertEqual(list(rows[1:].to_frame().error_class), ["Timeout"])
        self.assertEqual((rows[0]["custom_id"], rows[1]["error_class"]), ("a", "Timeout"))

    def test_a_frame_without_rows_has_columns(self):
        full = _results.Results([result("a")]).to_frame()
        self.assertEqual(list(_results.Results().to_frame()), list(full))


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
