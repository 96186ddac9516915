"""The status belongs to the operator, the spec to the user: server-side apply keeps both apart, and kubectl shows it well."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.cluster import ControlPlane
from tests.support.cluster.operator import Operator
from tests.support.cluster.plays import runs, succeeds
from tests.support.cluster.world import World


def managers(world: World, subresource: str = "") -> set[str]:
    """Field managers of the RLHFJob."""
    fields = world.job()["metadata"]["managedFields"]
    return {entry["manager"] for entry in fields if entry.get("subresource", "") == subresource}


def test_the_operator_owns_the_status_and_nothing_else(world: World, operator: Operator) -> None:
    world.submit()
    world.until_phase("Succeeded")
    assert managers(world, "status") == {"rlhf-operator"}
    assert "rlhf-operator" not in managers(world)
    entry = next(entry for entry in world.job()["metadata"]["managedFields"] if entry["manager"] == "rlhf-operator")
    assert (entry["operation"], list(entry["fieldsV1"])) == ("Apply", ["f:status"])


def test_kubectl_apply_again_changes_nothing(world: World, operator: Operator, plane: ControlPlane) -> None:
    document = json.dumps({"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": {"name": "chat"}, "spec": world.spec()})
    world.volume()
    options = ("apply", "--server-side", f"--namespace={world.namespace}", "--filename=-")
    plane.kubectl(*options, stdin=document)
    world.until_phase("Succeeded")
    before = world.job()
    plane.kubectl(*options, stdin=document)
    after = world.job()
    assert (after["spec"], after["status"], after["metadata"]["generation"]) == (
        before["spec"],
        before["status"],
        before["metadata"]["generation"],
    )


def test_a_foreign_condition_stays_and_a_foreign_phase_goes(world: World, operator: Operator) -> None:
    """Another controller may add a condition of its own type; what the operator says itself, it says again."""
    world.on(runs(), stage="sft")
    world.submit()
    world.until_stage("sft", "Running")
    foreign = {"type": "Audited", "status": "True", "reason": "Seen", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    body = {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {"name": "chat"},
        "status": {"phase": "Failed", "conditions": [foreign]},
    }
    world.rest.apply(f"{world.path('chat')}/status", body, "auditor")
    world.on(succeeds(), stage="sft")
    world.until_phase("Succeeded")
    assert world.condition("Audited")[:2] == ("True", "Seen")
    assert world.condition("Complete")[0] == "True"


def test_times_of_conditions_move_only_when_the_answer_flips(world: World, operator: Operator) -> None:
    world.on(runs(), stage="sft")
    world.submit()
    world.until_stage("sft", "Running")
    first = next(c["lastTransitionTime"] for c in world.status()["conditions"] if c["type"] == "Accepted")
    world.until(lambda: datetime.fromisoformat(first) < datetime.now(UTC) - timedelta(seconds=2), "time passes")
    world.on(succeeds(), stage="sft")
    world.until_phase("Succeeded")
    assert next(c["lastTransitionTime"] for c in world.status()["conditions"] if c["type"] == "Accepted") == first


def test_columns_of_kubectl_get(world: World, operator: Operator, plane: ControlPlane) -> None:
    world.submit()
    world.until_phase("Succeeded")
    header, row = plane.kubectl("get", "rlhfjobs", f"--namespace={world.namespace}").splitlines()
    assert header.split() == ["NAME", "PHASE", "STAGE", "DONE", "REASON", "AGE"]
    assert row.split()[:2] == ["chat", "Succeeded"]
    assert "2/2" in row
    wide = plane.kubectl("get", "rlhf", f"--namespace={world.namespace}", "--output=wide").splitlines()[0]
    assert wide.split()[6:] == ["PROFILE", "QUEUE", "GPU-SECONDS"]
    profiles = plane.kubectl("get", "clusterrlhfprofiles", world.namespace).splitlines()[0]
    assert profiles.split() == ["NAME", "GPU", "MAX-GPUS", "RUNNING", "READY", "AGE"]


def test_kubectl_wait_and_field_selectors_work(world: World, operator: Operator, plane: ControlPlane) -> None:
    world.submit()
    plane.kubectl("wait", "rlhfjob/chat", f"--namespace={world.namespace}", "--for=condition=Complete", "--timeout=60s")
    found = plane.kubectl(
        "get", "rlhf", f"--namespace={world.namespace}", f"--field-selector=spec.profile={world.namespace}", "--output=name"
    )
    assert found.strip() == "rlhfjob.rlhf.dev/chat"
    assert plane.kubectl("get", "rlhf", f"--namespace={world.namespace}", "--field-selector=spec.profile=other", "--output=name") == ""


@pytest.mark.parametrize("block", ["sft", "rewardModel", "ppo", "quantize", "publish"])
def test_kubectl_explain_reads_as_the_manual(plane: ControlPlane, block: str) -> None:
    """Every field has a sentence that ends with its default; bounds follow."""
    manual = plane.kubectl("explain", f"rlhfjob.spec.stages.{block}")
    crd = json.loads(plane.kubectl("get", "crd", "rlhfjobs.rlhf.dev", "--output=json"))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["stages"]["items"]["properties"][
        block
    ]
    words = " ".join(manual.split())
    for name, field in schema["properties"].items():
        assert f"{name} <" in words
        assert " ".join(field["description"].split()) in words
        assert any(ending in field["description"] for ending in ("Default", "Required.", "No default.")) or field["type"] == "object"
