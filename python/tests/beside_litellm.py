"""Errors beside LiteLLM and OpenAI's client. scripts/test-python runs this where they are installed."""

import concurrent.futures
import inspect
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import unittest

# It would ask for prices over the network.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import gristmill
import httpx
import jsonschema
import litellm
import openai
import records
import support
from gristmill import errors

#: An interpreter that has this package and neither of theirs.
CLEAN = os.environ.get("GRISTMILL_TEST_CLEAN_PYTHON", "")
HERE = os.path.dirname(os.path.abspath(__file__))

#: What each class is caught as: by LiteLLM's users, and by those of OpenAI's client alone.
CAUGHT = {
    "AuthenticationError": ("AuthenticationError", "AuthenticationError"),
    "PermissionDeniedError": ("PermissionDeniedError", "PermissionDeniedError"),
    "NotFoundError": ("NotFoundError", "NotFoundError"),
    "BadRequestError": ("BadRequestError", "BadRequestError"),
    "UnprocessableEntityError": ("UnprocessableEntityError", "UnprocessableEntityError"),
    "UnsupportedParamsError": ("UnsupportedParamsError", "BadRequestError"),
    "ContextWindowExceededError": ("ContextWindowExceededError", "BadRequestError"),
    "ContentPolicyViolationError": ("ContentPolicyViolationError", "BadRequestError"),
    "RequestTooLargeError": ("BadRequestError", "APIStatusError"),
    "InsufficientQuotaError": ("RateLimitError", "RateLimitError"),
    "RateLimitError": ("RateLimitError", "RateLimitError"),
    "ConflictError": (None, "ConflictError"),
    "Timeout": ("Timeout", "APITimeoutError"),
    "InternalServerError": ("InternalServerError", "InternalServerError"),
    "BadGatewayError": ("BadGatewayError", "InternalServerError"),
    "ServiceUnavailableError": ("ServiceUnavailableError", "InternalServerError"),
    "OverloadedError": ("InternalServerError", "InternalServerError"),
    "APIConnectionError": ("APIConnectionError", "APIConnectionError"),
    "APIResponseValidationError": ("APIResponseValidationError", "APIResponseValidationError"),
    "JSONSchemaValidationError": ("JSONSchemaValidationError", "APIResponseValidationError"),
    "LengthFinishReasonError": (None, "LengthFinishReasonError"),
    "MidStreamError": ("MidStreamFallbackError", "APIError"),
    "BudgetExceededError": ("BudgetExceededError", None),
    "CancelledError": (None, "OpenAIError"),
    "DeadlineExceededError": ("Timeout", "APITimeoutError"),
    "WorkerCrashedError": (None, "OpenAIError"),
    "InvalidMessageError": (None, "OpenAIError"),
    "UnknownModelGroupError": ("NotFoundError", "NotFoundError"),
    "StoreRejectedError": (None, "OpenAIError"),
    "APIError": ("APIError", "APIError"),
    "QuantumError": ("APIError", "APIError"),
}


def theirs(package, name):
    """Returns a class of theirs, also one that LiteLLM names in a module alone."""
    return getattr(package, name, None) or getattr(package.exceptions, name)


def caught_by(error, clause):
    """Tells whether an except clause catches an error."""
    try:
        raise error
    except clause:
        return True
    except Exception:
        return False


def python(*arguments):
    """Runs this interpreter without anything imported."""
    subprocess.run([sys.executable, *arguments], check=True, timeout=support.DEADLINE_S, cwd=HERE)


