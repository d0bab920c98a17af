"""One run of the program: JSON lines in and out, progress, errors, interruption.

The program runs in a session of its own, so that Ctrl-C reaches Python alone and is passed on once: the first lets
running calls finish, the second stops. If this process dies, the program meets a closed pipe and stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import queue
import signal
import subprocess
import tempfile
import threading
from typing import IO, Any, Callable, Generator, Iterator, Mapping, Optional, Sequence, Union

from . import _binary
from .errors import SCHEMA_VERSION, GristmillError, from_record

logger = logging.getLogger("gristmill")

Progress = Callable[[Mapping[str, Any]], None]

#: Everything has ended, some jobs without success: the rows say which.
_SOME_FAILED = 3
_INTERRUPTED = 130
#: Lines that are read ahead of who consumes them.
_AHEAD = 1_000


class Notes:
    """What the program tells on standard error."""

    def __init__(self, progress: Optional[Progress] = None) -> None:
        self.last: dict[str, Any] = {}
        self.progress = progress
        self._error: dict[str, Any] = {}
        self._text: list[str] = []

    def take(self, line: str) -> None:
        """Takes a line: progress, an error, the summary, or words for people."""
        value = _json_object(line)
        if value is None:
            self._say(line.rstrip())
        elif isinstance(value.get("error"), dict):
            self._error = value["error"]
        elif "done" in value and "total" in value and "complete" not in value:
            if self.progress is not None:
                self.progress(value)
        else:
            self.last = value

    def check(self, exit_code: int, told: bool) -> None:
        """Raises what the program failed with; ``told`` says whether it wrote results."""
        if exit_code == 0 or (exit_code == _SOME_FAILED and (told or not self._error)):
            return
        error = self._error or self._usage_error()
        message = error.get("message") or (
            "interrupted; the same call goes on where this one stopped"
            if exit_code == _INTERRUPTED
            else f"the program ended with exit code {exit_code}"
        )
        hint = error.get("hint")
        if error.get("class"):
            record = {"v": SCHEMA_VERSION, "class": error["class"], "message": message, "retryable": False}
            raise from_record(record, hint=hint, exit_code=exit_code)
        raise GristmillError(message, hint=hint, exit_code=exit_code)

    def _say(self, line: str) -> None:
        if not line:
            return
        self._text.append(line)
        # What a long run says in between is of no use at its end.
        del self._text[:-50]
        if line.startswith(("warning: ", "stopping")):
            logger.warning("%s", line)
        else:
            logger.info("%s", line)

    def _usage_error(self) -> dict[str, Any]:
        """Finds what is wrong with the arguments, which comes as words: `error: …`, indented lines, `  tip: …`."""
        message: list[str] = []
        hint = None
        for line in self._text:
            if line.startswith("error: "):
                message = [line[len("error: ") :]]
            elif line.startswith("  tip: "):
                hint = line[len("  tip: ") :]
            elif line.startswith("  ") and message and hint is None:
                message.append(line.strip())
        return {"message": " ".join(message), "hint": hint}


def lines(
    arguments: Sequence[str],
    *,
    body: Union[bytes, IO[bytes], None] = None,
    environment: Optional[Mapping[str, str]] = None,
    progress: Optional[Progress] = None,
    notes: Optional[Notes] = None,
) -> Generator[dict[str, Any], None, None]:
    """Runs the program, with a body or an open file as its standard input, and yields the JSON lines of its standard
    output; raises what it failed with."""
    notes = notes or Notes(progress)
    with contextlib.ExitStack() as stack:
        process = _start(arguments, body, environment, stack)
        events: queue.Queue[tuple[str, str]] = queue.Queue(_AHEAD)
        for name, pipe in (("out", process.stdout), ("note", process.stderr)):
            threading.Thread(target=_pump, args=(name, pipe, events), daemon=True).start()
        reading = _events(process, events)
        stack.push(functools.partial(_finish, process, reading, notes))
        interrupted = told = False
        for kind, text in reading:
            if kind == "interrupt":
                interrupted = True
            elif kind == "note":
                notes.take(text)
            elif text.strip():
                told = True
                yield json.loads(text)
        exit_code = process.wait()
        if interrupted:
            raise KeyboardInterrupt
        notes.check(exit_code, told)


async def collect(
    arguments: Sequence[str], *, body: bytes, environment: Optional[Mapping[str, str]] = None
) -> list[dict[str, Any]]:
    """Runs the program without holding up the event loop and returns the JSON lines of its standard output."""
    process = await asyncio.create_subprocess_exec(
        _binary.find(),
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(environment),
        start_new_session=True,
    )
    try:
        out, err = await process.communicate(body)
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            _interrupt(process)
        raise
    notes = Notes()
    for line in err.decode("utf-8", "replace").splitlines():
        notes.take(line)
    told = [json.loads(line) for line in out.splitlines() if line.strip()]
    notes.check(await process.wait(), bool(told))
    return told


def _start(
    arguments: Sequence[str],
    body: Union[bytes, IO[bytes], None],
    environment: Optional[Mapping[str, str]],
    stack: contextlib.ExitStack,
) -> subprocess.Popen[str]:
    stdin: Any = subprocess.DEVNULL
    if body is not None and not isinstance(body, bytes):
        stdin = body
    elif body is not None:
        # A file and not a pipe: nobody has to write while the program starts.
        stdin = stack.enter_context(tempfile.TemporaryFile())
        stdin.write(body)
        stdin.seek(0)
    return subprocess.Popen(
        [_binary.find(), *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=_environment(environment),
        start_new_session=True,
    )


def _environment(more: Optional[Mapping[str, str]]) -> dict[str, str]:
    return {**os.environ, **(more or {})}


def _pump(name: str, pipe: IO[str], events: queue.Queue[tuple[str, str]]) -> None:
    with pipe:
        for line in pipe:
            events.put((name, line))
    events.put(("end", ""))


def _events(process: subprocess.Popen[str], events: queue.Queue[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yields lines until both pipes have ended; a Ctrl-C is passed on and comes as an event."""
    open_pipes = 2
    while open_pipes:
        try:
            kind, text = events.get()
        except KeyboardInterrupt:
            _interrupt(process)
            kind, text = "interrupt", ""
        if kind == "end":
            open_pipes -= 1
        else:
            yield kind, text


def _finish(
    process: subprocess.Popen[str],
    reading: Iterator[tuple[str, str]],
    notes: Notes,
    kind: Optional[type[BaseException]],
    *_: object,
) -> None:
    """Lets running calls finish and waits for the end; nothing is told to who has stopped reading by himself."""
    _interrupt(process)
    notes.progress = None
    for name, text in reading:
        if name == "note" and kind is not GeneratorExit:
            notes.take(text)
    process.wait()


def _interrupt(process: Union[subprocess.Popen[str], asyncio.subprocess.Process]) -> None:
    if process.returncode is not None:
        return
    if os.name == "posix":
        process.send_signal(signal.SIGINT)
    else:
        process.terminate()


def _json_object(line: str) -> Optional[dict[str, Any]]:
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
