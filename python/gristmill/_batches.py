"""Batches: run, submit, look, steer."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from typing import IO, Any, Dict, Generator, Iterator, List, Literal, Mapping, NamedTuple, Optional, Sequence, Union, overload

from . import _options, _order, _process, _progress, _results, _rows
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
    """Runs requests to their end and returns a row for each, in the order of the input.

    All of it happens on this machine, except beside RabbitMQ and Postgres, where the fleet's workers share the jobs. The
    same call again goes on where it stopped: nothing is paid twice. Ctrl-C lets running calls finish and keeps them; a
    second one stops at once. Where this process is killed, the calls that run then finish too, for half a minute at most.

    Args:
        rows: Strings (prompts); mappings with ``prompt`` or ``messages``, whose other keys come back as metadata;
            mappings in OpenAI's Batch form, of which ``custom_id``, ``method`` and ``url`` may be left out; a pandas
            frame with such columns; or the path of a file. A row with ``body`` or ``params`` holds nothing else.
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
        TypeError, ValueError: A row or an option cannot be what it is; the message has the row's number.
        FileNotFoundError: There is no such file.

    Example:
        >>> rows = gristmill.run(["What is a mill?", "What is grist?"], model="gpt-4o-mini")
        >>> rows[0]["output_text"]
        >>> rows.to_frame()
    """
    _options.refuse("run", options)
    if output is not None and os.fspath(output) == "-":
        raise TypeError("run() takes no output '-': the rows are what it returns; output is the path of a file")
    target = "-" if output is None else os.fspath(output)
    models = _models(model)
    with _input(rows, models, name, options) as given, _progress.shown(progress) as show:
        flags = {"model": models, "name": given.name, "output": target, "progress": "json" if show else "none", **options}
        notes = _process.Notes(show, of_rows=given.stdin is not None)
        arguments = ["run", "--json", *_options.flags(flags), "--", given.path]
        lines = list(_process.lines(arguments, stdin=given.stdin, notes=notes))
        # Where the results do not go there, the summary stands on standard output.
        summary = notes.last if output is None else lines[-1]
        if show:
            show(_end(summary))
    if output is not None:
        lines = [line for path in (summary["output"], summary["errors_output"]) if path for line in _results.read(path)]
    if given.custom_ids is None:
        order = _order.of_file(given.path, options, models)
    else:
        order = _order.of_rows(given.custom_ids, options, models)
    return Results(_results.latest(map(_results.row, lines), order.key), batch=summary.get("batch"), summary=summary)


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
    _options.refuse("submit", options)
    models = _models(model)
    with _input(rows, models, name, options) as given, _progress.shown(progress) as show:
        flags = {"model": models, "name": given.name, "progress": "json" if show else "none", **options}
        notes = _process.Notes(show, of_rows=given.stdin is not None)
        arguments = ["submit", "--json", *_options.flags(flags), "--", given.path]
        (told,) = _process.lines(arguments, stdin=given.stdin, notes=notes)
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
    """Reads the results of a batch, in the order in which its requests were recorded; what came later stands last.

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
    _options.refuse("results", options)
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
    _options.refuse(command, options)
    (told,) = _process.lines([command, "--json", *_options.flags(options), "--", str(batch)])
    return told


def _models(model: Union[str, Sequence[str], None]) -> List[str]:
    return [model] if isinstance(model, str) else list(model or ())


class _Input(NamedTuple):
    """What the program reads."""

    path: str
    name: Optional[str]
    #: What stands for ``-``.
    stdin: Optional[IO[bytes]] = None
    #: The rows' names, unless they are in a file of the caller's.
    custom_ids: Optional[List[str]] = None


@contextlib.contextmanager
def _input(
    rows: _rows.Rows, models: Sequence[str], name: Optional[str], options: Mapping[str, Any]
) -> Iterator[_Input]:
    """Opens what holds the rows, and finds the name that goes with it."""
    given = _rows.path_of(rows)
    if given is not None:
        yield _Input(given, name)
        return
    # It has no name, so that it ends with the last process that has it open.
    with tempfile.TemporaryFile() as file:
        written = _rows.write(rows, file, " ".join(models), options.get("prompt_column") or "prompt")
        file.seek(0)
        yield _Input("-", name or written.name, file, written.custom_ids)