class Clauses(unittest.TestCase):
    def test_existing_except_clauses_catch_every_class(self):
        self.assertEqual(list(CAUGHT), [*records.CLASSES, "QuantumError"])
        for name, (by_litellm, by_openai) in CAUGHT.items():
            error = errors.from_record(records.least(name))
            for clause in (
                by_litellm and theirs(litellm, by_litellm),
                by_openai and getattr(openai, by_openai),
                getattr(errors, name, errors.RequestError),
                gristmill.GristmillError,
            ):
                self.assertTrue(clause is None or caught_by(error, clause), (name, clause))
            self.assertEqual((type(error).__module__, type(error).__name__), ("gristmill.errors", type(error).__qualname__))
        self.assertFalse(caught_by(errors.from_record(records.least("RateLimitError")), litellm.Timeout))
        self.assertFalse(caught_by(errors.from_record(records.least("BadRequestError")), litellm.ContextWindowExceededError))

    def test_no_money_is_caught_by_its_status(self):
        paid = errors.from_record({**records.least("InsufficientQuotaError"), "status": 402})
        self.assertTrue(caught_by(paid, theirs(litellm, "PaymentRequiredError")))
        self.assertFalse(caught_by(paid, openai.RateLimitError))
        self.assertTrue(caught_by(errors.InsufficientQuotaError("m", status=429), openai.RateLimitError))

    def test_a_class_that_is_raised_by_hand_is_caught_as_well(self):
        self.assertTrue(caught_by(errors.Timeout("late"), litellm.Timeout))
        again = type(errors.Timeout("late"))("later", provider="openai")
        self.assertEqual((again.message, again.error_class, again.llm_provider), ("later", "Timeout", "openai"))

        class Mine(errors.RateLimitError):
            pass

        self.assertTrue(caught_by(Mine("mine"), openai.RateLimitError))

    def test_with_openais_client_alone_its_clauses_catch(self):
        code = (
            "import json, openai, sys\n"
            "from gristmill import errors\n"
            "for name, other in json.loads(sys.argv[1]).items():\n"
            "    try:\n"
            "        raise errors.from_record({'class': name, 'message': 'm'})\n"
            "    except getattr(openai, other):\n"
            "        assert 'litellm' not in sys.modules\n"
        )
        python("-c", code, json.dumps({name: other for name, (_, other) in CAUGHT.items() if other}))

    def test_who_imports_them_later_finds_the_error_to_be_theirs(self):
        code = (
            "from gristmill import errors; import sys\n"
            "error = errors.RateLimitError('m')\n"
            "assert type(error) is errors.RateLimitError and not {'litellm', 'openai'} & set(sys.modules)\n"
            "import openai\n"
            "assert isinstance(error, openai.RateLimitError) and not isinstance(error, openai.APITimeoutError)\n"
        )
        python("-c", code)

    def test_their_attributes_are_there(self):
        known = {"message": "m", "model": "gpt-4o", "llm_provider": "openai", "status_code": 500, "current_cost": 1.0}
        known["response"] = httpx.Response(500, request=httpx.Request("POST", "http://127.0.0.1"))
        compared = 0
        for name, (by_litellm, _) in CAUGHT.items():
            if by_litellm is None:
                continue
            kind = theirs(litellm, by_litellm)
            parameters = inspect.signature(kind).parameters.values()
            needed = {one.name: known.get(one.name) for one in parameters if one.default is one.empty}
            for attribute in vars(kind(**needed)):
                self.assertTrue(hasattr(errors.from_record(records.full(name)), attribute), (name, attribute))
                compared += 1
        self.assertGreater(compared, 200)


class Schema(unittest.TestCase):
    def test_it_takes_every_record_and_those_of_a_later_version(self):
        # A validator comes with LiteLLM.
        jsonschema.Draft202012Validator.check_schema(records.SCHEMA)
        schema = jsonschema.Draft202012Validator(records.SCHEMA)
        for record in records.RECORDS:
            schema.validate(record)
        for wrong in ({"status": "429"}, {"class": ""}, {"retryable": None}, {"earlier": [{"attempt": 0}]}):
            self.assertFalse(schema.is_valid({**records.full("Timeout"), **wrong}), wrong)
        self.assertFalse(schema.is_valid({"v": 1, "class": "Timeout", "message": ""}))


class Travel(support.InFolder):
    def clean(self, *arguments):
        self.assertTrue(CLEAN, "GRISTMILL_TEST_CLEAN_PYTHON is not set")
        subprocess.run([CLEAN, os.path.join(HERE, "records.py"), *arguments], check=True, timeout=support.DEADLINE_S)

    def test_what_is_pickled_here_is_read_where_litellm_is_not(self):
        records.write(".")
        self.clean("read", ".")

    def test_what_is_pickled_where_litellm_is_not_is_caught_here(self):
        self.clean("write", ".")
        for made in records.read("."):
            for error in made:
                by_litellm = CAUGHT[error.error_class][0]
                if error.error_class == "InsufficientQuotaError" and error.status_code == 402:
                    by_litellm = "PaymentRequiredError"
                self.assertTrue(by_litellm is None or caught_by(error, theirs(litellm, by_litellm)), repr(error))

    def test_a_pickle_names_nothing_of_theirs(self):
        for record in records.RECORDS:
            pickled = pickle.dumps(errors.from_record({**record, "provider": "x", "message": "m", "body": ""}))
            self.assertFalse(b"litellm" in pickled or b"openai" in pickled or b"httpx" in pickled, pickled)

    def test_a_pool_of_processes_raises_what_its_worker_raised(self):
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            for record in records.RECORDS:
                raised = pool.submit(fail, record).exception(support.DEADLINE_S)
                self.assertEqual((type(raised), raised.record), (type(errors.from_record(record)), record))

    def test_calls_raise_what_existing_clauses_catch(self):
        def ask(content, **parameters):
            gristmill.completion(model="m", messages=[{"role": "user", "content": content}], **parameters)

        base_url = self.simulator()
        with self.assertRaises(litellm.BadRequestError) as caught:
            ask("simulate:400", api_base=base_url)
        self.assertEqual((caught.exception.status_code, caught.exception.llm_provider), (400, "openai"))
        with self.assertRaises(litellm.ContextWindowExceededError):
            ask("simulate:400:code=context_length_exceeded", api_base=base_url)
        with self.assertRaises(openai.APITimeoutError):
            ask("simulate:timeout", api_base=base_url, timeout=1, num_retries=0)
        with self.assertRaises(litellm.AuthenticationError):
            gristmill.completion(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])


def fail(record):
    """Raises in another process."""
    raise errors.from_record(record)


if __name__ == "__main__":
    unittest.main()
