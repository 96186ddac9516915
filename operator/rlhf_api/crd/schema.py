"""pydantic models -> structural OpenAPI schemas, with descriptions, bounds, defaults and CEL rules.

`kubectl explain` prints neither defaults nor ranges, so every description of a spec field ends with both. Every string, list and map
has a maximum: the API server estimates the cost of each CEL rule from them, and one uri without a maximum breaks the budget.
"""

from collections.abc import Iterable
from enum import Enum
from functools import cache
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rlhf_api.base import ApiModel, ObservedModel
from rlhf_api.fields import Schema, fields_by_alias, leaf_schema, nested_model, range_words
from rlhf_api.job import RLHFJobSpec
from rlhf_api.rules import inputs, job, profile, stages
from rlhf_api.rules.base import Rule
from rlhf_api.rules.changes import IMMUTABLE_CEL, IMMUTABLE_FIELDS, immutable_message

RULES: tuple[Rule, ...] = (*job.RULES, *stages.RULES, *inputs.RULES, *profile.RULES)

_LIST_KEYS = {"stages": "name", "env": "name", "conditions": "type", "metrics": "name", "attempts": "attempt", "artifacts": "stage"}

_WHOLE_ITEMS = ("stages", "artifacts")
"""Of the status: one writer owns an item as a whole. Owners of each single field would cost the API server a sixth of a status write."""


def object_schema(model: type[ApiModel]) -> Schema:
    """The schema of a model, with everything in it."""
    required = [alias for alias, (_, field) in fields_by_alias(model).items() if field.is_required()]
    schema: Schema = {"type": "object", "properties": {alias: _property(model, alias) for alias in fields_by_alias(model)}}
    if required:
        schema["required"] = required
    if validations := _validations(rule for rule in RULES if issubclass(model, rule.owner) and not rule.at):
        schema["x-kubernetes-validations"] = validations
    return schema


def _property(model: type[ApiModel], alias: str) -> Schema:
    field = fields_by_alias(model)[alias][1]
    shape = _shape(model, alias, field)
    schema: Schema = {}
    if description := _description(model, field, shape):
        schema["description"] = description
    schema |= shape
    if not issubclass(model, ObservedModel) and has_default(field):
        schema["default"] = _wire_default(field.default)
    if "items" in schema:
        schema |= _list_type(alias, schema)
        if issubclass(model, ObservedModel) and alias in _WHOLE_ITEMS:
            schema["items"] |= {"x-kubernetes-map-type": "atomic"}
    # A field of a model type has the rules of that model already; those of the field itself join them.
    if validations := [*schema.pop("x-kubernetes-validations", []), *_field_validations(model, alias)]:
        schema["x-kubernetes-validations"] = validations
    return schema


def _shape(model: type[ApiModel], alias: str, field: FieldInfo) -> Schema:
    inner, is_list = nested_model(field.annotation)
    leaf = leaf_schema(model, alias)
    if inner is None:
        return leaf
    if not is_list:
        return object_schema(inner)
    return {**{key: value for key, value in leaf.items() if key != "items"}, "items": object_schema(inner)}


def _description(model: type[ApiModel], field: FieldInfo, shape: Schema) -> str:
    if field.description is None or issubclass(model, ObservedModel):
        return field.description or ""
    if field.is_required():
        ending = "Required."
    elif has_default(field):
        ending = f"Default: {words}." if (words := default_words(field)) else ""
    else:
        ending = "No default."
    words = range_words(shape)
    bounds = f"{'One of' if 'enum' in shape else 'Range'}: {words}." if words else ""
    return " ".join(part for part in (field.description, ending, bounds) if part)


def default_words(field: FieldInfo) -> str:
    """The default for a reader: `required`, a value, `–` for none; empty where the fields inside have defaults of their own."""
    if field.is_required():
        return "required"
    if not has_default(field):
        return "–"
    return "" if isinstance(field.default, ApiModel) else _in_words(_wire_default(field.default))


def has_default(field: FieldInfo) -> bool:
    """True when the API server fills the field in. What is left off the wire when empty has no default there."""
    return field.default is not None and field.default is not PydanticUndefined and field.exclude_if is None


def _wire_default(value: Any) -> Any:
    if isinstance(value, ApiModel):
        return {}  # the defaults inside follow from the nested schema
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value == [] else str(value)


def _list_type(alias: str, schema: Schema) -> Schema:
    key = _LIST_KEYS.get(alias)
    if key is None or schema["items"].get("type") != "object":
        return {"x-kubernetes-list-type": "atomic"}
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def _field_validations(model: type[ApiModel], alias: str) -> list[Schema]:
    written = _validations(rule for rule in RULES if issubclass(model, rule.owner) and rule.at == alias)
    if model is RLHFJobSpec and alias in IMMUTABLE_FIELDS:
        written.append({"rule": IMMUTABLE_CEL, "message": immutable_message(alias)})
    return written


def _validations(rules: Iterable[Rule]) -> list[Schema]:
    return [{"rule": rule.cel, "message": rule.message} for rule in rules if rule.cel]


@cache
def root_schema(model: type[ApiModel]) -> Schema:
    """The schema of a whole custom resource. Of the metadata only the name may be restricted."""
    spec, status, metadata = (nested_model(model.model_fields[name].annotation)[0] for name in ("spec", "status", "metadata"))
    assert spec is not None
    assert status is not None
    assert metadata is not None
    name = leaf_schema(metadata, "name")
    properties = {
        "apiVersion": {"type": "string", "maxLength": 63},
        "kind": {"type": "string", "maxLength": 63},
        "metadata": {"type": "object", "properties": {"name": name}},
        "spec": {"description": _first_line(spec)} | object_schema(spec),
        "status": {"description": _first_line(status)} | object_schema(status),
    }
    return {"description": _first_line(model), "type": "object", "required": ["spec"], "properties": properties}


def _first_line(model: type[ApiModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]
