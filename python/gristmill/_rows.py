"""Rows of Python as lines of OpenAI's Batch input format."""

from __future__ import annotations

import decimal
import hashlib
import json
import os
import sys
from typing import IO, Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Union, cast

Row = Union[str, Mapping[str, Any]]
#: What ``run`` and ``submit`` take: rows, a pandas frame, or the path of a file.
Rows = Union[str, "os.PathLike[str]", Iterable[Row], Any]

_CHAT = "/v1/chat/completions"
#: What a row in OpenAI's form, and one in Anthropic's, may hold.
_BATCH = ("custom_id", "method", "url", "body")
_ANTHROPIC = ("custom_id", "params")
#: Characters of a text that a message shows.
_SHOWN = 40


class Written(NamedTuple):
    """Rows that were written as lines."""

    #: A name for them: the same rows for the same model have the same name.
    name: str
    #: What each is called, in their order.
    custom_ids: List[str]


def path_of(rows: Rows) -> Optional[str]:
    """Returns the path of the file that holds the rows, if that is what was given."""
    if not isinstance(rows, (str, os.PathLike)):
        return None
    path = os.fsdecode(rows)
    if path == "-":
        raise ValueError("standard input is Python's: give rows, such as [line.strip() for line in sys.stdin]")
    if not os.path.exists(path):
        shown = path if len(path) <= _SHOWN else path[:_SHOWN] + "…"
        hint = f"; one prompt goes into a list: [{shown!r}]" if isinstance(rows, str) else ""
        raise FileNotFoundError(f"there is no file {shown!r}{hint}")
    return path


def write(rows: Rows, file: IO[bytes], model: str = "", prompt_key: str = "prompt") -> Written:
    """Writes rows as lines; raises ``TypeError`` or ``ValueError`` with the row's number for one that cannot be."""
    digest = hashlib.sha256(model.encode())
    custom_ids = []
    for number, row in enumerate(_records(rows)):
        request = _request(row, number, prompt_key)
        line = _line(request, number)
        digest.update(line)
        file.write(line)
        custom_ids.append(request["custom_id"])
    if not custom_ids:
        raise ValueError("there are no rows")
    file.flush()
    return Written(f"python-{digest.hexdigest()[:12]}", custom_ids)


def _records(rows: Rows) -> Iterator[Row]:
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(rows, pandas.DataFrame):
        # A missing value of a frame is a key that is not there.
        return ({key: value for key, value in row.items() if not _missing(value)} for row in rows.to_dict("records"))
    if pandas is not None and isinstance(rows, pandas.Series):
        return iter(rows.tolist())
    if isinstance(rows, Mapping):
        raise TypeError("rows is one mapping; put it in a list: [row]")
    if isinstance(rows, (bytes, bytearray)) or not hasattr(rows, "__iter__"):
        what = "None" if rows is None else f"a {type(rows).__name__}"
        raise TypeError(f"rows is {what}; give strings, mappings, a pandas frame, or the path of a file")
    return iter(cast(Iterable[Row], rows))


def _missing(value: Any) -> bool:
    # Only not-a-number differs from itself; pandas.NA has no truth value.
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)


def _request(row: Row, number: int, prompt_key: str) -> Dict[str, Any]:
    """Returns the line of a row; what names no ``custom_id`` is called by its position, ``row-0``."""
    if isinstance(row, str):
        row = {prompt_key: row}
    elif not isinstance(row, Mapping):
        raise TypeError(f"row {number} is a {type(row).__name__}; give a string or a mapping")
    request: Dict[str, Any] = {"custom_id": None, **row}
    request["custom_id"] = _custom_id(request["custom_id"], number)
    for key, known in (("body", _BATCH), ("params", _ANTHROPIC)):
        if key in request:
            extra = [str(name) for name in request if name not in known]
            if extra:
                raise TypeError(
                    f"row {number} has {key} and beside it {', '.join(extra)}, which would be lost: put it into {key}, or "
                    "write the row with prompt or messages, whose other keys come back as metadata"
                )
            return {"method": "POST", "url": _CHAT, **request} if key == "body" else request
    if prompt_key not in request and "messages" not in request:
        named = "prompt" if prompt_key == "prompt" else f"{prompt_key} (prompt_column)"
        raise TypeError(f"row {number} has none of {named}, messages, body; it has {', '.join(map(str, row)) or 'nothing'}")
    return request


def _custom_id(given: Any, number: int) -> str:
    if _missing(given):
        return f"row-{number}"
    # A column of whole numbers of which one is missing holds 7.0 for 7.
    if isinstance(given, float) and given.is_integer():
        return str(int(given))
    return str(given)


def _line(request: Mapping[str, Any], number: int) -> bytes:
    try:
        return encode(request) + b"\n"
    except (TypeError, ValueError):
        for key, value in request.items():
            try:
                encode({key: value})
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"row {number}, key {key!r}: {reason(error)}") from None
        raise


def encode(value: Any) -> bytes:
    """Writes JSON that everybody reads; raises ``TypeError`` or ``ValueError``, of which ``reason`` tells."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=plain).encode()


def reason(error: Exception) -> str:
    """Says why a value cannot be written."""
    if isinstance(error, UnicodeEncodeError):
        return f"holds the lone surrogate \\u{ord(error.object[error.start]):04x}, which is half a character"
    if isinstance(error, ValueError) and "Out of range float" in str(error):
        return "holds NaN or infinity, which JSON has not: leave it out, or give None"
    return str(error)


def plain(value: Any) -> Any:
    """Returns what JSON can hold of a value of numpy or pandas, of a decimal number, or of a model of pydantic."""
    if isinstance(value, decimal.Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    for name in ("tolist", "isoformat", "model_dump"):
        method = getattr(value, name, None)
        if method is not None and not isinstance(value, type):
            return method()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")
