"""Batches: run, submit, look, steer."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from typing import IO, Any, Dict, Generator, Iterator, List, Literal, Optional, Sequence, Union, overload

from . import _options, _process, _progress, _results, _rows
from ._results import Results, Row


@dataclasses.dataclass(frozen=True)
class Batch:
    """A submitted batch; ``str(batch)`` is its name."""

    name: str
    id: str
    #: Jobs that this submission recorded.
    recorded: int
    #: Jobs that an earlier submission of the same name had recorded.
    already_there: int

    def __str__(self) -> str:
        return self.name


def run(
    rows: _rows.Rows,
    model: Union[str, Sequence[str], None] = None,
    *,
    name: Optional[str] = None,
    output: Union[str, "os.PathLike[str]", None] = None,
    progress: _progress.Style = None,
    **options: Any,
) -> Results:
    """Runs requests to their end, all on this machine, and returns a row for each.

    The same call again goes on where it stopped: nothing is paid twice. Ctrl-C lets running calls finish and keeps
    them; a second one stops at once.

    Args:
        rows: Strings (prompts); mappings with ``prompt`` or ``messages``, whose other keys come back as metadata;
            mappings in OpenAI's Batch form, of which ``custom_id``, ``method`` and ``url`` may be left out; a pandas
            frame with such columns; or the path of a file.
        model: Who answers, whatever the requests name; several ask each of them.
        name: The batch's name; one of this name that exists is continued, and only new and changed rows run. By
            default it is made from the rows, so that other rows are another batch.
        output: Also write OpenAI Batch lines to this file, errors beside it.
        progress: ``False`` shows none, ``True`` a bar even where nobody seems to look, a function gets each view:
            ``done``, ``total``, ``failed``, ``rate_per_s``, ``eta_s``, ``top_error`` …
        options: Options of ``gristmill run``: ``simulate=True``, ``api_base=…``, ``concurrency=64``,
            ``retry_failed=True``, ``set={"temperature": [0, 0.7]}`` …

    Raises:
        GristmillError: The command as a whole failed; where that has a class, as a refused key has, its class in
            ``gristmill.errors``. A request that failed is a row with an ``error``, and ``row.exception()`` makes an
            exception of it.

    Example:
        >>> rows = gristmill.run(["What is a mill?", "What is grist?"], model="gpt-4o-mini")
        >>> rows[0]["output_text"]
        >>> rows.to_frame()
    """
    target = "-" if output is None else os.fspath(output)
    with _input(rows, model, name) as (path, body, name), _progress.shown(progress) as show:
        given = {"model": model, "name": name, "output": target, "progress": "json" if show else "none", **options}
        notes = _process.Notes(show)
        lines = list(_process.lines(["run", "--json", *_options.flags(given), "--", path], body=body, notes=notes))
        # Where the results do not go there, the summary stands on standard output.
        summary = notes.last if output is None else lines[-1]
        if show:
            show(_end(summary))
    if output is not None:
        lines = [line for path in (summary["output"], summary["errors_output"]) if path for line in _results.read(path)]
    return Results(_results.latest(map(_results.row, lines)), batch=summary.get("batch"), summary=summary)


def submit(
    rows: _rows.Rows,
    model: Union[str, Sequence[str], None] = None,
    *,
    name: Optional[str] = None,
    progress: _progress.Style = None,
    **options: Any,
) -> Batch:
    """Records requests and queues them for workers anywhere; returns as soon as they are safe.

    Args:
        rows: As ``run`` takes them.
        model: Who answers, whatever the requests name.
        name: The batch's name; one of this name that exists is continued.
        progress: As ``run`` takes it; it shows what is recorded.
        options: Options of ``gristmill submit``: ``priority="bulk"``, ``database_url=…`` …

    Example:
        >>> batch = gristmill.submit(prompts, model="gpt-4o-mini", name="sweep-7")
        >>> for row in gristmill.results(batch, follow=True):
        ...     print(row["custom_id"], row["output_text"])
    """
    for option in ("wait", "output"):
        if option in options:
            raise TypeError(f"submit() takes no {option}: read gristmill.results(batch, follow=True)")
    with _input(rows, model, name) as (path, body, name), _progress.shown(progress) as show:
        given = {"model": model, "name": name, "progress": "json" if show else "none", **options}
        (told,) = _process.lines(["submit", "--json", *_options.flags(given), "--", path], body=body, progress=show)
    return Batch(told["batch"], told["id"], told["recorded"], told["already_there"])


@overload
def results(
    batch: Union[str, Batch] = ..., follow: Literal[False] = ..., *, cursor: Optional[str] = ..., **options: Any
) -> Results: ...


@overload
def results(
    batch: Union[str, Batch] = ..., follow: Literal[True] = ..., *, cursor: Optional[str] = ..., **options: Any
) -> Iterator[Row]: ...


def results(
    batch: Union[str, Batch] = "@last", follow: bool = False, *, cursor: Optional[str] = None, **options: Any
) -> Union[Results, Iterator[Row]]:
    """Reads the results of a batch.

    Args:
        batch: What ``submit`` returned, a name, an id, the beginning of one, or ``@last``.
        follow: Return an iterator that yields rows as they land and ends with the batch. A job that runs again comes
            as a later row.
        cursor: Go on behind this cursor, the ``cursor`` of an earlier read: each row is seen exactly once.
        options: Options of ``gristmill results``: ``limit=100``, ``db=…``, ``database_url=…`` …

    Example:
        >>> rows = gristmill.results("sweep-7")
        >>> later = gristmill.results("sweep-7", cursor=rows.cursor)
    """
    flags = _options.flags({"follow": follow, "cursor": cursor, **options})
    notes = _process.Notes()
    rows = _rows_of(_process.lines(["results", "--json", *flags, "--", str(batch)], notes=notes))
    if follow:
        return rows
    return Results(_results.latest(rows), batch=str(batch), cursor=notes.last.get("cursor"))


def _rows_of(lines: Generator[Dict[str, Any], None, None]) -> Iterator[Row]:
    # Whoever leaves early ends the program.
    with contextlib.closing(lines):
        yield from map(_results.row, lines)


def status(batch: Union[str, Batch] = "@last", **options: Any) -> Dict[str, Any]:
    """Tells how a batch stands: ``state``, ``total``, ``succeeded``, ``failed``, ``held``, ``errors`` …

    Example:
        >>> gristmill.status("sweep-7")["state"]
        'running'
    """
    return _one("status", batch, options)


def cancel(batch: Union[str, Batch], **options: Any) -> Dict[str, Any]:
    """Cancels a batch: no further call starts; calls that run finish and are kept.

    Example:
        >>> gristmill.cancel("sweep-7")["cancelled"]
        True
    """
    return _one("cancel", batch, options)


def retry(batch: Union[str, Batch], **options: Any) -> Dict[str, Any]:
    """Lets workers run the failed jobs of a batch again; after ``run``, call it with ``retry_failed=True`` instead.

    Example:
        >>> gristmill.retry("sweep-7", status=["failed", "cancelled"])["retried"]
        12
    """
    return _one("retry", batch, options)


def _end(summary: Dict[str, Any]) -> Dict[str, Any]:
    """Makes the last view of a run: the program shows none once everything has ended."""
    counted = {status: summary[status] for status in ("succeeded", "failed", "cancelled", "expired")}
    return {"batch": summary["batch"], "total": summary["total"], "done": sum(counted.values()), "running": 0, **counted}


def _one(command: str, batch: Union[str, Batch], options: Dict[str, Any]) -> Dict[str, Any]:
    (told,) = _process.lines([command, "--json", *_options.flags(options), "--", str(batch)])
    return told


@contextlib.contextmanager
def _input(
    rows: _rows.Rows, model: Union[str, Sequence[str], None], name: Optional[str]
) -> Iterator["tuple[str, Optional[IO[bytes]], Optional[str]]"]:
    """Opens what holds the rows: the path of a file, or standard input with the rows on it; and the name that goes with it.

    Of standard input the files that requests name are in the working directory, as they are for who calls this.
    """
    given = _rows.path_of(rows)
    if given is not None:
        yield given, None, name
        return
    with tempfile.TemporaryFile(prefix="gristmill-") as file:
        models: List[str] = [model] if isinstance(model, str) else list(model or ())
        made = _rows.write(rows, file, " ".join(models))
        file.seek(0)
        yield "-", file, name or made
