"""pydantic's errors in the words of the API: what must stand there, and the likely slip of the pen."""

import math
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from rlhf_api.base import ApiModel
from rlhf_api.fields import Schema, fields_by_alias, leaf_schema, nested_model, type_words
from rlhf_api.paths import Location


def words_for(model: type[ApiModel], location: Location, details: Mapping[str, Any]) -> str:
    """The rule that a schema error broke, ending in the fix.

    `details` is one entry of `pydantic.ValidationError.errors()` with its place, `location`, below `model`.
    """
    kind = details["type"]
    owner, alias = _owner_of(model, location)
    if owner is None and (words := _map_entry(model, location, details)):
        return words
    if kind in ("extra_forbidden", "invalid_key"):
        return _unknown_field(owner, str(location[-1]))
    if owner is None or alias not in (fields := fields_by_alias(owner)):
        return str(details["msg"])
    field = fields[alias][1]
    meaning = f": {field.description}" if field.description else ""
    if kind == "missing":
        return f"is required{meaning}"
    inner, is_list = nested_model(field.annotation)
    is_item = isinstance(location[-1], int)
    if inner is not None and is_item >= is_list:
        return f"must be a mapping with the fields {', '.join(fields_by_alias(inner))}"
    schema = leaf_schema(owner, alias)
    schema = schema["items"] if is_item and "items" in schema else schema
    return f"must be {type_words(schema)}{_hint(schema, details.get('input')) or meaning}"


def _map_entry(model: type[ApiModel], location: Location, details: Mapping[str, Any]) -> str:
    """The words for an entry of a free map, such as `labels`; empty where the place is none. pydantic names a wrong key `[key]`."""
    is_key = location[-1] == "[key]"
    owner, alias = _owner_of(model, location[: -2 if is_key else -1])
    if owner is None or alias not in fields_by_alias(owner):
        return ""
    schema = leaf_schema(owner, alias).get("additionalProperties")
    if not isinstance(schema, dict):
        return ""
    if is_key:
        return "is a key that is too long or empty"
    meaning = fields_by_alias(owner)[alias][1].description if "pattern" in schema else ""
    return f"must be {type_words(schema)}{_hint(schema, details.get('input')) or (f': {meaning}' if meaning else '')}"


def _hint(schema: Schema, value: object) -> str:
    if isinstance(value, str) and "enum" in schema:
        return _did_you_mean(value, [str(option) for option in schema["enum"]])
    if isinstance(value, str) and _would_do(value, schema.get("type")):
        return f", not text: write {value} without quotes"
    if isinstance(value, int) and not isinstance(value, bool) and _may_be(str(value), schema):
        return f', not a number: write "{value}" in quotes'
    return ""


def _may_be(text: str, schema: Schema) -> bool:
    return schema.get("type") == "string" and "enum" not in schema and re.search(schema.get("pattern", ""), text) is not None


def _unknown_field(owner: type[ApiModel] | None, name: str) -> str:
    if owner is None:
        return "is not a field of the API"
    known = fields_by_alias(owner)
    blocks = {alias: inner for alias, (_, field) in known.items() if (inner := nested_model(field.annotation)[0])}
    # Certain answers first: what is spelt like `coefficient` (ptxCoefficient) is a worse one than the block that has it (kl).
    if homes := [alias for alias, inner in blocks.items() if name in fields_by_alias(inner)]:
        return f"is not a field here: it belongs in {' or '.join(homes)}"
    inside = [f"{alias}.{field}" for alias, inner in blocks.items() for field in fields_by_alias(inner)]
    if exact := [path for path in (*known, *inside) if _letters(path) == _letters(name)]:
        return f"is not a field: did you mean {exact[0]}?"
    return "is not a field" + (_did_you_mean(name, list(known)) or f"; the fields here are {', '.join(known)}")


def unknown_name(name: str, known: Iterable[str]) -> str:
    """The words for a name that is none of those known: the nearest of them, or all."""
    options = list(known)
    return _did_you_mean(name, options) or f"; there are {', '.join(options)}"


def _did_you_mean(name: str, options: list[str]) -> str:
    by_letters = {_letters(option): option for option in options}
    close = get_close_matches(_letters(name), by_letters, n=1, cutoff=0.75)
    return f": did you mean {by_letters[close[0]]}?" if close else ""


def _letters(name: str) -> str:
    """A name without what differs between ways to write it: `kl.coefficient`, `kl_coefficient` and `klCoefficient` are one."""
    return re.sub(r"[-_.]", "", name.lower())


def _owner_of(model: type[ApiModel], location: Location) -> tuple[type[ApiModel] | None, str]:
    """The model that has the field at a place, and the wire name of the field."""
    owner: type[ApiModel] | None = model
    names = [token for token in location if isinstance(token, str)]
    for name in names[:-1]:
        field = fields_by_alias(owner).get(name) if owner is not None else None
        owner = nested_model(field[1].annotation)[0] if field is not None else None
    return owner, names[-1] if names else ""


def _would_do(text: str, kind: str | None) -> bool:
    """True when a text without its quotes is of the kind that is wanted: `2.5` is no integer, and NaN is nowhere a number."""
    try:
        number = float(text)
    except ValueError:
        return False
    return math.isfinite(number) and (kind == "number" or (kind == "integer" and number.is_integer()))
