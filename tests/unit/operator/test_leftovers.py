"""A Job whose attempt has ended must not keep its pods, whatever became of the first attempt to delete it."""

import pytest

from rlhf_api.status import JobPhase, StagePhase
from rlhf_operator.core.model import Create, Delete
from rlhf_operator.shell.kube import ApiError, Conflict, Unavailable
from tests.support.rig import Rig, one_stage


class Died(Exception):
    """The operator's process ended."""


def running(**changes: object) -> Rig:
    rig = Rig(one_stage(**changes))
    rig.succeed("prepare")
    rig.run("sft")
    return rig


def die_at(rig: Rig, point: str) -> None:
    """The operator dies there once; a new one, which knows nothing, takes over."""

    def crash_here(name: str) -> None:
        if name == point:
            raise Died

    rig.reconciler._crash_here = crash_here
    with pytest.raises(Died):
        rig.settle()
    rig.reconciler = rig.new_reconciler()


def suspend(rig: Rig) -> None:
    body = rig.body()
    body["spec"]["suspend"] = True
    rig.store.update("RLHFJob", "team-a", body)


@pytest.mark.parametrize("error", [Unavailable("500"), Conflict("uid")])
def test_a_suspension_whose_delete_failed_once_still_frees_the_pods(error: ApiError) -> None:
    rig = running()
    suspend(rig)
    rig.api.faults.fail("delete", "Job", error)
    rig.run_once()
    assert rig.stage("sft").phase is StagePhase.RESTARTING
    assert "chat-sft-r1" in rig.jobs()
    rig.settle()
    assert "chat-sft-r1" not in rig.jobs()
    assert rig.status.phase is JobPhase.SUSPENDED


@pytest.mark.parametrize("point", ["status", "action"])
def test_an_operator_that_died_around_the_delete_is_replaced_without_a_trace(point: str) -> None:
    rig = running()
    suspend(rig)
    die_at(rig, point)
    rig.settle()
    assert "chat-sft-r1" not in rig.jobs()
    assert rig.status.phase is JobPhase.SUSPENDED


def test_a_job_that_failed_by_its_deadline_frees_its_pods_although_the_answer_to_the_status_was_lost() -> None:
    rig = running(runPolicy={"activeDeadlineSeconds": 100})
    job = rig.job("sft")
    del job["spec"]["activeDeadlineSeconds"]  # the Job's own clock, the backstop, is late
    rig.store._objects["Job", "team-a", "chat-sft-r1"] = job
    rig.now = rig.now.replace(minute=5)
    rig.api.faults.fail("apply_status", "RLHFJob", Unavailable("connection lost"), applied=True)
    assert rig.run_once() == 0.5
    assert rig.status.phase is JobPhase.FAILED
    assert "chat-sft-r1" in rig.jobs()
    rig.settle()
    assert "chat-sft-r1" not in rig.jobs()


def test_a_rerun_whose_delete_was_lost_ends_the_old_gang_before_the_new_one_starts() -> None:
    rig = running()
    body = rig.body()
    body["spec"]["rerun"] = {"fromStage": "sft", "token": "2"}
    rig.store.update("RLHFJob", "team-a", body)
    die_at(rig, "status")
    rig.settle()
    assert rig.jobs() == ["chat-prepare-r1", "chat-sft-r2"]


def test_a_job_of_somebody_else_and_one_that_ended_by_itself_stay() -> None:
    rig = running()
    rig.finish("sft", 64)
    assert "chat-sft-r1" in rig.jobs()
    job = rig.job("sft")
    job["metadata"]["ownerReferences"] = []
    job["status"] = {}
    rig.store._objects["Job", "team-a", "chat-sft-r1"] = job
    rig.settle()
    assert "chat-sft-r1" in rig.jobs()


def test_what_is_deleted_is_deleted_before_anything_is_created() -> None:
    rig = Rig(one_stage(runPolicy={"maxAttempts": 9}))
    rig.succeed("prepare")
    rig.finish("sft", 1)
    for pod in rig.pods("sft"):
        rig.end(pod, 1)
    rig.runner.sync()
    for _ in range(5):
        rig.now = rig.now.replace(minute=rig.now.minute + 5)
        plan = rig.plan()
        if any(isinstance(action, Create) for action in plan.after):
            break
        rig.run_once()
    assert [type(action) for action in plan.after] == [Delete, Create]
