"""Attempts that end badly, on the real Job controller and the real operator: outcome, budget, and what follows (operator.md sections 4, 11)."""

import pytest

from rlhf_api import names
from tests.support.cluster.kubelet import ScriptedKubelet
from tests.support.cluster.operator import Operator
from tests.support.cluster.plays import exits, runs, runs_out_of_memory, succeeds
from tests.support.cluster.world import World

pytestmark = pytest.mark.usefixtures("operator")
GANG = {"spec.topology.nodes": 2}


def a_running_gang(world: World, changes: dict[str, object] | None = None) -> None:
    """A job whose second stage runs on two pods."""
    world.on(runs(), stage="sft")
    world.submit("chat", GANG | (changes or {}))
    world.until_stage("sft", "Running", attempt=1)


def ends_well_in_attempt(world: World, attempt: int) -> None:
    """The stage goes on, and the job ends as if nothing had happened."""
    world.until_stage("sft", "Running", attempt)
    world.on(succeeds(), stage="sft", attempt=attempt)
    world.until_phase("Succeeded")


def test_the_chain_runs_to_its_end(world: World, operator: Operator) -> None:
    world.submit("chat", GANG)
    world.until_phase("Succeeded")
    assert world.condition("Complete")[:2] == ("True", "StagesSucceeded")
    assert world.status()["stagesSummary"] == "2/2"
    assert world.stage()["output"]["digest"].startswith("sha256:")
    world.until(lambda: {"AttemptStarted", "StageSucceeded", "Complete"} <= set(world.events()), "events are written")
    assert operator.program.is_running()


def test_one_rank_exits_1(world: World) -> None:
    a_running_gang(world)
    world.on(exits(1, ""), stage="sft", attempt=1, index=1)
    world.until(lambda: world.stage().get("countedFailures") == 1, "the failure is counted")
    failed = world.attempts()[0]
    assert (failed["outcome"], failed["budget"], failed["exitCode"], failed["index"]) == ("AppError", "Attempt", 1, 1)
    assert failed["pod"].startswith("chat-sft-r1-1-")
    assert failed["node"].startswith("node-")
    ends_well_in_attempt(world, 2)
    said = world.until(lambda: world.events().get("AttemptFailed"), "the event is written")
    assert failed["pod"] in said
    assert failed["node"] in said
    assert "exit 1 AppError" in said


def test_failures_end_the_stage_when_the_budget_is_spent(world: World) -> None:
    world.on(exits(1), stage="sft")
    world.submit("chat", {"spec.runPolicy.maxAttempts": 2})
    world.until_phase("Failed")
    assert world.condition("Failed")[:2] == ("True", "MaxAttemptsExceeded")
    assert [attempt["outcome"] for attempt in world.attempts()] == ["AppError", "AppError"]
    assert world.jobs() == ["chat-prepare-r1", "chat-sft-r1", "chat-sft-r2"]


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(64, "ConfigInvalid"), (65, "DataInvalid"), (66, "InputInvalid"), (69, "Unsupported"), (71, "GPUOutOfMemory"), (77, "GateFailed")],
)
def test_what_would_fail_again_is_not_tried_again(world: World, code: int, outcome: str) -> None:
    world.on(exits(code), stage="sft")
    world.submit("chat")
    world.until_phase("Failed")
    assert (world.stage()["phase"], world.stage()["reason"]) == ("Failed", outcome)
    assert [(attempt["outcome"], attempt["exitCode"]) for attempt in world.attempts()] == [(outcome, code)]
    assert world.condition("Failed")[1] == outcome


@pytest.mark.parametrize(("code", "outcome", "counter"), [(73, "Communication", "disruptions"), (74, "Storage", "countedFailures")])
def test_what_may_go_better_is_tried_again(world: World, code: int, outcome: str, counter: str) -> None:
    world.on(runs(), stage="sft")
    world.on(exits(code), stage="sft", attempt=1)
    world.submit("chat")
    ends_well_in_attempt(world, 2)
    assert world.attempts()[0]["outcome"] == outcome
    assert world.stage()[counter] == 1


def test_the_kernel_kills_a_container_for_memory(world: World) -> None:
    a_running_gang(world)
    world.on(runs_out_of_memory(), stage="sft", attempt=1, index=0)
    ends_well_in_attempt(world, 2)
    assert (world.attempts()[0]["outcome"], world.attempts()[0]["budget"]) == ("HostOutOfMemory", "Attempt")


def test_eviction_is_a_disruption(world: World) -> None:
    a_running_gang(world)
    world.evict(world.pods("sft", 1)[1])
    ends_well_in_attempt(world, 2)
    ended = world.attempts()[0]
    assert (ended["outcome"], ended["budget"]) == ("Disrupted", "Disruption")
    assert ended["message"].split()[0].rstrip(":") in ("EvictionByEvictionAPI", names.CAUSE_POD_LOST, names.CAUSE_POD_DELETED)
    assert (world.stage()["disruptions"], world.stage().get("countedFailures", 0)) == (1, 0)


