"""A class as the schema of an answer."""

from __future__ import annotations

from typing import Any, Dict, Mapping


def response_format(value: Any) -> Any:
    """Returns what a request says of the answer's form; of a class of pydantic, its schema.

    Facts: https://platform.openai.com/docs/guides/structured-outputs, "Supported schemas", read 2026-11.
    """
    if value is None or isinstance(value, Mapping):
        return value
    if isinstance(value, type) and hasattr(value, "model_json_schema"):
        schema = value.model_json_schema()
        strict = _strict(schema, schema.get("$defs") or {})
        return {"type": "json_schema", "json_schema": {"name": value.__name__, "schema": strict, "strict": True}}
    name = value.__name__ if isinstance(value, type) else f"a {type(value).__name__}"
    raise TypeError(f"completion(): response_format is {name}; give a mapping or a class of pydantic")


def _strict(node: Any, definitions: Mapping[str, Any]) -> Any:
    """Makes a schema one that answers keep to: every property is there, and no other one; a reference stands alone."""
    if isinstance(node, list):
        return [_strict(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    if reference is not None and len(node) > 1:
        beside = {key: item for key, item in node.items() if key not in ("$ref", "default")}
        if not beside:
            return {"$ref": reference}
        return _strict({**definitions.get(str(reference).rpartition("/")[2], {}), **beside}, definitions)
    made: Dict[str, Any] = {}
    for key, item in node.items():
        if key in ("properties", "$defs", "definitions") and isinstance(item, dict):
            made[key] = {name: _strict(one, definitions) for name, one in item.items()}
        elif key != "default":
            made[key] = _strict(item, definitions)
    if made.get("type") == "object":
        made["required"] = list(made.get("properties") or ())
        made.setdefault("additionalProperties", False)
    return made
