"""Rows of Python as lines of OpenAI's Batch input format."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import IO, Any, Iterable, Iterator, Mapping, Optional, Union, cast

Row = Union[str, Mapping[str, Any]]
#: What ``run`` and ``submit`` take: rows, a pandas frame, or the path of a file.
Rows = Union[str, "os.PathLike[str]", Iterable[Row], Any]

_CHAT = "/v1/chat/completions"


def path_of(rows: Rows) -> Optional[str]:
    """Returns the path of the file that holds the rows, if that is what was given."""
    return os.fspath(rows) if isinstance(rows, (str, os.PathLike)) else None


def write(rows: Rows, file: IO[bytes], model: str = "") -> str:
    """Writes rows as lines and returns a name for them: the same rows for the same model have the same name."""
    digest = hashlib.sha256(model.encode())
    for number, row in enumerate(_records(rows)):
        line = json.dumps(_request(row, number), ensure_ascii=False, default=plain).encode() + b"\n"
        digest.update(line)
        file.write(line)
    file.flush()
    return f"python-{digest.hexdigest()[:12]}"


def _records(rows: Rows) -> Iterator[Row]:
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(rows, pandas.DataFrame):
        # A missing value of a frame is a key that is not there.
        return ({key: value for key, value in row.items() if not _missing(value)} for row in rows.to_dict("records"))
    if pandas is not None and isinstance(rows, pandas.Series):
        return iter(rows.tolist())
    if isinstance(rows, Mapping):
        raise TypeError("rows is one mapping; put it in a list: [row]")
    return iter(cast(Iterable[Row], rows))


def _missing(value: Any) -> bool:
    # Only not-a-number differs from itself; pandas.NA has no truth value.
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)


def _request(row: Row, number: int) -> Mapping[str, Any]:
    """Returns the line of a row; what names no ``custom_id`` is called by its position, ``row-0``."""
    if isinstance(row, str):
        row = {"prompt": row}
    elif not isinstance(row, Mapping):
        raise TypeError(f"row {number} is a {type(row).__name__}; give a string or a mapping")
    row = {"custom_id": f"row-{number}", **row}
    row["custom_id"] = str(row["custom_id"])
    if "body" in row:
        return {"method": "POST", "url": _CHAT, **row}
    if "prompt" not in row and "messages" not in row and "params" not in row:
        raise TypeError(f"row {number} has none of prompt, messages, body; it has {', '.join(map(str, row))}")
    return row


def plain(value: Any) -> Any:
    """Returns what JSON can hold of a value of numpy or pandas, or of a model of pydantic."""
    for name in ("tolist", "isoformat", "model_dump"):
        method = getattr(value, name, None)
        if method is not None and not isinstance(value, type):
            return method()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")
