"""JSON schemas of bodies that routes read themselves, ready to be put into the OpenAPI document."""

from __future__ import annotations

from typing import Any, cast

from pydantic import BaseModel

_PREFIX = "#/$defs/"


def standalone_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Give a model's schema with its parts written out: references would lead nowhere.

    Args:
        model: Does not contain itself.
    """
    schema = model.model_json_schema()
    parts: dict[str, Any] = schema.pop("$defs", {})
    return cast("dict[str, Any]", _written_out(schema, parts))


def _written_out(value: object, parts: dict[str, Any]) -> object:
    if isinstance(value, list):
        return [_written_out(item, parts) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    mapping = cast("dict[str, Any]", value)
    reference = mapping.get("$ref")
    if isinstance(reference, str) and reference.startswith(_PREFIX):
        beside = {key: item for key, item in mapping.items() if key != "$ref"}
        mapping = {**parts[reference.removeprefix(_PREFIX)], **beside}
    return {key: _written_out(item, parts) for key, item in mapping.items()}
