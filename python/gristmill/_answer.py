"""What was kept of a provider's answer, by the names that HTTP clients have for it.

What a later version stores in another way is passed over: it stays in the record.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Optional


def status(record: Mapping[str, Any]) -> Optional[int]:
    """Returns the HTTP status, if one came."""
    value = record.get("status")
    return value if isinstance(value, int) else None


def body(text: Any) -> Any:
    """Returns a body as OpenAI's client has it: of JSON the ``error``, else the text."""
    try:
        value = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return text
    return value.get("error", value) if isinstance(value, dict) else value


def mappings(values: Any) -> List[Dict[str, Any]]:
    """Returns those of some values that are mappings."""
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


class Headers(Dict[str, str]):
    """Headers of an answer, whose names may be written in any case."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__({name.lower(): str(value) for name, value in headers.items()})

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        """Returns a header, or the default."""
        return super().get(name.lower(), default)


class Response:
    """The answer: its status, its headers on rate limits and diagnostics, and the beginning of its body."""

    request = None

    def __init__(self, status_code: int, headers: Headers, text: str) -> None:
        self.status_code = status_code
        self.headers = headers
        self.text = text

    @property
    def content(self) -> bytes:
        """The body in bytes."""
        return self.text.encode("utf-8", "surrogatepass")

    def json(self) -> Any:
        """Returns the body as JSON; raises ``ValueError`` where it is none, as when it was cut."""
        return json.loads(self.text)

    def __repr__(self) -> str:
        return f"<Response [{self.status_code}]>"
