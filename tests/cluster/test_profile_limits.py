"""The optional policy: with it, the API server itself refuses what a profile does not allow, in the words of the operator."""

from collections.abc import Iterator

import pytest

from rlhf_api.crd.profile_limits import LIMITS
from tests.support.cluster import ControlPlane
from tests.support.cluster.control_plane import CRDS
from tests.support.cluster.rest import Refused
from tests.support.cluster.world import World

Changes = dict[str, object]
PUBLISH = {
    "name": "publish",
    "type": "Publish",
    "publish": {"destination": {"uri": "oci://registry.example.com/ml/chat:v1"}, "sign": False},
}
ALLOWED: Changes = {"spec.publish.allow": ["oci://registry.example.com/ml/"]}


@pytest.fixture(scope="module", autouse=True)
def policy(plane: ControlPlane) -> Iterator[None]:
    plane.kubectl("apply", "--server-side", f"--filename={CRDS / 'optional'}")
    yield
    plane.kubectl("delete", f"--filename={CRDS / 'optional'}")


def refusal(world: World, changes: Changes) -> str:
    """What the API server says to a new job; empty when it takes it. Nothing is stored."""
    try:
        world.submit("chat", changes, volume=False, is_dry=True)
    except Refused as refused:
        return refused.message
    return ""


CASES: dict[str, tuple[Changes, Changes, str]] = {
    "namespace": ({}, {"spec.allowedNamespaces": {"matchLabels": {"team": "others"}}}, "may not be used in namespace"),
    "nodes": ({"spec.topology.nodes": 9}, {}, "more nodes than the profile allows: 8"),
    "GPUs": ({"spec.topology.gpusPerNode": 1}, {}, "more GPUs than the profile allows: 0"),
    "source": (
        {"spec.stages[0].sft.dataset.uri": "s3://others/rows"},
        {"spec.sources.allow": ["s3://team/"]},
        "source not allowed by the profile: s3://others/rows",
    ),
    "destination": ({"spec.stages[1]": PUBLISH}, {}, "destination not allowed by the profile: oci://registry"),
    "existing claim": ({"spec.storage": {"existingClaim": "data"}}, {}, "does not allow existing claims"),
    "remote code": ({"spec.model.trustRemoteCode": True}, {}, "does not allow trustRemoteCode"),
    "signature": (
        {"spec.stages[1]": PUBLISH},
        ALLOWED | {"spec.publish.requireSignature": True, "spec.publish.signingSecretName": "key"},
        "requires publish.sign",
    ),
    "priority": ({"spec.priorityClassName": "high"}, {}, "does not list the priorityClassName high"),
    "queue": ({}, {"spec.scheduling.requireQueue": True}, "requires a queueName"),
    "storage class": ({"spec.storage.storageClassName": "fast"}, {}, "does not list the storageClassName fast"),
    "size": ({"spec.storage.size": "2Ti"}, {}, "above the limit of the profile: 1Ti"),
    "time to live": ({"spec.runPolicy.ttlSecondsAfterFinished": 2_592_001}, {}, "above the limit of the profile: 2592000"),
    "deadline": ({"spec.runPolicy.activeDeadlineSeconds": 259_201}, {}, "above the limit of the profile: 259200"),
}
"""Limit -> changes of a job, changes of the profile that refuses them, and what is said."""

PERMITTED: dict[str, tuple[Changes, Changes]] = {
    "nodes": ({"spec.topology.nodes": 9}, {"spec.limits.maxNodes": 9}),
    "GPUs": ({"spec.topology.gpusPerNode": 8}, {"spec.gpu": {"memoryGiB": 80}, "spec.limits.maxGpus": 8}),
    "source": ({"spec.stages[0].sft.dataset.uri": "s3://team/rows"}, {"spec.sources.allow": ["s3://team/"]}),
    "destination": ({"spec.stages[1]": PUBLISH}, ALLOWED),
    "existing claim": ({"spec.storage": {"existingClaim": "data"}}, {"spec.storage.allowExistingClaims": True}),
    "priority": ({"spec.priorityClassName": "high"}, {"spec.scheduling.priorityClasses": ["high"]}),
    "queue": ({"spec.queueName": "team"}, {"spec.scheduling.requireQueue": True}),
    "size": ({"spec.storage.size": "2Ti"}, {"spec.limits.maxStorage": "2Ti"}),
}


def test_every_limit_has_a_case() -> None:
    assert len(CASES) == len(LIMITS)


@pytest.mark.parametrize(("job", "profile", "said"), CASES.values(), ids=CASES)
def test_what_the_profile_does_not_allow_is_refused(world: World, job: Changes, profile: Changes, said: str) -> None:
    world.profile(profile)
    # Until it says this: for a moment the policy may still judge by an older profile, and refuse for another reason.
    world.until(lambda: said in refusal(world, job), f"it is refused with '{said}'")


@pytest.mark.parametrize(("job", "profile"), PERMITTED.values(), ids=PERMITTED)
def test_what_the_profile_allows_is_taken(world: World, job: Changes, profile: Changes) -> None:
    world.profile(profile)
    world.until(lambda: refusal(world, job) == "", "the policy has seen the profile")


def test_a_job_may_be_suspended_after_its_profile_shrank(world: World) -> None:
    world.submit("chat", {"spec.topology.nodes": 4}, volume=False)
    world.profile({"spec.limits.maxNodes": 1})
    world.until(lambda: refusal(world, {"spec.topology.nodes": 4}), "the policy has seen the profile")
    assert world.edit("chat", {"suspend": True})["spec"]["suspend"] is True


def test_other_profiles_do_not_matter(world: World) -> None:
    world.profile({"spec.limits.maxNodes": 1})
    assert refusal(world, {"spec.profile": "absent", "spec.topology.nodes": 4}) == ""
