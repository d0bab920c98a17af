"""Keyword arguments as flags of the command line."""

from __future__ import annotations

import os
from typing import Any, Iterator, Mapping


def flags(options: Mapping[str, Any]) -> list[str]:
    """Writes options as flags: ``num_retries=3`` is ``--num-retries=3``.

    ``True`` sets a switch, ``False`` and ``None`` leave it out, a list repeats the flag, and a mapping repeats it with
    ``key=value``, several values of a key joined by commas.

    >>> flags({"retry_failed": True, "set": {"temperature": [0, 0.7]}})
    ['--retry-failed', '--set=temperature=0,0.7']
    """
    return [flag for name, value in options.items() for flag in _flag("--" + name.replace("_", "-"), value)]


def _flag(name: str, value: Any) -> Iterator[str]:
    if value is None or value is False:
        return
    if value is True:
        yield name
    elif isinstance(value, Mapping):
        for key, item in value.items():
            items = item if isinstance(item, (list, tuple)) else [item]
            yield f"{name}={key}={','.join(map(_text, items))}"
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _flag(name, item)
    else:
        yield f"{name}={_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