def test_a_deleted_pod_is_a_disruption(world: World) -> None:
    a_running_gang(world)
    world.delete_pod(world.pods("sft", 1)[0])
    ends_well_in_attempt(world, 2)
    assert (world.attempts()[0]["outcome"], world.stage().get("countedFailures", 0)) == ("Disrupted", 0)


def test_disruptions_have_a_budget_of_their_own(world: World) -> None:
    a_running_gang(world, {"spec.runPolicy.maxDisruptions": 0})
    world.delete_pod(world.pods("sft", 1)[0])
    world.until_phase("Failed")
    assert world.stage()["reason"] == "MaxDisruptionsExceeded"


def test_a_deleted_job_is_a_disruption(world: World) -> None:
    a_running_gang(world)
    world.rest.delete(world.batch("chat-sft-r1"), {"propagationPolicy": "Background"})
    ends_well_in_attempt(world, 2)
    ended = world.attempts()[0]
    assert (ended["outcome"], ended["message"].split()[0].rstrip(":")) == ("Disrupted", names.CAUSE_JOB_DELETED)


def test_a_lost_node_ends_the_gang(world: World, kubelet: ScriptedKubelet) -> None:
    """The next attempt starts although the object of the lost pod remains; the zombie is collected when its node returns."""
    world.profile({"spec.retry.nodeLossSeconds": 1})
    a_running_gang(world)
    lost = world.pods("sft", 1)[0]
    node = lost["spec"]["nodeName"]
    kubelet.lose_node(node)
    try:
        world.until_stage("sft", "Running", attempt=2, deadline_seconds=60)
        assert world.attempts()[0]["outcome"] == "Disrupted"
        assert world.exists(world.core("pods", lost["metadata"]["name"]))
        assert {pod["spec"]["nodeName"] for pod in world.pods("sft", 2)}.isdisjoint({node})
    finally:
        kubelet.return_node(node)
    world.until(lambda: not world.exists(world.core("pods", lost["metadata"]["name"])), "the zombie is collected")
    ends_well_in_attempt(world, 2)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param("", id="no message"),
        pytest.param("Traceback (most recent call last)", id="no report"),
        pytest.param('{"version": 1, "outcome": "Succeeded", "exitCode": 0, "outputDigest": null}', id="no digest"),
        pytest.param('{"version": 1, "outcome": "Succeeded", "exitCode": 0, "outputDigest": "sha256:abc"}', id="no sha256"),
    ],
)
def test_exit_code_0_proves_nothing(world: World, message: str) -> None:
    world.on(exits(0, message), stage="sft")
    world.submit("chat", {"spec.runPolicy.maxAttempts": 1})
    world.until_phase("Failed")
    assert (world.stage()["reason"], world.attempts()[0]["outcome"]) == ("OutputInvalid", "OutputInvalid")
    assert "output" not in world.stage()


def test_a_long_message_is_cut_and_its_control_characters_go(world: World) -> None:
    world.on(
        exits(64, '{"version": 1, "outcome": "ConfigInvalid", "exitCode": 64, "message": "\\u001b[31m' + "x" * 3000 + '"}'), stage="sft"
    )
    world.submit("chat")
    world.until_phase("Failed")
    said = world.attempts()[0]["message"]
    assert len(said) <= 512
    assert "\x1b" not in said
    assert "xxx" in said


def test_the_same_stages_run_at_the_same_time_and_the_other_finishes(world: World) -> None:
    """Two stages in parallel, one fails for good: the other keeps its output, nothing new starts, the rest is Skipped."""
    again = {
        "name": "b",
        "type": "SFT",
        "sft": {"dataset": {"uri": "builtin://datasets/tiny-chat-sft"}, "maxSteps": 10, "globalBatchSize": 72},
    }
    last = {**again, "name": "c", "after": ["sft", "b"]}
    world.on(runs(), stage="b")
    world.on(runs(), stage="sft")
    world.submit("chat", {"spec.stages[1]": again, "spec.stages[2]": last, "spec.runPolicy.maxParallelStages": 2})
    world.until_stage("sft", "Running")
    world.until_stage("b", "Running")
    world.on(exits(64), stage="sft")
    world.until_stage("sft", "Failed")
    assert world.stage("b")["phase"] == "Running"
    world.on(succeeds(), stage="b")
    world.until_phase("Failed")
    assert [(stage["name"], stage["phase"]) for stage in world.status()["stages"]] == [
        ("prepare", "Succeeded"),
        ("sft", "Failed"),
        ("b", "Succeeded"),
        ("c", "Skipped"),
    ]
    assert world.stage("b")["output"]["digest"].startswith("sha256:")
