"""The operator dies at any point, the API server goes away, two operators run: no attempt is lost and none starts twice."""

import signal
from pathlib import Path

import pytest

from rlhf_operator.shell.crash import POINTS
from tests.support.cluster import ControlPlane
from tests.support.cluster.operator import Operator
from tests.support.cluster.plays import exits, runs, succeeds
from tests.support.cluster.world import World
from tests.support.eventually import eventually


def an_operator(world: World, directory: Path, crash_point: str = "") -> Operator:
    """An operator of this namespace that leads without waiting for the Lease of the one that died."""
    return Operator(world.plane, directory, namespaces=(world.namespace,), crash_point=crash_point, flags=("--no-leader-election",))


@pytest.mark.parametrize("point", POINTS)
def test_an_operator_that_dies_at_any_point_is_replaced_without_a_trace(world: World, tmp_path: Path, point: str) -> None:
    """It dies twice at the same point, with more or less work done; then one lives and finishes."""
    world.on(runs(), stage="sft")
    world.on(exits(1), stage="sft", attempt=1)
    world.submit("chat", {"spec.topology.nodes": 2})
    for _ in range(2):
        with an_operator(world, tmp_path, point) as dying:
            eventually(lambda dying=dying: not dying.program.is_running(), 60, f"the operator dies at {point}")
            assert dying.program.exit_code == -signal.SIGKILL, dying.program.tail()
    with an_operator(world, tmp_path):
        world.until_stage("sft", "Running", attempt=2, deadline_seconds=60)
        world.on(succeeds(), stage="sft", attempt=2)
        world.until_phase("Succeeded")
    assert [attempt["outcome"] for attempt in world.attempts()] == ["AppError", "Succeeded"]
    assert [attempt["outcome"] for attempt in world.attempts("prepare")] == ["Succeeded"]
    assert world.jobs() == ["chat-prepare-r1", "chat-sft-r1", "chat-sft-r2"]


@pytest.mark.parametrize("point", ["status", "action"])
def test_an_operator_that_dies_around_a_delete_leaves_no_gang_behind(world: World, tmp_path: Path, point: str) -> None:
    world.on(runs(), stage="sft")
    with an_operator(world, tmp_path):
        world.submit("chat", {"spec.topology.nodes": 2})
        world.until_stage("sft", "Running", attempt=1)
    world.edit("chat", {"suspend": True})
    with an_operator(world, tmp_path, point) as dying:
        eventually(lambda: not dying.program.is_running(), 60, f"the operator dies at {point}")
    with an_operator(world, tmp_path):
        world.until_phase("Suspended", deadline_seconds=60)
    world.until(lambda: not world.pods("sft"), "the pods are gone")
    assert [attempt["outcome"] for attempt in world.attempts()] == ["Cancelled"]


def test_a_running_attempt_does_not_notice_that_the_operator_was_replaced(world: World, tmp_path: Path) -> None:
    world.on(runs(), stage="sft")
    with an_operator(world, tmp_path) as first:
        world.submit("chat", {"spec.topology.nodes": 2})
        world.until_stage("sft", "Running", attempt=1)
        uids = [pod["metadata"]["uid"] for pod in world.pods("sft")]
        first.stop(grace_seconds=0)
    world.on(succeeds(), stage="sft")  # it ends while nobody looks
    world.until(lambda: "completionTime" in world.rest.get(world.batch("chat-sft-r1"))["status"], "the Job completes")
    assert world.stage()["phase"] == "Running"
    with an_operator(world, tmp_path):
        world.until_phase("Succeeded", deadline_seconds=60)
    assert [pod["metadata"]["uid"] for pod in world.pods("sft")] == uids
    assert [attempt["attempt"] for attempt in world.attempts()] == [1]


def test_what_happened_while_the_operator_was_away_is_judged_the_same(world: World, tmp_path: Path) -> None:
    """Own failures leave a failed pod, evicted pods leave none: both are told apart later."""
    world.on(runs(), stage="sft")
    with an_operator(world, tmp_path):
        world.submit("evicted")
        world.submit("failed")
        for name in ("evicted", "failed"):
            world.until_stage("sft", "Running", attempt=1, name=name)
    world.evict(world.pods("sft", 1, "evicted")[0])
    world.on(exits(1), stage="sft", attempt=1, name="failed")
    for name in ("evicted", "failed"):
        world.until(lambda name=name: "failed" in world.rest.get(world.batch(f"{name}-sft-r1"))["status"], f"the Job of {name} fails")
    with an_operator(world, tmp_path):
        for name in ("evicted", "failed"):
            world.until_stage("sft", "Running", attempt=2, name=name)
    assert world.attempts(name="evicted")[0]["outcome"] == "Disrupted"
    assert world.attempts(name="failed")[0]["outcome"] == "AppError"


