"""Errors of requests: their classes, what they hold, and how they travel. beside_litellm.py has them beside LiteLLM."""

import concurrent.futures
import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import traceback
import unittest

import gristmill
import records
import support
from gristmill import _process, _results, errors

#: What is made of one record by its reader.
FULL = records.full("RateLimitError")


class Mine(errors.RateLimitError):
    """Somebody's own."""

    def __init__(self, wait):
        super().__init__(f"wait {wait}", retry_after_ms=wait)


class Record(unittest.TestCase):
    def test_the_classes_are_those_of_the_schema_and_each_says_so(self):
        self.assertEqual(set(errors._CLASSES), set(records.CLASSES))
        for name in records.CLASSES:
            kind = getattr(errors, name)
            self.assertTrue(issubclass(kind, gristmill.RequestError) and kind.__doc__, name)
            self.assertEqual(type(errors.from_record(records.full(name))), kind)

    def test_what_a_record_holds_can_be_asked_for(self):
        error = errors.from_record(FULL)
        for attribute, value in {
            "error_class": "RateLimitError",
            "message": FULL["message"],
            "status_code": 429,
            "code": "rate_limit_exceeded",
            "type": "tokens",
            "param": "messages",
            "llm_provider": "openai",
            "model": "gpt-4o-mini",
            "deployment": "eu-1",
            "request_id": "req_1",
            "retry_after": 6.823,
            "body": {"message": "too many", "type": "tokens"},
            "causes": FULL["causes"],
            "attempts": FULL["earlier"],
            "num_retries": 1,
            "retryable": True,
            "verdict": "its 2 retries are used up",
            "partial_output": "Once upon",
            "underlying": "OverloadedError",
            "record": FULL,
            "error": FULL,
            "exit_code": 3,
            "hint": None,
            "args": (FULL["message"],),
        }.items():
            self.assertEqual(getattr(error, attribute), value, attribute)
        self.assertEqual((error.response.status_code, error.response.headers.get("Retry-After")), (429, "7"))
        self.assertEqual((error.headers["RETRY-AFTER"], "Retry-After" in error.headers), ("7", True))
        self.assertEqual((error.response.text, error.response.json()["error"]["type"]), (FULL["body"], "tokens"))
        self.assertEqual(error.response.content, FULL["body"].encode())
        self.assertIsNot(error.record, FULL)

    def test_without_an_answer_there_is_the_status_that_litellm_gives(self):
        for name, status in (("Timeout", 408), ("APIConnectionError", 500), ("DeadlineExceededError", 408), ("New", 500)):
            error = errors.from_record(records.least(name))
            self.assertEqual((error.status_code, error.response, error.body, error.retry_after), (status, None, None, None))
            self.assertNotIn("status", error.record)

    def test_a_body_is_what_it_is(self):
        for text, body in (
            ('{"message": "m"}', {"message": "m"}),
            ('{"error": "text"}', "text"),
            ("[1]", [1]),
            ('{"error": {"mess', '{"error": {"mess'),
            ("<html>", "<html>"),
        ):
            self.assertEqual(errors.from_record({**records.least("APIError"), "body": text}).body, body)

    def test_it_reads_well(self):
        error = errors.from_record({**FULL, "message": "Rate limit reached"})
        told = "Rate limit reached (status 429; openai gpt-4o-mini; request req_1; retry after 6.823 s; after 2 calls)"
        self.assertEqual(str(error), f"{told}\ncaused by timeout.idle: nothing came\ncaused by reset: by peer")
        self.assertEqual(
            repr(error),
            "RateLimitError('Rate limit reached', status=429, code='rate_limit_exceeded', provider='openai', "
            "model='gpt-4o-mini', deployment='eu-1', request_id='req_1', retry_after_ms=6823)",
        )
        (line, *_) = traceback.format_exception_only(type(error), error)
        self.assertTrue(line.startswith("gristmill.errors.RateLimitError: Rate limit reached (status 429"), line)
        least = errors.from_record({**records.least("QuantumError"), "message": "m"}, hint="wait")
        self.assertEqual((str(least), repr(least)), ("m\nhint: wait", "RequestError('m', error_class='QuantumError')"))

    def test_equal_records_are_equal_errors(self):
        self.assertEqual(errors.from_record(FULL), errors.from_record(copy.deepcopy(FULL)))
        self.assertEqual(len({errors.from_record(FULL), errors.from_record(FULL)}), 1)
        for field in FULL:
            self.assertNotEqual(errors.from_record(FULL), errors.from_record({**FULL, field: "another"}), field)
        self.assertNotEqual(errors.from_record(FULL), ValueError(FULL["message"]))

    def test_what_a_later_version_changes_stays_in_the_record(self):
        odd = {"class": ["x"], "message": 7, "status": "late", "headers": [1], "causes": [1], "retry_after_ms": "1s", "body": 3}
        error = errors.from_record(odd)
        self.assertEqual((type(error), error.record, str(error)), (errors.RequestError, odd, "7"))
        self.assertEqual(pickle.loads(pickle.dumps(error)).record, odd)
        self.assertRaises(TypeError, errors.from_record, {"class": object()})

    def test_one_can_be_made_without_a_record(self):
        error = errors.RateLimitError("slow down", status=429, provider="openai", retry_after_ms=20)
        record = {"v": 1, "class": "RateLimitError", "message": "slow down", "retryable": False}
        self.assertEqual(error.record, {**record, "status": 429, "provider": "openai", "retry_after_ms": 20})
        self.assertEqual(error.retry_after, 0.02)
        self.assertEqual(errors.from_record(error.record), error)

    def test_classes_lie_below_each_other_as_litellms_do(self):
        for name, above in (
            ("ContextWindowExceededError", errors.BadRequestError),
            ("ContentPolicyViolationError", errors.BadRequestError),
            ("UnsupportedParamsError", errors.BadRequestError),
            ("JSONSchemaValidationError", errors.APIResponseValidationError),
            ("DeadlineExceededError", errors.Timeout),
            ("UnknownModelGroupError", errors.NotFoundError),
        ):
            self.assertIsInstance(errors.from_record(records.least(name)), above)

    def test_a_broken_stream_tells_what_came_and_what_broke_it(self):
        error = errors.from_record(records.full("MidStreamError"))
        self.assertEqual(error.generated_content, "Once upon")
        self.assertEqual(type(error.original_exception), errors.OverloadedError)
        self.assertIsNone(errors.from_record(records.least("MidStreamError")).original_exception)


