"""Suspend, resume, rerun, time to live, deletion and queues, on real controllers (operator.md section 2)."""

import pytest

from rlhf_api import names
from tests.support.cluster.plays import exits, runs, succeeds
from tests.support.cluster.world import World

pytestmark = pytest.mark.usefixtures("operator")


def test_suspend_ends_the_attempt_without_a_budget_and_resume_starts_the_next(world: World) -> None:
    world.on(runs(), stage="sft")
    world.submit("chat", {"spec.topology.nodes": 2})
    world.until_stage("sft", "Running", attempt=1)
    world.edit("chat", {"suspend": True})
    world.until_phase("Suspended")
    world.until(lambda: not world.pods("sft") and "chat-sft-r1" not in world.jobs(), "pods and Job are gone")
    ended = world.attempts()[0]
    assert (ended["outcome"], ended["budget"], ended["message"].split()[0].rstrip(":")) == ("Cancelled", "None", names.CAUSE_SUSPENDED)
    assert world.condition("Suspended")[0] == "True"
    world.edit("chat", {"suspend": False})
    world.until_stage("sft", "Running", attempt=2)
    world.on(succeeds(), stage="sft", attempt=2)
    world.until_phase("Succeeded")
    assert (world.stage().get("countedFailures", 0), world.stage().get("disruptions", 0)) == (0, 0)
    world.until(lambda: {"Suspended", "Resumed"} <= set(world.events()), "events are written")


def test_a_job_that_is_submitted_suspended_starts_nothing(world: World) -> None:
    world.submit("chat", {"spec.suspend": True})
    world.until_phase("Suspended")
    assert world.jobs() == []
    world.edit("chat", {"suspend": False})
    world.until_phase("Succeeded")


def test_a_failed_stage_is_edited_and_run_again_alone(world: World) -> None:
    world.on(exits(64), stage="sft", attempt=1)
    world.submit()
    world.until_phase("Failed")
    prepared = world.stage("prepare")
    stages = world.job()["spec"]["stages"]
    stages[0]["sft"]["maxSteps"] = 5
    world.edit("chat", {"stages": stages, "rerun": {"fromStage": "sft", "token": "again"}})
    world.until_phase("Succeeded")
    assert world.status()["rerunToken"] == "again"
    assert world.stage("prepare")["output"] == prepared["output"]
    assert (world.stage("prepare")["attempt"], world.stage()["attempt"]) == (1, 2)


def test_a_running_job_is_not_edited_by_hand(world: World) -> None:
    from tests.support.cluster.rest import Refused

    world.on(runs(), stage="sft")
    world.submit()
    world.until_phase("Running")
    with pytest.raises(Refused, match="may change only while the job is Pending, Suspended or Failed"):
        world.edit("chat", {"strategy": "zero2"})
    with pytest.raises(Refused, match=r"spec\.rerun may change only while"):
        world.edit("chat", {"rerun": {"fromStage": "sft", "token": "1"}})


def test_a_finished_job_goes_when_its_time_is_over(world: World) -> None:
    world.submit("chat", {"spec.runPolicy.ttlSecondsAfterFinished": 10})
    world.until_phase("Succeeded")
    assert world.status()["completionTime"]
    world.until(lambda: not world.exists(world.path("chat")), "the job is deleted")
    world.until(lambda: not world.jobs() and not world.pods(), "its Jobs and pods go with it")


@pytest.mark.parametrize("retain", [True, False], ids=["the volume stays", "the volume goes"])
def test_deletion_takes_the_children_along(world: World, retain: bool) -> None:
    world.on(runs(), stage="sft")
    uid = world.submit("chat", {"spec.topology.nodes": 2, "spec.storage.retain": retain})["metadata"]["uid"]
    world.until_stage("sft", "Running")
    claim = f"chat-{uid[:8]}"
    owned = [world.batch("chat-sft-r1"), world.core("services", "chat-sft-r1"), world.core("persistentvolumeclaims", claim)]
    assert all(world.exists(path) for path in owned)
    world.rest.delete(world.path("chat"))
    world.until(lambda: not world.pods() and not world.jobs(), "Jobs and pods are gone")
    world.until(lambda: not world.exists(owned[1]), "the Service is gone")
    if retain:
        assert world.exists(owned[2])
    else:
        world.until(lambda: not world.exists(owned[2]), "the claim is gone")


