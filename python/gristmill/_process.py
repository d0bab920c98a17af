"""One run of the program: JSON lines in and out, progress, errors, interruption.

The program runs in a session of its own, so that Ctrl-C reaches Python alone and is passed on once: the first lets
running calls finish, the second stops. It holds the read end of a pipe of which this process has the other: when this
process ends, whatever ends it, the pipe does, and the program stops as after Ctrl-C. What goes to its standard input is a
file without a name, so that no prompt is left behind.
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
from typing import IO, Any, AsyncGenerator, Callable, Generator, Iterator, Mapping, Optional, Sequence, Set, Union

from . import _binary, _speech
from .errors import SCHEMA_VERSION, GristmillError, from_record

logger = logging.getLogger("gristmill")

Progress = Callable[[Mapping[str, Any]], None]
#: Variables to add to the environment; ``None`` takes one out.
Environment = Mapping[str, Optional[str]]

#: Everything has ended, some jobs without success: the rows say which.
_SOME_FAILED = 3
_INTERRUPTED = 130
#: Lines that are read ahead of who consumes them.
_AHEAD = 1_000
#: Seconds that a call which nobody waits for any more has to be taken back.
_CANCEL_S = 10.0
#: Bytes that are read at once.
_CHUNK_BYTES = 65_536
#: Names the descriptor that ends when its parent does, to the program.
_PARENT_PIPE = "GRISTMILL_PARENT_PIPE"


class Notes:
    """What the program tells on standard error.

    Args:
        progress: Gets each view.
        of_rows: Whether what it read were rows of the caller.
    """

    def __init__(self, progress: Optional[Progress] = None, of_rows: bool = False) -> None:
        self.last: dict[str, Any] = {}
        self.progress = progress
        self._of_rows = of_rows
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
        elif isinstance(value.get("message"), str):
            self._say(value["message"])
        elif "level" in value and "fields" in value:
            # A line of the log.
            self._say(line.rstrip())
        else:
            self.last = value

    def check(self, exit_code: int, told: bool) -> None:
        """Raises what the program failed with; ``told`` says whether it wrote results."""
        if exit_code == 0 or (exit_code == _SOME_FAILED and (told or not self._error)):
            return
        error = self._error or self._usage_error()
        unknown = _speech.unknown_option(error.get("message") or "")
        if unknown is not None:
            raise TypeError(f"there is no option {unknown}" + (f": {error['hint']}" if error.get("hint") else ""))
        message = error.get("message") or (
            "interrupted; the same call goes on where this one stopped"
            if exit_code == _INTERRUPTED
            else f"the program ended with exit code {exit_code}"
        )
        hint = error.get("hint")
        message, hint = self._python(message), hint and self._python(hint)
        if error.get("class"):
            record = {"v": SCHEMA_VERSION, "class": error["class"], "message": message, "retryable": False}
            raise from_record(record, hint=hint, exit_code=exit_code)
        raise GristmillError(message, hint=hint, exit_code=exit_code)

    def _python(self, text: str) -> str:
        return _speech.python(text, self._of_rows)

    def _say(self, line: str) -> None:
        if not line:
            return
        self._text.append(line)
        # What a long run says in between is of no use at its end.
        del self._text[:-50]
        if line.startswith(("warning: ", "stopping")):
            logger.warning("%s", self._python(line))
        else:
            logger.info("%s", self._python(line))

    def _usage_error(self) -> dict[str, Any]:
        """Finds what is wrong with the arguments, which comes as words: `error: …`, indented lines, `  tip: …`."""
        message: list[str] = []
        hint = None
        for line in self._text:
            if line.startswith("error: "):
                message = [line[len("error: ") :]]
            elif line.startswith("  tip: "):
                # How to pass it as a value is no help to who wrote no command line.
                hint = None if " as a value, use " in line else _speech.python(line[len("  tip: ") :])
            elif line.startswith("  ") and message and hint is None:
                message.append(line.strip())
        return {"message": " ".join(message), "hint": hint}


def lines(
    arguments: Sequence[str],
    *,
    stdin: Optional[IO[bytes]] = None,
    environment: Optional[Environment] = None,
    progress: Optional[Progress] = None,
    notes: Optional[Notes] = None,
) -> Generator[dict[str, Any], None, None]:
    """Runs the program, with a body or an open file as its standard input, and yields the JSON lines of its standard
    output; raises what it failed with."""
    notes = notes or Notes(progress)
    with contextlib.ExitStack() as stack:
        lifeline = stack.enter_context(_lifeline())
        process = subprocess.Popen(
            [_binary.find(), *arguments],
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            env={**_environment(environment), **lifeline.environment},
            pass_fds=lifeline.descriptors,
        )
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
    arguments: Sequence[str], *, body: bytes, environment: Optional[Environment] = None
) -> list[dict[str, Any]]:
    """Runs the program without holding up the event loop and returns the JSON lines of its standard output."""
    return [line async for line in stream(arguments, body=body, environment=environment)]


async def stream(
    arguments: Sequence[str], *, body: bytes, environment: Optional[Environment] = None
) -> AsyncGenerator[dict[str, Any], None]:
    """Does the same and yields the lines as they come. Closed or cancelled before its end, it takes the call back."""
    notes = Notes()
    told = False
    with spooled(body) as stdin, _lifeline() as lifeline:
        process = await asyncio.create_subprocess_exec(
            _binary.find(),
            *arguments,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**_environment(environment), **lifeline.environment},
            pass_fds=lifeline.descriptors,
        )
        assert process.stdout is not None and process.stderr is not None
        saying = asyncio.ensure_future(process.stderr.read())
        try:
            # Lines of any length: those of the reader itself are limited.
            rest = bytearray()
            while chunk := await process.stdout.read(_CHUNK_BYTES):
                rest += chunk
                if b"\n" not in chunk:
                    continue
                *whole, last = bytes(rest).split(b"\n")
                rest = bytearray(last)
                for line in whole:
                    if line.strip():
                        told = True
                        yield json.loads(line)
            said = await asyncio.shield(saying)
            exit_code = await process.wait()
        except BaseException:
            await _take_back(process, asyncio.ensure_future(_end(process, saying)))
            raise
    for line in said.decode("utf-8", "replace").splitlines():
        notes.take(line)
    notes.check(exit_code, told)


async def _end(process: asyncio.subprocess.Process, saying: "asyncio.Future[bytes]") -> None:
    """Reads what nobody wants to hear, to the end of the process."""
    assert process.stdout is not None
    while await process.stdout.read(_CHUNK_BYTES):
        pass
    await asyncio.wait({saying})
    await process.wait()


async def _take_back(process: asyncio.subprocess.Process, talking: "asyncio.Future[Any]") -> None:
    """Ends a call that nobody waits for: asks, waits a while, kills."""
    try:
        with contextlib.suppress(ProcessLookupError):
            _interrupt(process)
        await asyncio.wait({talking}, timeout=_CANCEL_S)
    finally:
        # Also where the waiting itself was cancelled.
        if not talking.done():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.wait({talking}, timeout=_CANCEL_S)
        if talking.done() and not talking.cancelled():
            talking.exception()


@contextlib.contextmanager
def spooled(body: bytes) -> Iterator[IO[bytes]]:
    """Opens a file that holds a text and has no name."""
    # A file and not a pipe: nobody has to write while the program starts.
    with tempfile.TemporaryFile() as file:
        file.write(body)
        file.seek(0)
        yield file


class _Lifeline:
    def __init__(self, reader: Optional[int] = None) -> None:
        self.descriptors = () if reader is None else (reader,)
        self.environment = {} if reader is None else {_PARENT_PIPE: str(reader)}


#: The ends that this process holds.
_held: Set[int] = set()


def _let_go() -> None:
    # A forked child that lives on must not keep the programs of its parent alive.
    for writer in _held:
        with contextlib.suppress(OSError):
            os.close(writer)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def _lifeline() -> Iterator[_Lifeline]:
    """Opens what ends when this process does."""
    if os.name != "posix":
        yield _Lifeline()
        return
    reader, writer = os.pipe()
    _held.add(writer)
    try:
        yield _Lifeline(reader)
    finally:
        os.close(reader)
        if writer in _held:
            _held.discard(writer)
            os.close(writer)


def _environment(more: Optional[Environment]) -> dict[str, str]:
    merged = {**os.environ, **(more or {})}
    return {name: value for name, value in merged.items() if value is not None}


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
