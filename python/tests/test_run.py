"""Running, continuing and reading batches on the simulator."""

import concurrent.futures
import gzip
import json
import os
import signal
import subprocess
import sys
import unittest
from unittest import mock

import gristmill
import support

SIMULATED = ".gristmill/simulated.db"

INTERRUPTED = """
import gristmill, signal, sys

# What a shell starts in the background ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)

def progress(view):
    if view["done"]:
        print("going", flush=True)

try:
    gristmill.run([f"question {n}" for n in range(300)], "m", api_base=sys.argv[1], concurrency=8, progress=progress)
except KeyboardInterrupt:
    print("interrupted")
"""


class Run(support.InFolder):
    def test_a_sweep_of_a_thousand_gives_a_row_for_each_in_order(self):
        views = []
        prompts = [f"question {n}" for n in range(1_000)]
        rows = gristmill.run(prompts, model="m", simulate=True, progress=views.append)
        self.assertEqual([row["custom_id"] for row in rows], [f"row-{n}" for n in range(1_000)])
        self.assertTrue(all(row["output_text"] and row["error"] is None for row in rows))
        self.assertEqual((rows.summary["succeeded"], rows.summary["total"], rows.failed), (1_000, 1_000, []))
        self.assertEqual((views[-1]["done"], views[-1]["total"]), (1_000, 1_000))

    def test_a_failed_request_is_a_row_with_its_error(self):
        prompts = ["fine", "simulate:400", "simulate:500,ok"]
        rows = gristmill.run(prompts, model="m", simulate=True)
        self.assertEqual([row["status"] for row in rows], ["succeeded", "failed", "succeeded"])
        (failed,) = rows.failed
        self.assertEqual((failed["error"]["class"], failed["error"]["status"]), ("BadRequestError", 400))
        self.assertIsNone(failed["response"])
        self.assertEqual([row["attempts"] for row in rows], [1, 1, 2])
        frame = rows.to_frame()
        self.assertEqual(list(frame.error_class.dropna()), ["BadRequestError"])

    def test_a_frame_of_pandas_goes_in_and_comes_out(self):
        import pandas

        asked = pandas.DataFrame({"prompt": ["a", "b", "c"], "topic": ["x", None, "z"], "weight": [1, 2, 3]})
        frame = gristmill.run(asked, "m", simulate=True).to_frame()
        self.assertEqual(list(frame.custom_id), ["row-0", "row-1", "row-2"])
        self.assertEqual(list(frame.topic.dropna()), ["x", "z"])
        self.assertEqual(list(frame.weight), [1, 2, 3])
        self.assertGreater(frame.latency_ms.median(), 0)

    def test_without_pandas_everything_but_frames_works(self):
        with mock.patch.dict(sys.modules, {"pandas": None}):
            rows = gristmill.run([{"prompt": "a", "topic": "x"}], "m", simulate=True)
            self.assertEqual(rows[0]["metadata"], {"topic": "x"})
            self.assertRaises(ImportError, rows.to_frame)

    def test_settings_of_a_sweep_are_columns_of_the_frame(self):
        rows = gristmill.run(["a", "b"], "m", simulate=True, set={"temperature": [0, 0.7]})
        counts = rows.to_frame().groupby("temperature").custom_id.count()
        self.assertEqual(dict(counts), {0: 2, 0.7: 2})

    def test_rows_come_in_the_order_of_the_input_also_where_it_changed(self):
        ask = lambda rows, **options: [row["custom_id"] for row in gristmill.run(rows, "m", name="n", **options)]
        row = lambda name: {"custom_id": name, "prompt": name}
        base_url = self.simulator()
        self.assertEqual(ask([row("c"), row("a")], api_base=base_url), ["c", "a"])
        self.assertEqual(ask([row("b"), row("a"), row("z"), row("c")], api_base=base_url), ["b", "a", "z", "c"])
        expected = [f"{name}{value}" for name in "ba" for value in ("|n=2", "|n=1", "|n=3")]
        self.assertEqual(ask([row("b"), row("a")], api_base=base_url, set={"n": [2, 1, 3]}), expected)
        swept = ask([row("b|1"), row("a")], simulate=True, set={"stop": ["x", "y"]}, repeat=2)
        ends = [f"|stop={stop}{sample}" for stop in "xy" for sample in ("", "|sample=1")]
        self.assertEqual(swept, [f"{name}{end}" for name in ("b|1", "a") for end in ends])

    def test_rows_of_a_file_come_in_its_order(self):
        def ask(name, lines, opener=open, **options):
            with opener(name, "wt", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
            rows = gristmill.run(name, "m", name=options.pop("name", None), api_base=base_url, **options)
            return [row["custom_id"] for row in rows]

        base_url = self.simulator()
        row = lambda name: json.dumps({"custom_id": name, "prompt": name})
        plain = json.dumps({"prompt": "x"})
        for opener, name in ((open, "in.jsonl"), (gzip.open, "in.jsonl.gz")):
            self.assertEqual(ask(name, [row("c"), row("a")], opener), ["c", "a"])
            self.assertEqual(ask(name, [row("b"), "", plain, row("c"), row("a")], opener), ["b", "line-3", "c", "a"])
        self.assertEqual(ask("in.csv", ["custom_id,prompt", "c,c", 'a,"two\nlines"']), ["c", "a"])
        self.assertEqual(ask("in.csv", ["custom_id,prompt", 'a,"two\nlines"', "b,b", "c,c"]), ["a", "b", "c"])
        self.assertEqual(ask("un.csv", ["q", "x", "y"], prompt_column="q"), ["row-2", "row-3"])

    def test_simulated_runs_of_one_folder_may_go_on_at_once(self):
        ask = lambda number: gristmill.run([f"{number}-{n}" for n in range(20)], "m", simulate=True)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for rows in pool.map(ask, range(4)):
                self.assertEqual(len(rows.succeeded), 20)

    def test_every_option_works_or_is_refused(self):
        for call, message in (
            (lambda: gristmill.run(["a"], "m", dry_run=True), "run.. takes no dry_run"),
            (lambda: gristmill.run(["a"], "m", output="-"), "output is the path of a file"),
            (lambda: gristmill.run(["a"], "m", help=True), "run.. takes no help"),
            (lambda: gristmill.run(["a"], "m", json=True), "run.. takes no json"),
            (lambda: gristmill.run(["a"], "m", progress="bar"), "progress is 'bar'; give True"),
            (lambda: gristmill.run(["a"], "m", no_such_option=1), "there is no option no_such_option"),
            (lambda: gristmill.submit(["a"], "m", wait=True), "submit.. takes no wait: read gristmill.results"),
            (lambda: gristmill.results("x", output="y"), "results.. takes no output"),
            (lambda: gristmill.status("x", watch=True), "status.. takes no watch"),
        ):
            self.assertRaisesRegex(TypeError, message, call)
        with self.assertLogs("gristmill", "INFO"):
            rows = gristmill.run([{"q": "a"}], "m", simulate=True, verbose=True, prompt_column="q")
        self.assertEqual(len(rows.succeeded), 1)
        with self.assertRaises(gristmill.GristmillError) as caught:
            gristmill.run(["a"], "m", simulate=True, concurrency="many")
        self.assertRegex(caught.exception.message, "invalid value 'many' for 'concurrency'")

    def test_a_row_that_cannot_be_sent_is_told_by_its_number(self):
        with self.assertRaises(gristmill.GristmillError) as caught:
            gristmill.run(["fine", {"prompt": 3}, ""], "m", simulate=True)
        self.assertIn("rows: 2 of 3 rows cannot be sent", caught.exception.message)
        self.assertIn("row 1: prompt is 3, it must be a text", caught.exception.message)
        self.assertIn("row 2: prompt is empty", caught.exception.message)

    def test_an_interrupted_run_goes_on_and_pays_nothing_twice(self):
        base_url = self.simulator("--latency", "300ms")
        arguments = [sys.executable, "-c", INTERRUPTED, base_url]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as first:
            self.assertEqual(first.stdout.readline(), "going\n")
            first.send_signal(signal.SIGINT)
            out, err = first.communicate(timeout=support.DEADLINE_S)
        self.assertTrue(out.endswith("interrupted\n"), (out, err))
        self.assertIn("stopping: running calls finish", err)
        self.assertLess(gristmill.status()["succeeded"], 300)
        rows = gristmill.run([f"question {n}" for n in range(300)], "m", api_base=base_url)
        self.assertEqual((len(rows.succeeded), rows.summary["before"] > 0), (300, True))
        support.wait_for(lambda: self.assertGreaterEqual(support.calls(), 300), AssertionError, "the log of 300 calls")
        self.assertEqual(support.calls(), 300)

    def test_failed_requests_run_again_when_asked_to(self):
        base_url = self.simulator()
        ask = lambda **options: gristmill.run(["simulate:400,ok", "fine"], "m", api_base=base_url, **options)
        self.assertEqual([row["status"] for row in ask()], ["failed", "succeeded"])
        self.assertEqual([row["status"] for row in ask()], ["failed", "succeeded"])
        rows = ask(retry_failed=True)
        self.assertEqual([(row["status"], row["run"]) for row in rows], [("succeeded", 2), ("succeeded", 1)])

    def test_a_file_goes_in_and_files_come_out(self):
        line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions"}
        messages = [{"role": "user", "content": "simulate:400"}]
        with open("in.jsonl", "w") as file:
            for custom_id, body in (("one", {"messages": [{"role": "user", "content": "hi"}]}), ("two", {"messages": messages})):
                file.write(json.dumps({**line, "custom_id": custom_id, "body": {"model": "m", **body}}) + "\n")
        rows = gristmill.run("in.jsonl", simulate=True, output="out.jsonl")
        self.assertEqual([row["status"] for row in rows], ["succeeded", "failed"])
        self.assertTrue(os.path.exists("out.jsonl") and os.path.exists("out.errors.jsonl"))

    def test_a_mistake_is_an_error_with_its_remedy(self):
        for call, message, hint, exit_code in (
            (lambda: gristmill.status("x", db="no.db"), "there is no database no.db", "name one", 1),
            (lambda: gristmill.run(["a"], "gpt-4o"), "no key for api.openai.com: set OPENAI_API_KEY", "", 2),
            (lambda: gristmill.run(["a"], simulate=True), "row 0: has no model; add it, or give model", "", 1),
        ):
            with self.assertRaises(gristmill.GristmillError) as caught:
                call()
            error = caught.exception
            self.assertIn(message, error.message)
            self.assertIn(hint, error.hint or "")
            self.assertEqual(error.exit_code, exit_code)


class Submit(support.InFolder):
    def setUp(self):
        super().setUp()
        self.base_url = self.simulator()

    def test_what_is_submitted_is_followed_to_its_end(self):
        batch = gristmill.submit(["a", "b", "simulate:400"], "m", name="sweep")
        self.assertEqual((str(batch), batch.recorded, batch.already_there), ("sweep", 3, 0))
        self.assertEqual(gristmill.submit(["a", "b", "simulate:400"], "m", name="sweep").already_there, 3)
        self.assertEqual(gristmill.status(batch)["state"], "running")
        self.start("worker", "--model", "m", "--api-base", self.base_url)
        followed = list(gristmill.results(batch, follow=True))
        rows = gristmill.results(batch)
        self.assertEqual(sorted(row["custom_id"] for row in followed), ["row-0", "row-1", "row-2"])
        self.assertEqual([row["custom_id"] for row in rows], ["row-0", "row-1", "row-2"])
        self.assertEqual(gristmill.results(batch, cursor=rows.cursor), [])
        self.assertEqual(gristmill.retry(batch)["retried"], 1)

    def test_a_follower_may_leave_early(self):
        batch = gristmill.submit(["a", "b"], "m")
        worker = self.start("worker", "--model", "m", "--api-base", self.base_url)
        following = gristmill.results(batch, follow=True)
        next(following)
        support.end(worker)
        more = gristmill.submit(["a", "b", "c"], "m", name=str(batch))
        following.close()
        self.assertEqual(more.recorded, 1)
        self.assertTrue(gristmill.cancel(batch)["cancelled"])


if __name__ == "__main__":
    unittest.main()
