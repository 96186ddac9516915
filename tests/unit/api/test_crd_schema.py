"""The rendered schemas: the documented jobs pass them, the manual is complete, and every value has a maximum."""

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from rlhf_api.base import ApiModel
from rlhf_api.crd.schema import RULES, object_schema, root_schema
from rlhf_api.job import RLHFJob
from rlhf_api.profile import ClusterRLHFProfile
from rlhf_api.rules.changes import IMMUTABLE_FIELDS
from tests.support.manifests import REMOVE, chat_7b, h100_profile, hello_rlhf

JOB, PROFILE = root_schema(RLHFJob), root_schema(ClusterRLHFProfile)
Place = tuple[str, dict[str, Any]]


def places(schema: dict[str, Any], path: str = "") -> Iterator[Place]:
    """The schema and everything in it."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from places(inner, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(key), dict):
            yield from places(schema[key], f"{path}{mark}")


EVERYWHERE = [*places(JOB), *places(PROFILE)]


def as_json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The structural schema in today's JSON Schema, and closed: the API server refuses unknown fields in strict mode."""
    converted = {key: value for key, value in schema.items() if not key.startswith("x-")}
    for bound, flag in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if converted.get(flag) is True:
            converted[flag] = converted.pop(bound)
    if "properties" in converted:
        converted["properties"] = {name: as_json_schema(inner) for name, inner in converted["properties"].items()}
        converted["additionalProperties"] = False
    if "items" in converted:
        converted["items"] = as_json_schema(converted["items"])
    return converted


def check(document: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.validate(document["spec"], as_json_schema(schema["properties"]["spec"]))


@pytest.mark.parametrize("document", [hello_rlhf(), chat_7b()], ids=["hello-rlhf", "chat-7b"])
def test_documented_jobs_fit_the_schema_as_written_and_as_stored(document: dict[str, Any]) -> None:
    check(document, JOB)
    check(RLHFJob.from_wire(document).to_wire(), JOB)


def test_the_smallest_profile_fits() -> None:
    check(h100_profile(), PROFILE)
    check(ClusterRLHFProfile.from_wire(h100_profile()).to_wire(), PROFILE)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"spec.podTemplate": {}}, id="unknown field"),
        pytest.param({"spec.topology": {}}, id="missing field"),
        pytest.param({"spec.stages[2].ppo.temperature": 0}, id="an excluded bound"),
        pytest.param({"spec.stages[2].ppo.emaDecay": 1}, id="an excluded upper bound"),
        pytest.param({"spec.strategy": "zero3"}, id="no choice of ours"),
        pytest.param({"spec.stages[0].type": "Prepare"}, id="the implicit stage"),
        pytest.param({"spec.storage.size": "10GB"}, id="a pattern"),
        pytest.param({"spec.stages": []}, id="no stage"),
        pytest.param({"spec.model": REMOVE}, id="no model"),
    ],
)
def test_what_the_models_refuse_the_schema_refuses(changes: dict[str, object]) -> None:
    document = chat_7b(changes)
    with pytest.raises(ValueError):
        RLHFJob.from_wire(document)
    with pytest.raises(jsonschema.ValidationError):
        check(document, JOB)


def test_the_server_fills_in_what_the_models_fill_in() -> None:
    for document, model, schema in (
        (hello_rlhf(), RLHFJob, JOB),
        (chat_7b({"spec.model.lora": {}}), RLHFJob, JOB),
        (h100_profile(), ClusterRLHFProfile, PROFILE),
    ):
        stored = _with_defaults(document["spec"], schema["properties"]["spec"])
        assert stored == _parsed(model, document)["spec"]


def _parsed(model: type[ApiModel], document: dict[str, Any]) -> dict[str, Any]:
    return model.from_wire(document).to_wire()


def _with_defaults(value: Any, schema: dict[str, Any]) -> Any:
    """What the API server does: defaults of absent fields, then the defaults inside them."""
    if isinstance(value, dict) and "properties" in schema:
        missing = {name: inner["default"] for name, inner in schema["properties"].items() if "default" in inner and name not in value}
        return {name: _with_defaults(item, schema["properties"][name]) for name, item in (value | missing).items()}
    if isinstance(value, list):
        return [_with_defaults(item, schema["items"]) for item in value]
    return value


