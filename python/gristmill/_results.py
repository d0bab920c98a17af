"""Results as rows: dictionaries, named as the columns of the view ``gristmill.results`` are (docs/tables.md)."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, SupportsIndex, Union, overload

from . import errors

#: Columns that a line holds under ``gristmill``, in the order of the row.
_OURS = (
    "model",
    "served_model",
    "provider",
    "deployment",
    "finish_reason",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_usd",
    "cached",
    "attempts",
    "queue_ms",
    "ttft_ms",
    "latency_ms",
    "finished_at",
    "simulated",
    "job_id",
    "batch_id",
    "run",
)

#: Of an error, what has a column of its own.
_ERROR = ("class", "status", "code", "message")
#: What OpenAI calls a request that was never sent, and the classes that say why.
_NEVER_SENT = {"batch_cancelled": "CancelledError", "batch_expired": "DeadlineExceededError"}


class Row(Dict[str, Any]):
    """One result: a dictionary with the columns of the view ``gristmill.results``.

    Example:
        >>> row["custom_id"], row["status"], row["output_text"]
    """

    def exception(self) -> Optional[errors.RequestError]:
        """Returns the error as an exception, which may be raised, pickled and compared; ``None`` of an answer.

        Example:
            >>> for row in rows.failed:
            ...     if isinstance(row.exception(), gristmill.errors.RateLimitError):
            ...         print(row["custom_id"], row.exception().retry_after)
        """
        error = self.get("error")
        return None if error is None else errors.from_record(error)


class Results(List[Row]):
    """Rows, one for each request that has ended: of ``run`` in the order of the input, of ``results`` in that of the
    recording. Slices and the two lists by status are ``Results`` as well.

    Attributes:
        batch: The batch's name.
        cursor: Where a later read goes on, for ``results(batch, cursor=...)``.
        summary: What the command counted: ``total``, ``succeeded``, ``failed``, ``seconds``, ``cost_usd`` and more.

    Example:
        >>> rows = gristmill.run(["One?", "Two?"], model="gpt-4o-mini")
        >>> [row["output_text"] for row in rows.succeeded]
        >>> [row["error"]["message"] for row in rows.failed]
        >>> rows.to_frame().groupby("model").latency_ms.median()
    """

    def __init__(
        self,
        rows: Iterable[Row] = (),
        *,
        batch: Optional[str] = None,
        cursor: Optional[str] = None,
        summary: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__(rows)
        self.batch = batch
        self.cursor = cursor
        self.summary = dict(summary or {})

    @overload
    def __getitem__(self, index: SupportsIndex) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> "Results": ...

    def __getitem__(self, index: Union[SupportsIndex, slice]) -> Union[Row, "Results"]:
        return self._of(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)

    @property
    def succeeded(self) -> "Results":
        """The rows that hold an answer."""
        return self._of(row for row in self if row["status"] == "succeeded")

    @property
    def failed(self) -> "Results":
        """The rows that hold an error: failed, expired and cancelled ones."""
        return self._of(row for row in self if row["status"] != "succeeded")

    def _of(self, rows: Iterable[Row]) -> "Results":
        return Results(rows, batch=self.batch, cursor=self.cursor, summary=self.summary)

    def to_frame(self) -> Any:
        """Returns a pandas frame: a row's columns, and one for each tag and each key of its metadata, unless a column
        has that name already. Numbers that a sweep varied are numbers.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas

        # Without rows there are columns all the same.
        return pandas.DataFrame([_flat(row) for row in self], columns=None if self else list(_COLUMNS))


def row(line: Mapping[str, Any]) -> Row:
    """Makes a row of a line in OpenAI's Batch output format."""
    ours = line["gristmill"]
    response = line.get("response") or {}
    succeeded = ours["status"] == "succeeded"
    body = response.get("body") if succeeded else None
    error = None if succeeded else ours.get("error") or _error(line)
    columns = {
        "custom_id": line["custom_id"],
        "status": ours["status"],
        "output_text": _output_text(body),
        "error": error,
        **{f"error_{name}": (error or {}).get(name) for name in _ERROR},
        **{name: ours.get(name) for name in _OURS},
        "cached": ours.get("cached", False),
        "request_id": response.get("request_id"),
        "tags": ours.get("tags") or {},
        "metadata": ours.get("metadata"),
        "response": body,
    }
    return Row(columns)


def latest(rows: Iterable[Row], key: Optional[Callable[[Row], Any]] = None) -> List[Row]:
    """Returns the latest run of each job, in the order of a key, else in that of the recording, which the ids have."""
    runs: Dict[str, Row] = {}
    for one in rows:
        before = runs.get(one["job_id"])
        if before is None or before["run"] <= one["run"]:
            runs[one["job_id"]] = one
    return sorted(runs.values(), key=key or (lambda one: one["job_id"]))


def _error(line: Mapping[str, Any]) -> Dict[str, Any]:
    """The error of a request that was never sent: it has a code and a message alone."""
    error = line.get("error") or {}
    code = error.get("code")
    return {
        "v": errors.SCHEMA_VERSION,
        "class": _NEVER_SENT.get(str(code), code),
        "code": code,
        "message": error.get("message"),
        "retryable": False,
    }


def _output_text(body: Any) -> Optional[str]:
    """Returns the text of a chat completion, a completion, a response of OpenAI's or a message of Anthropic's."""
    if not isinstance(body, dict):
        return None
    for choice in body.get("choices") or ():
        text: Optional[str] = (choice.get("message") or choice).get("content", choice.get("text"))
        return text
    parts = [part for item in body.get("output") or [body] for part in item.get("content") or ()]
    texts = [part["text"] for part in parts if part.get("type") in ("output_text", "text")]
    return "".join(texts) if texts else None


def _flat(one: Row) -> Row:
    metadata = one["metadata"] if isinstance(one["metadata"], dict) else {}
    # A sweep's values stand in the custom id, but for the first sample.
    swept = {"sample=0", *one["custom_id"].split("|")[1:]}
    tags = {name: _number(value) if f"{name}={value}" in swept else value for name, value in one["tags"].items()}
    return {**metadata, **tags, **one}


def _number(text: str) -> Any:
    """Returns the number that a text of JSON is, else the text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else text


def read(path: str) -> Iterator[Dict[str, Any]]:
    """Reads the lines of a file of results."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


#: The columns of a frame without tags and metadata.
_COLUMNS = tuple(row({"custom_id": "", "gristmill": {"status": "succeeded"}}))
