"""What a field may hold, as a schema leaf for the CRD and in words for a reader: both come from the same bounds of the model."""

from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from rlhf_api.base import ApiModel

Schema = dict[str, Any]

_KEPT = ("type", "minimum", "maximum", "minLength", "maxLength", "pattern", "enum", "items", "minItems", "maxItems", "additionalProperties")
_KINDS = {"integer": "an integer", "number": "a number", "boolean": "true or false", "string": "text", "array": "a list", "object": "a map"}


def alias_of(model: type[ApiModel], name: str) -> str:
    """Wire name of a field."""
    return str(model.model_fields[name].alias or name)


@cache
def fields_by_alias(model: type[ApiModel]) -> dict[str, tuple[str, FieldInfo]]:
    """Wire name -> Python name and field, in the order of the model."""
    return {str(field.alias or name): (name, field) for name, field in model.model_fields.items()}


@cache
def nested_fields(model: type[ApiModel]) -> tuple[tuple[str, str, bool], ...]:
    """The fields that hold models, in order: wire name, Python name, and whether the models stand in a list."""
    nested = ((alias, name, *nested_model(info.annotation)) for alias, (name, info) in fields_by_alias(model).items())
    return tuple((alias, name, is_list) for alias, name, inner, is_list in nested if inner is not None)


def nested_model(annotation: Any) -> tuple[type[ApiModel] | None, bool]:
    """The model inside an annotation, and whether it stands in a list: `Topology | None` -> (Topology, False)."""
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        return annotation, False
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        found = [nested_model(argument) for argument in arguments if argument is not type(None)]
        return found[0] if len(found) == 1 else (None, False)
    if origin is Annotated:
        return nested_model(arguments[0])
    if origin is tuple and arguments:
        return nested_model(arguments[0])[0], True
    return None, False


@cache
def _json_schema(model: type[ApiModel]) -> Schema:
    return model.model_json_schema(by_alias=True, mode="validation")


def leaf_schema(model: type[ApiModel], alias: str) -> Schema:
    """Type and bounds of one field in the dialect of Kubernetes' structural schemas. Nested models are not expanded."""
    document = _json_schema(model)
    return _structural(document["properties"][alias], document.get("$defs", {}))


def _structural(schema: Schema, definitions: Schema) -> Schema:
    schema = _resolved(schema, definitions)
    kept = {key: schema[key] for key in _KEPT if key in schema}
    if "const" in schema:
        kept.update(type="string", enum=[schema["const"]])
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in schema:  # OpenAPI 3.0 has a flag where JSON Schema has a number
            kept.update({bound: schema[exclusive], exclusive: True})
    if schema.get("format") == "date-time":
        kept["format"] = "date-time"
    if "items" in kept:
        kept["items"] = _structural(kept["items"], definitions)
    if isinstance(kept.get("additionalProperties"), dict):
        kept["additionalProperties"] = _structural(kept["additionalProperties"], definitions)
        kept["maxProperties"] = schema.get("maxProperties", 64)
    return kept


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    """Without references, and without the null that no document of ours has."""
    if "$ref" in schema:
        return {**definitions[schema["$ref"].rpartition("/")[2]], **{k: v for k, v in schema.items() if k != "$ref"}}
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    return {**schema, **_resolved(options[0], definitions)} if options else schema


def range_words(schema: Schema) -> str:
    """The bounds of a leaf for a reader: `1 to 100`, `above 0, up to 1`, `at most 63 characters`; empty without bounds."""
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        if schema.get("exclusiveMinimum"):
            return f"above {_plain(low)}, up to {_plain(high)}"
        return f"{_plain(low)} to {'below ' if schema.get('exclusiveMaximum') else ''}{_plain(high)}"
    if low is not None:
        return f"at least {_plain(low)}"
    for key, unit in (("maxLength", "characters"), ("maxItems", "items"), ("maxProperties", "entries")):
        if key in schema:
            return f"{schema['minItems']} to {schema[key]} {unit}" if "minItems" in schema else f"at most {schema[key]} {unit}"
    return ""


def type_words(schema: Schema) -> str:
    """What a leaf must be: `an integer, 1 to 100`, `one of auto, ddp`, `text, at most 63 characters, matching ^…$`."""
    if "enum" in schema:
        return f"one of {range_words(schema)}"
    words = [_KINDS.get(schema.get("type", ""), "valid"), range_words(schema)]
    if "pattern" in schema:
        words.append(f"matching {schema['pattern']}")
    return ", ".join(word for word in words if word)


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)
