"""Records of every class, and pickles of them, which go from one environment to another.

``python records.py write|read FOLDER`` makes pickles, or reads those that were made elsewhere.
"""

import importlib.util
import json
import os
import pickle
import sys

from gristmill import errors

with open(os.path.join(os.path.dirname(__file__), "..", "..", "docs", "error.schema.json"), encoding="utf-8") as _file:
    SCHEMA = json.load(_file)
CLASSES = SCHEMA["$defs"]["class"]["anyOf"][0]["enum"]


def full(name):
    """Makes a record with every field, hard texts and fields of a later version."""
    return {
        "v": 1,
        "class": name,
        "message": 'too many\nof "them": ü 😀 \x00 \ud800 limit',
        "status": 402 if name == "InsufficientQuotaError" else 429,
        "code": "rate_limit_exceeded",
        "type": "tokens",
        "param": "messages",
        "provider": "openai",
        "model": "gpt-4o-mini",
        "deployment": "eu-1",
        "request_id": "req_1",
        "retry_after_ms": 6_823,
        "headers": {"retry-after": "7", "x-ratelimit-remaining-tokens": "0"},
        "body": '{"error": {"message": "too many", "type": "tokens"}}',
        "body_truncated": True,
        "causes": [{"kind": "timeout.idle", "message": "nothing came"}, {"kind": "reset", "message": "by peer"}],
        "retryable": True,
        "verdict": "its 2 retries are used up",
        "earlier": [{"attempt": 1, "class": "Timeout", "status": 408, "message": "late"}],
        "underlying": "OverloadedError",
        "partial_output": "Once upon",
        "region": "mars",
        "deep": {"a": [1, 2.5, None, {"b": 2**70}]},
    }


def least(name):
    """Makes a record with what must be there and nothing else."""
    return {"v": 1, "class": name, "message": "", "retryable": False}


RECORDS = [make(name) for name in (*CLASSES, "QuantumError") for make in (full, least)]


def write(folder):
    """Pickles an error of every record in every protocol."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with open(os.path.join(folder, str(protocol)), "wb") as file:
            pickle.dump([errors.from_record(record) for record in RECORDS], file, protocol)


def read(folder):
    """Reads what was pickled and checks that each is what it was; returns those of each protocol."""
    found = []
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with open(os.path.join(folder, str(protocol)), "rb") as file:
            made = pickle.load(file)
        assert [error.record for error in made] == RECORDS
        assert made == [errors.from_record(record) for record in RECORDS]
        for error in made:
            assert isinstance(error, getattr(errors, error.error_class, errors.RequestError)), error
            assert error.llm_provider == error.record.get("provider") and str(error) is not None
        found.append(made)
    return found


if __name__ == "__main__":
    assert not any(map(importlib.util.find_spec, ("litellm", "openai"))), "this is where they are not"
    {"write": write, "read": read}[sys.argv[1]](sys.argv[2])
