"""The API server judges jobs and profiles as our Python does: the cases of the unit tests, and what only the schema says."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.support.cluster import ControlPlane
from tests.support.cluster.rest import Refused, Rest
from tests.support.manifests import REMOVE, chat_7b, h100_profile, hello_rlhf
from tests.support.rule_cases import inputs, job, profile, stages
from tests.support.rules import MODEL, PPO, PUBLISH, ROWS, SFT, Changes

JOBS = "/apis/rlhf.dev/v1alpha1/namespaces/default/rlhfjobs"
PROFILES = "/apis/rlhf.dev/v1alpha1/clusterrlhfprofiles"
JOB_CASES = {**job.CASES, **stages.CASES, **inputs.CASES}
DUPLICATE = ("earlier stage: each stage", "each variable once")  # the list type says it, in the API server's own words


@pytest.fixture(scope="module")
def rest(plane: ControlPlane) -> Iterator[Rest]:
    rest = plane.rest()
    yield rest
    rest.close()


def refusal(rest: Rest, path: str, document: Mapping[str, Any]) -> str:
    """What the API server says to a create that it does not carry out; empty when it would."""
    body = {**document, "metadata": {**document["metadata"]}}
    body["metadata"].pop("namespace", None)
    try:
        rest.create(path, body, dryRun="All", fieldValidation="Strict")
    except Refused as refused:
        if refused.code not in (400, 422):
            raise
        return refused.message
    return ""


@pytest.mark.parametrize("document", [hello_rlhf(), chat_7b()], ids=["hello-rlhf", "chat-7b"])
def test_documented_jobs_are_taken(rest: Rest, document: dict[str, Any]) -> None:
    assert refusal(rest, JOBS, document) == ""


def test_the_smallest_profile_is_taken(rest: Rest) -> None:
    assert refusal(rest, PROFILES, h100_profile()) == ""


@pytest.mark.parametrize("message", JOB_CASES)
def test_a_job_that_obeys_is_taken(rest: Rest, message: str) -> None:
    assert refusal(rest, JOBS, chat_7b(JOB_CASES[message][0])) == ""


@pytest.mark.parametrize("message", JOB_CASES)
def test_a_job_that_breaks_a_rule_is_refused_in_its_words(rest: Rest, message: str) -> None:
    said = refusal(rest, JOBS, chat_7b(JOB_CASES[message][1]))
    assert ("Duplicate value" if any(words in message for words in DUPLICATE) else message) in said


@pytest.mark.parametrize("message", profile.CASES)
def test_a_profile_that_obeys_is_taken(rest: Rest, message: str) -> None:
    assert refusal(rest, PROFILES, h100_profile(profile.CASES[message][0])) == ""


@pytest.mark.parametrize("message", profile.CASES)
def test_a_profile_that_breaks_a_rule_is_refused_in_its_words(rest: Rest, message: str) -> None:
    said = refusal(rest, PROFILES, h100_profile(profile.CASES[message][1]))
    assert ("Duplicate value" if any(words in message for words in DUPLICATE) else message) in said


SCHEMA: dict[str, tuple[Changes, str]] = {
    "an unknown field": ({"spec.podTemplate": {"hostPID": True}}, 'unknown field "spec.podTemplate"'),
    "an unknown field of a stage": ({f"{SFT}.sft.optimizer": "x"}, 'unknown field "spec.stages[0].sft.optimizer"'),
    "a name that is too long for its children": ({"metadata.name": "a" * 64}, "metadata.name"),
    "no model": ({"spec.model": REMOVE}, "spec.model: Required value"),
    "no storage": ({"spec.storage": REMOVE}, "spec.storage: Required value"),
    "no stages": ({"spec.stages": []}, "spec.stages"),
    "eleven stages": ({f"spec.stages[{i}]": {"name": f"q{i}", "type": "Quantize", "quantize": {}} for i in range(5, 11)}, "spec.stages"),
    "an unknown type of stage": ({f"{SFT}.type": "DPO"}, "Unsupported value"),
    "a stage name in capitals": ({f"{SFT}.name": "SFT"}, f"{SFT}.name"),
    "a strategy of another framework": ({"spec.strategy": "fsdp"}, "spec.strategy: Unsupported value"),
    "no nodes": ({"spec.topology.nodes": 0}, "spec.topology.nodes"),
    "a learning rate of 0": ({f"{SFT}.sft.learningRate": 0}, f"{SFT}.sft.learningRate"),
    "a learning rate as text": ({f"{SFT}.sft.learningRate": "2e-5"}, "must be of type number"),
    "a fraction above 1": ({f"{SFT}.sft.evalFraction": 1.5}, f"{SFT}.sft.evalFraction"),
    "a batch of 0": ({f"{SFT}.sft.globalBatchSize": 0}, f"{SFT}.sft.globalBatchSize"),
    "an unknown format": ({f"{ROWS}.format": "csv"}, "Unsupported value"),
    "an unknown quantization": ({"spec.stages[3].quantize.method": "int2"}, "Unsupported value"),
    "a size that is no quantity": ({"spec.storage.size": "lots"}, "spec.storage.size"),
    "an access mode that gangs cannot share": ({"spec.storage.accessMode": "ReadOnlyMany"}, "Unsupported value"),
    "a source with a shell in it": ({f"{MODEL}.uri": "hf://org/$(id)"}, f"{MODEL}.uri"),
    "a file of the node": ({f"{MODEL}": {"uri": "file:///etc/passwd"}}, f"{MODEL}.uri"),
    "a source that climbs": ({f"{ROWS}.uri": "s3://a/../b"}, f"{ROWS}"),
    "a password in a uri": ({f"{ROWS}.uri": "https://user:pw@host/x"}, f"{ROWS}"),
    "blanks in a uri": ({f"{ROWS}.uri": "s3://a/b c"}, f"{ROWS}.uri"),
    "a destination that is a web page": ({f"{PUBLISH}.publish.destination.uri": "https://a/b"}, f"{PUBLISH}.publish.destination"),
    "a KL controller that does not exist": ({f"{PPO}.ppo.kl.controller": "magic"}, "Unsupported value"),
    "negative attempts": ({"spec.runPolicy.maxAttempts": -1}, "spec.runPolicy.maxAttempts"),
    "an environment variable": ({"spec.env": [{"name": "LD_PRELOAD", "value": "x"}]}, 'unknown field "spec.env"'),
    "a service account": ({"spec.serviceAccountName": "admin"}, 'unknown field "spec.serviceAccountName"'),
}


@pytest.mark.parametrize(("changes", "said"), SCHEMA.values(), ids=SCHEMA)
def test_what_the_schema_refuses(rest: Rest, changes: Changes, said: str) -> None:
    assert said in refusal(rest, JOBS, chat_7b(changes))


def test_there_are_enough_ways_to_be_wrong() -> None:
    assert len(JOB_CASES) + len(profile.CASES) + len(SCHEMA) >= 50