def test_no_finalizer_is_left_on_anything(world: World) -> None:
    """So a namespace without an operator can be deleted."""
    world.submit()
    world.until_phase("Succeeded")
    job = world.job()
    assert "finalizers" not in job["metadata"]
    assert not any(key.startswith("kopf") for key in job["metadata"].get("annotations", {}))


def test_kept_jobs_are_those_that_somebody_may_still_read(world: World) -> None:
    world.on(exits(1), stage="sft")
    world.on(succeeds(), stage="sft", attempt=3)
    world.submit()
    world.until_phase("Succeeded")
    world.until(lambda: world.jobs() == ["chat-prepare-r1", "chat-sft-r2", "chat-sft-r3"], "the oldest Job is deleted")


def test_a_queue_holds_the_job_and_may_take_it_back(world: World) -> None:
    """Without Kueue: the test plays it. The operator never writes `suspend` of a Job that exists."""
    world.on(runs(), stage="prepare")
    world.submit("chat", {"spec.queueName": "team"})
    world.until(lambda: world.jobs() == ["chat-prepare-r1"], "the Job exists")
    job = world.rest.get(world.batch("chat-prepare-r1"))
    assert (job["spec"]["suspend"], job["metadata"]["labels"][names.LABEL_QUEUE]) == (True, "team")
    world.until_phase("Queued")
    world.until(lambda: world.condition("Stalled")[:2] == ("True", "Waiting"), "it says that it waits")
    world.rest.merge(world.batch("chat-prepare-r1"), {"spec": {"suspend": False}})
    world.until_stage("prepare", "Running")
    world.rest.merge(world.batch("chat-prepare-r1"), {"spec": {"suspend": True}})
    world.until(lambda: "chat-prepare-r2" in world.jobs(), "the next attempt queues again")
    evicted = world.attempts("prepare")[0]
    assert (evicted["outcome"], evicted["message"].split()[0].rstrip(":")) == ("Cancelled", names.CAUSE_QUEUE_EVICTED)
    assert world.rest.get(world.batch("chat-prepare-r2"))["spec"]["suspend"] is True


def test_a_job_of_another_controller_is_ignored(world: World) -> None:
    world.submit("theirs", {"spec.managedBy": "kueue.x-k8s.io/multikueue"})
    world.submit("ours")
    world.until_phase("Succeeded", "ours")
    assert world.status("theirs") == {}


def test_the_attempt_carries_what_the_pods_need(world: World) -> None:
    """The pod template as the API server stored it: run.json, no token, nothing of a user's in command or environment."""
    world.on(runs(), stage="sft")
    world.submit("chat", {"spec.topology.nodes": 2})
    world.until_stage("sft", "Running")
    spec = world.pods("sft")[0]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert "volumes" in spec
    assert not any("kube-api-access" in volume["name"] for volume in spec["volumes"])
    assert spec["containers"][0]["command"] == [names.COMMAND]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["subdomain"] == "chat-sft-r1"
    assert spec["hostname"] == "chat-sft-r1-0"
    service = world.rest.get(world.core("services", "chat-sft-r1"))
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert service["metadata"]["ownerReferences"][0]["kind"] == "Job"
    assert not world.exists(world.core("services", "chat-prepare-r1"))


def test_pods_are_admitted_where_only_restricted_ones_are(world: World) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "latest"}
    world.rest.merge(f"/api/v1/namespaces/{world.namespace}", {"metadata": {"labels": labels}})
    world.submit("chat", {"spec.topology.nodes": 2})
    world.until_phase("Succeeded")