class Travel(support.InFolder):
    def test_every_error_survives_pickles_and_copies(self):
        records.write(".")
        records.read(".")
        for record in records.RECORDS:
            error = errors.from_record(record, hint="wait", exit_code=2)
            for made in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
                self.assertEqual((type(made), made, vars(made).keys()), (type(error), error, vars(error).keys()))
                self.assertEqual((made.hint, made.exit_code, made.args), ("wait", 2, error.args))

    def test_notes_and_classes_of_somebodys_own_come_along(self):
        error = errors.from_record(FULL)
        error.__notes__ = ["on line 7"]
        self.assertEqual(pickle.loads(pickle.dumps(error)).__notes__, ["on line 7"])
        for made in (pickle.loads(pickle.dumps(Mine(20))), copy.deepcopy(Mine(20))):
            self.assertEqual((type(made), made.retry_after, made.error_class), (Mine, 0.02, "RateLimitError"))

    def test_a_pool_of_processes_raises_what_its_worker_raised(self):
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            for record in records.RECORDS:
                raised = pool.submit(fail, record).exception(support.DEADLINE_S)
                self.assertEqual((type(raised), raised.record), (type(errors.from_record(record)), record))
            self.assertEqual(pool.submit(abs, -1).result(support.DEADLINE_S), 1, "the pool is whole")
        with context.Pool(1) as pool, self.assertRaises(errors.RateLimitError) as caught:
            pool.apply(fail, (FULL,))
        self.assertEqual(caught.exception, errors.from_record(FULL))

    def test_nothing_that_takes_long_is_imported(self):
        code = (
            "import gristmill, sys\n"
            "gristmill.errors.from_record({'class': 'Timeout', 'message': 'm'})\n"
            "assert not {'litellm', 'openai', 'httpx', 'pandas'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=support.DEADLINE_S)


class Rows(unittest.TestCase):
    def line(self, **ours):
        return {"custom_id": "a", "gristmill": {"status": "failed", "job_id": "j", "run": 1, **ours}}

    def test_a_row_makes_an_exception_of_its_error(self):
        row = _results.row(self.line(error=FULL))
        self.assertEqual(row.exception(), errors.from_record(FULL))
        self.assertEqual(pickle.loads(pickle.dumps(row)).exception(), row.exception())
        answer = {"status_code": 200, "body": {"choices": []}}
        self.assertIsNone(_results.row({**self.line(status="succeeded"), "response": answer}).exception())

    def test_a_request_that_was_never_sent_has_a_class(self):
        for status, code, kind in (
            ("cancelled", "batch_cancelled", errors.CancelledError),
            ("expired", "batch_expired", errors.DeadlineExceededError),
        ):
            row = _results.row({**self.line(status=status), "error": {"code": code, "message": "m"}})
            self.assertEqual((type(row.exception()), row.exception().code, row["error"]["class"]), (kind, code, kind.__name__))


class Commands(support.InFolder):
    def ask(self, content, **parameters):
        return gristmill.completion(model="m", messages=[{"role": "user", "content": content}], **parameters)

    def test_a_call_raises_the_class_of_what_was_stored(self):
        base_url = self.simulator()
        for content, kind in (
            ("simulate:400", errors.BadRequestError),
            ("simulate:422", errors.UnprocessableEntityError),
            ("simulate:500", errors.InternalServerError),
            ("simulate:400:code=context_length_exceeded", errors.ContextWindowExceededError),
        ):
            with self.assertRaises(kind) as caught:
                self.ask(content, api_base=base_url, num_retries=0)
            error = caught.exception
            self.assertEqual((type(error), error.exit_code, error.llm_provider), (kind, 3, "openai"))
            self.assertTrue(error.request_id and error.body["message"] and not error.attempts, vars(error))

    def test_attempts_are_told(self):
        with self.assertRaises(errors.InternalServerError) as caught:
            self.ask("simulate:503,500", api_base=self.simulator(), num_retries=1)
        self.assertEqual([attempt["class"] for attempt in caught.exception.attempts], ["ServiceUnavailableError"])

    def test_what_keeps_a_call_from_being_made_has_a_class_as_well(self):
        with self.assertRaises(errors.AuthenticationError) as caught:
            gristmill.completion(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
        self.assertEqual((caught.exception.exit_code, caught.exception.retryable), (2, False))
        self.assertIn("set OPENAI_API_KEY", caught.exception.message)
        with self.assertRaises(errors.AuthenticationError):
            gristmill.run(["a"], "gpt-4o")

    def test_rows_of_a_run_are_exceptions_too(self):
        rows = gristmill.run(["fine", "simulate:400"], "m", simulate=True)
        fine, failed = rows
        self.assertIsNone(fine.exception())
        with self.assertRaises(errors.BadRequestError) as caught:
            raise failed.exception()
        self.assertEqual(caught.exception.record, failed["error"])

    def test_a_program_that_fails_without_a_row_is_heard(self):
        notes = _process.Notes()
        notes.take('{"error": {"message": "in time", "hint": "h", "exit_code": 3, "class": "DeadlineExceededError"}}\n')
        notes.check(3, told=True)
        with self.assertRaises(errors.DeadlineExceededError) as caught:
            notes.check(3, told=False)
        self.assertEqual((caught.exception.hint, caught.exception.exit_code), ("h", 3))

    def test_files_that_rows_name_are_in_the_working_directory(self):
        with open("photo.png", "wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n" + bytes(100))
        part = {"type": "image_url", "image_url": {"url": "file:photo.png"}}
        messages = [{"role": "user", "content": [part]}]
        self.assertEqual(len(gristmill.run([{"messages": messages}], "m", simulate=True).succeeded), 1)
        answer = gristmill.completion(model="m", messages=messages, gristmill={"simulate": True})
        self.assertTrue(answer.choices[0].message.content)
        os.remove("photo.png")
        with self.assertRaisesRegex(gristmill.GristmillError, "row 0: reading photo.png failed"):
            gristmill.run([{"messages": messages}], "m", simulate=True)


def fail(record):
    """Raises in another process."""
    raise errors.from_record(record)


if __name__ == "__main__":
    unittest.main()
