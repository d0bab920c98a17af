"""Keyword arguments as flags of the command line."""

from __future__ import annotations

import os
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Tuple, Union

from . import _rows

#: Options of the program that a function has other words for, or that mean nothing to it.
_REFUSED: Dict[str, str] = {
    "help": "help(gristmill) and docs/python.md say what there is",
    "version": "`gristmill --version` tells it",
    "json": "results come as Python's own values",
    "quiet": "what is told goes to the logger `gristmill`",
    "file": "the rows, or a path, are the first argument",
    "input_file": "the rows, or a path, are the first argument",
}
_OF_ROWS = {
    **_REFUSED,
    "dry_run": "`gristmill run FILE --dry-run` shows the first request; here, try limit=1 with simulate=True",
}
_OF_COMMAND: Dict[str, Mapping[str, str]] = {
    "run": _OF_ROWS,
    "submit": {
        **_OF_ROWS,
        "wait": "read gristmill.results(batch, follow=True)",
        "output": "read gristmill.results(batch, follow=True)",
        "combined": "read gristmill.results(batch, follow=True)",
        "fail_fast": "it needs somebody who watches: run() does",
    },
    "results": {**_REFUSED, "output": "rows are returned; `gristmill results -o FILE` writes files"},
    "status": {**_REFUSED, "watch": "call it again, or follow results(batch, follow=True)"},
    "completion": {
        **_REFUSED,
        "prompt": "it is the messages",
        "model": "it is the model of the call",
        "api_base": "it is an argument of the call itself",
        "timeout": "it is an argument of the call itself",
        "num_retries": "it is an argument of the call itself",
    },
}


def refuse(command: str, options: Iterable[str]) -> None:
    """Raises a ``TypeError`` for options that a function cannot take, with what to do instead."""
    refused = _OF_COMMAND.get(command, _REFUSED)
    for name in options:
        if name in refused:
            raise TypeError(f"{command}() takes no {name}: {refused[name]}")


def flags(options: Mapping[str, Any]) -> List[str]:
    """Writes options as flags: ``num_retries=3`` is ``--num-retries=3``.

    ``True`` sets a switch, ``False`` and ``None`` leave it out, several values repeat the flag, and a mapping repeats it
    with ``key=value``. The values of ``set`` are JSON, so that each arrives as it is.

    >>> flags({"retry_failed": True, "set": {"temperature": [0, 0.7], "stop": "a,b"}})
    ['--retry-failed', '--set=temperature=0,0.7', '--set=stop="a,b"']
    """
    return [flag for name, value in options.items() for flag in _flag(name, value)]


def swept(parameters: Any) -> List[Tuple[str, List[str]]]:
    """Returns what ``set`` varies: names and how the program calls each value."""
    if not isinstance(parameters, Mapping):
        return []
    varied = []
    for name, given in parameters.items():
        values = _several(given)
        if len(values) > 1:
            labels = [value if isinstance(value, str) else _json(f"set {name}", value) for value in values]
            varied.append((str(name), labels))
    return varied


def _flag(name: str, value: Any) -> Iterator[str]:
    flag = "--" + name.replace("_", "-")
    if value is None or value is False:
        return
    if value is True:
        yield flag
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if name == "set":
                values = _several(item)
                if not values:
                    raise ValueError(f"set has no value for {key}")
                yield f"{flag}={key}={','.join(_json(f'set {key}', one) for one in values)}"
            else:
                yield f"{flag}={key}={_text(name, item)}"
    elif _is_one(value):
        yield f"{flag}={_text(name, value)}"
    else:
        for item in value:
            yield from _flag(name, item)


def _is_one(value: Any) -> bool:
    return isinstance(value, (str, bytes, os.PathLike)) or not hasattr(value, "__iter__")


def _several(value: Any) -> List[Any]:
    """Returns the values of a parameter: any iterable is several, but a text or a mapping is one."""
    if _is_one(value) or isinstance(value, Mapping) or hasattr(value, "model_dump"):
        return [value]
    # A zero-dimensional array of numpy has `__iter__` and cannot be iterated over.
    return list(value) if getattr(value, "ndim", 1) else [value]


def _json(what: str, value: Any) -> str:
    try:
        return _rows.encode(value).decode()
    except (TypeError, ValueError) as error:
        raise type_of(error)(f"{what}: {_rows.reason(error)}") from None


def type_of(error: Union[TypeError, ValueError]) -> Any:
    """Returns what a caller catches: ``UnicodeEncodeError`` is a ``ValueError`` that takes five arguments."""
    return TypeError if isinstance(error, TypeError) else ValueError


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, (Mapping, bytes)) or value is None:
        raise TypeError(f"{name} takes no {type(value).__name__}")
    return str(value)