def test_the_api_server_goes_away_and_comes_back(world: World, tmp_path: Path, plane: ControlPlane) -> None:
    world.on(runs(), stage="sft")
    with an_operator(world, tmp_path) as operator:
        world.submit("chat", {"spec.topology.nodes": 2})
        world.until_stage("sft", "Running", attempt=1)
        uids = [pod["metadata"]["uid"] for pod in world.pods("sft")]
        plane.stop_apiserver()
        try:
            eventually(lambda: not plane.is_ready(), 5, "the API server is away")
            world.on(succeeds(), stage="sft")
            eventually(lambda: operator.answers("/healthz"), 5, "the operator is healthy without it")
        finally:
            plane.start_apiserver()
        world.until_phase("Succeeded", deadline_seconds=60)
        assert operator.program.is_running()
    assert [pod["metadata"]["uid"] for pod in world.pods("sft")] == uids
    assert [attempt["attempt"] for attempt in world.attempts()] == [1]


def test_only_one_of_two_operators_works_and_the_other_takes_over(world: World, plane: ControlPlane, tmp_path: Path) -> None:
    lease = "/apis/coordination.k8s.io/v1/namespaces/rlhf-system/leases/rlhf-operator"

    def holder() -> str:
        found = world.rest.find(lease)
        return str(found["spec"].get("holderIdentity") or "") if found else ""

    with Operator(plane, tmp_path / "a", namespaces=(world.namespace,)) as first:
        first.wait_until_ready()
        leader = world.until(holder, "the first leads")
        with Operator(plane, tmp_path / "b", namespaces=(world.namespace,)) as second:
            second.wait_until_ready()
            world.submit("one")
            world.until_phase("Succeeded", "one")
            assert holder() == leader
            first.stop()  # SIGTERM: the Lease is given back
            assert first.program.exit_code == 0, first.program.tail()
            world.until(lambda: holder() not in ("", leader), "the second leads", 15)
            world.submit("two")
            world.until_phase("Succeeded", "two")
            assert [attempt["attempt"] for attempt in world.attempts(name="one")] == [1]


def test_a_leader_that_was_killed_is_replaced_when_its_lease_is_over(world: World, plane: ControlPlane, tmp_path: Path) -> None:
    with Operator(plane, tmp_path / "a", namespaces=(world.namespace,)) as first:
        first.wait_until_ready()
        with Operator(plane, tmp_path / "b", namespaces=(world.namespace,)) as second:
            second.wait_until_ready()
            first.stop(grace_seconds=0)
            world.submit()
            world.until_phase("Succeeded", deadline_seconds=60)


def test_a_leader_that_was_paused_writes_nothing_when_it_wakes(world: World, plane: ControlPlane, tmp_path: Path) -> None:
    """Stopped for longer than its Lease lasts: it finds out before its next write, and exits."""
    with Operator(plane, tmp_path / "a", namespaces=(world.namespace,)) as first:
        first.wait_until_ready()
        with Operator(plane, tmp_path / "b", namespaces=(world.namespace,)) as second:
            second.wait_until_ready()
            first.program.signal(signal.SIGSTOP)
            world.submit()
            world.until_phase("Succeeded", deadline_seconds=60)
            version = world.job()["metadata"]["resourceVersion"]
            first.program.signal(signal.SIGCONT)
            eventually(lambda: not first.program.is_running(), 15, "the first exits")
            assert first.program.exit_code == 1, first.program.tail()
            assert world.job()["metadata"]["resourceVersion"] == version


def test_deletion_needs_no_operator(world: World, tmp_path: Path) -> None:
    """Owner references are enough: there is no finalizer."""
    world.on(runs(), stage="sft")
    with an_operator(world, tmp_path):
        world.submit("chat", {"spec.topology.nodes": 2})
        world.until_stage("sft", "Running", attempt=1)
    world.rest.delete(world.path("chat"))
    world.until(lambda: not world.pods() and not world.jobs(), "everything is gone")
