"""Runs large numbers of LLM requests, and loses none.

>>> import gristmill
>>> rows = gristmill.run(["What is a mill?", "What is grist?"], model="gpt-4o-mini", simulate=True)
>>> rows.to_frame()[["custom_id", "output_text", "latency_ms"]]

Everything is done by the program ``gristmill``, which this package brings and starts.
"""

from ._batches import Batch, cancel, results, retry, run, status, submit
from ._completion import Completion, acompletion, completion
from ._results import Results
from .errors import GristmillError

__all__ = [
    "Batch",
    "Completion",
    "GristmillError",
    "Results",
    "acompletion",
    "cancel",
    "completion",
    "results",
    "retry",
    "run",
    "status",
    "submit",
]