def test_every_value_has_a_maximum() -> None:
    assert [path for path, schema in EVERYWHERE if not has_maximum(schema)] == []


def has_maximum(schema: dict[str, Any]) -> bool:
    match schema["type"]:
        case "string":
            return "enum" in schema or "maxLength" in schema or schema.get("format") == "date-time"
        case "array":
            return "maxItems" in schema
        case "object":
            return "properties" in schema or "maxProperties" in schema
    return True


def test_structural_schemas_have_only_the_keys_that_kubernetes_knows() -> None:
    known = {
        "additionalProperties", "default", "description", "enum", "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems",
        "maxLength", "maxProperties", "maximum", "minItems", "minLength", "minimum", "pattern", "properties", "required", "type",
        "x-kubernetes-list-map-keys", "x-kubernetes-list-type", "x-kubernetes-map-type", "x-kubernetes-validations",
    }  # fmt: skip
    assert [path for path, schema in EVERYWHERE if not schema.keys() <= known or "type" not in schema] == []


def test_descriptions_end_with_default_and_range() -> None:
    descriptions = {
        path: schema.get("description", "")
        for path, schema in places(JOB["properties"]["spec"])
        if path and not path.endswith("[]") and schema["type"] not in ("object",)
    }
    endings = ("Required.", "No default.", "Default:", "Range:", "One of:")
    assert [path for path, text in descriptions.items() if not any(ending in text for ending in endings)] == []
    assert descriptions[".stages[].ppo.rolloutBatchSize"] == (
        "Prompts answered per rollout over all workers. Default: 512. Range: 1 to 1048576."
    )
    assert descriptions[".stages[].ppo.temperature"].endswith("Default: 1.0. Range: above 0, up to 10.")
    assert descriptions[".stages[].sft.schedule"].endswith("Default: cosine. One of: cosine, linear, constant.")


def test_every_rule_stands_somewhere() -> None:
    written = {rule["message"] for _, schema in EVERYWHERE for rule in schema.get("x-kubernetes-validations", ())}
    immutable = {f"spec.{field} is immutable: create a new job" for field in IMMUTABLE_FIELDS}
    assert written == {rule.message for rule in RULES if rule.cel} | immutable


def test_lists_of_named_things_are_maps() -> None:
    stages = JOB["properties"]["spec"]["properties"]["stages"]
    assert (stages["x-kubernetes-list-type"], stages["x-kubernetes-list-map-keys"]) == ("map", ["name"])
    keyed = {path: schema for path, schema in EVERYWHERE if schema.get("x-kubernetes-list-type") == "map"}
    for schema in keyed.values():
        assert set(schema["x-kubernetes-list-map-keys"]) <= set(schema["items"]["required"])


def test_only_the_name_of_the_metadata_is_restricted() -> None:
    metadata = JOB["properties"]["metadata"]
    assert metadata["properties"].keys() == {"name"}
    assert metadata["properties"]["name"]["maxLength"] == 36


def test_a_model_without_rules_has_no_validations() -> None:
    from rlhf_api.policies import CheckpointPolicy

    assert "x-kubernetes-validations" not in object_schema(CheckpointPolicy)


def test_the_status_stays_small_enough_for_etcd() -> None:
    assert _largest(JOB["properties"]["status"]) < 300 * 1024


def _largest(schema: dict[str, Any]) -> int:
    """Bytes of the largest document that a schema admits, for texts of one byte a character."""
    match schema["type"]:
        case "object" if "properties" in schema:
            return 2 + sum(len(name) + 4 + _largest(inner) for name, inner in schema["properties"].items())
        case "array":
            return int(2 + schema["maxItems"] * (1 + _largest(schema["items"])))
        case "string":
            return int(2 + max(schema.get("maxLength", 20), *(len(value) for value in schema.get("enum", [""])), 0))
    return 20
