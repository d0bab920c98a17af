"""What the program says, in the words of Python: keyword arguments for flags, rows for lines."""

from __future__ import annotations

import re
from typing import Optional

_FLAG = re.compile(r"--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)(?: <[^>]*>(?:\.\.\.)?|(=))?")
_OUTPUT = re.compile(r"(?<![\w-])-o(?: <[^>]*>)?(?![\w-])")
_LINE = re.compile(r"\bline (\d+)\b")
_UNKNOWN = re.compile(r"unexpected argument '(--[a-z0-9-]+)' found")


def python(text: str, of_rows: bool = False) -> str:
    """Rewrites a message; ``of_rows`` tells that the lines of standard input are rows of the caller."""
    # A whole command in backticks stays one.
    parts = text.split("`")
    for at, part in enumerate(parts):
        if at % 2 == 0 or not part.startswith("gristmill "):
            part = _FLAG.sub(lambda found: found[1].replace("-", "_") + (found[2] or ""), part)
            parts[at] = _OUTPUT.sub("output", part)
    text = "`".join(parts)
    if of_rows:
        text = _LINE.sub(lambda found: f"row {int(found[1]) - 1}", text)
        text = re.sub(r"(of \d+) line(s?) cannot", r"\1 row\2 cannot", text)
        text = text.replace("standard input: ", "rows: ").replace("a line looks like", "a row looks like")
    return text


def unknown_option(message: str) -> Optional[str]:
    """Returns the keyword that the program does not know, if that is what it says."""
    found = _UNKNOWN.search(message)
    return found[1][2:].replace("-", "_") if found else None
