"""Runs large numbers of LLM requests, and loses none.

>>> import gristmill
>>> rows = gristmill.run(["What is a mill?", "What is grist?"], model="gpt-4o-mini", simulate=True)
>>> rows.to_frame()[["custom_id", "output_text", "latency_ms"]]

Everything is done by the program ``gristmill``, which this package brings and starts.
"""

from . import errors
from ._batches import Batch, cancel, results, retry, run, status, submit
from ._completion import AsyncStream, Completion, Stream, acompletion, completion
from ._results import Results, Row
from .errors import GristmillError, RequestError

__all__ = [
    "AsyncStream",
    "Batch",
    "Completion",
    "GristmillError",
    "RequestError",
    "Results",
    "Row",
    "Stream",
    "acompletion",
    "cancel",
    "completion",
    "errors",
    "results",
    "retry",
    "run",
    "status",
    "submit",
]
