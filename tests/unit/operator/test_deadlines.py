"""Whose time is up: startup with and without a partial gang, active time of stage and job, and the backstop in the Job."""

from datetime import timedelta

import pytest

from rlhf_api.outcome import Outcome
from rlhf_api.policies import RunPolicy
from rlhf_api.profile import ProfileSpec
from rlhf_api.status import StagePhase
from rlhf_operator.core import deadlines
from rlhf_operator.core.failure import Ending
from rlhf_operator.core.manifests import job
from rlhf_operator.core.specs import stages_of
from tests.support.rig import PROFILE, Rig, one_stage


def starting(nodes: int = 1, **changes: object) -> Rig:
    rig = Rig(one_stage(topology={"nodes": nodes, "gpusPerNode": 0}, **changes))
    rig.succeed("prepare")
    assert rig.stage("sft").phase is StagePhase.STARTING
    return rig


class TestStartup:
    def test_pods_that_are_placed_but_never_ready_end_the_attempt(self) -> None:
        rig = starting()
        rig.report(rig.pods("sft")[0], phase="Pending", waiting={"reason": "ContainerCreating"})
        rig.wait(1799)
        assert rig.stage("sft").attempt == 1
        rig.wait(1)
        assert rig.stage("sft").attempts[0].outcome is Outcome.STARTUP_TIMEOUT
        assert (rig.stage("sft").attempt, rig.stage("sft").disruptions, rig.stage("sft").counted_failures) == (2, 1, 0)

    def test_time_without_any_placed_pod_does_not_count(self) -> None:
        rig = starting()
        rig.report(rig.pods("sft")[0], phase="Pending", placed=False, unschedulable="no node has a GPU")
        rig.wait(100_000)
        assert rig.stage("sft").attempt == 1
        assert rig.condition("PodsReady")[:2] == ("False", "Unschedulable")

    def test_a_partial_gang_frees_its_nodes_and_waits(self) -> None:
        rig = starting(nodes=2)
        first, second = rig.pods("sft")
        rig.report(first, phase="Running", ready=True)
        rig.report(second, phase="Pending", placed=False, unschedulable="0/3 nodes are available")
        rig.wait(60)
        assert rig.condition("PodsReady")[2] == "stage sft: 1 of 2 pods placed: 0/3 nodes are available"
        rig.wait(1800)
        assert rig.stage("sft").attempts[0].message == (
            "PartialGang: 1 of 2 pods placed; not all 2 pods were ready after 1800 s (startupDeadlineSeconds)"
        )
        assert rig.stage("sft").phase is StagePhase.RESTARTING
        assert rig.requeue is not None
        assert rig.requeue >= 30
        rig.wait(rig.requeue)
        assert rig.stage("sft").attempt == 2

    def test_an_attempt_that_once_ran_is_not_starting_again(self) -> None:
        rig = starting(nodes=2)
        rig.run("sft")
        rig.report(rig.pods("sft")[0], phase="Running", ready=False)
        rig.wait(5000)
        assert rig.stage("sft").phase is StagePhase.RUNNING


class TestActive:
    def test_the_stage_ends_for_good(self) -> None:
        rig = starting(runPolicy={"activeDeadlineSeconds": 100})
        rig.run("sft")
        rig.wait(99)
        assert rig.stage("sft").phase is StagePhase.RUNNING
        assert rig.requeue == 1
        rig.wait(1)
        assert rig.condition("Failed")[:2] == ("True", "DeadlineExceeded")
        assert "activeDeadlineSeconds" in rig.condition("Failed")[2]

    def test_attempts_add_up_and_suspension_is_free(self) -> None:
        rig = starting(runPolicy={"activeDeadlineSeconds": 100})
        rig.run("sft")
        rig.wait(60)
        rig.change(suspend=True)
        rig.wait(1000)
        rig.change(suspend=False)
        assert rig.job("sft")["spec"]["activeDeadlineSeconds"] == 40
        rig.run("sft")
        rig.wait(39)
        assert rig.stage("sft").phase is StagePhase.RUNNING
        rig.wait(1)
        assert rig.condition("Failed")[:2] == ("True", "DeadlineExceeded")

    def test_the_job_has_a_deadline_of_its_own(self) -> None:
        spec = one_stage(runPolicy={"activeDeadlineSeconds": 100})
        spec["stages"][0]["runPolicy"] = {"activeDeadlineSeconds": 1000}
        rig = Rig(spec)
        rig.settle()
        rig.run("prepare")
        rig.wait(70)
        rig.finish("prepare")
        assert rig.job("sft")["spec"]["activeDeadlineSeconds"] == 30
        rig.run("sft")
        rig.wait(30)
        assert rig.condition("Failed")[:2] == ("True", "DeadlineExceeded")

    @pytest.mark.parametrize("stage_limit", [100, 1000])
    def test_a_rerun_has_all_the_time_again(self, stage_limit: int) -> None:
        spec = one_stage(runPolicy={"activeDeadlineSeconds": 100})
        spec["stages"][0]["runPolicy"] = {"activeDeadlineSeconds": stage_limit}
        rig = Rig(spec)
        rig.succeed("prepare")
        rig.run("sft")
        rig.wait(100)
        assert rig.condition("Failed")[:2] == ("True", "DeadlineExceeded")
        rig.change(rerun={"fromStage": "sft", "token": "2"})
        assert rig.job("sft")["spec"]["activeDeadlineSeconds"] == 100
        rig.run("sft")
        rig.wait(60)
        rig.finish("sft", 1)
        assert rig.job("sft")["spec"]["activeDeadlineSeconds"] == 40, "attempts since the rerun add up"
        rig.reconciler = rig.new_reconciler()
        rig.run("sft")
        rig.wait(39)
        assert rig.stage("sft").phase is StagePhase.RUNNING
        rig.wait(1)
        assert rig.condition("Failed")[:2] == ("True", "DeadlineExceeded")

    def test_stages_that_run_together_use_the_jobs_time_once(self) -> None:
        spec = one_stage(runPolicy={"activeDeadlineSeconds": 100, "maxParallelStages": 2})
        spec["stages"].append({**spec["stages"][0], "name": "sft2"})
        rig = Rig(spec)
        rig.succeed("prepare")
        rig.run("sft")
        rig.run("sft2")
        rig.wait(90)
        assert rig.stage("sft").phase is StagePhase.RUNNING
        assert rig.stage("sft2").phase is StagePhase.RUNNING

    @pytest.mark.parametrize(("stage_limit", "words"), [(100, "the stage ran for 100 s"), (1000, "the job ran for 100 s")])
    def test_whose_deadline_it_was_is_said(self, stage_limit: int, words: str) -> None:
        rig = starting(runPolicy={"activeDeadlineSeconds": 100})
        rig.run("sft")
        job_policy = RunPolicy(active_deadline_seconds=100)
        stage_policy = RunPolicy(active_deadline_seconds=stage_limit)
        rules = ProfileSpec.from_wire(PROFILE)
        ending = deadlines.active(rig.status, rig.stage("sft"), stage_policy, job_policy, rules, rig.now + timedelta(seconds=100))
        assert isinstance(ending, Ending)
        assert ending.message == f"{words} (activeDeadlineSeconds)"

    def test_unset_it_is_the_limit_of_the_profile(self) -> None:
        rig = Rig(one_stage(), {**PROFILE, "limits": {"maxActiveDeadlineSeconds": 60}})
        rig.settle()
        assert rig.job("prepare")["spec"]["activeDeadlineSeconds"] == 60

    def test_the_jobs_own_clock_is_a_backstop_while_the_operator_is_away(self) -> None:
        rig = starting(runPolicy={"activeDeadlineSeconds": 100})
        rig.run("sft")
        rig.now += timedelta(seconds=200)
        rig.runner.sync()
        assert rig.job("sft")["status"]["conditions"][0]["reason"] == "DeadlineExceeded"
        rig.settle()
        assert rig.condition("Failed")[:2] == ("True", "DeadlineExceeded")


def test_a_job_created_again_after_a_crash_is_the_same_job() -> None:
    rig = starting(runPolicy={"activeDeadlineSeconds": 100})
    rig.run("sft")
    rig.wait(10)
    rig.finish("sft", 1)
    first = rig.job("sft")
    rig.now += timedelta(seconds=30)
    observed = rig.observed()
    assert observed.spec is not None
    again = job.job(observed, stages_of(observed.spec)[1], observed.status)
    assert again["metadata"]["annotations"] == first["metadata"]["annotations"]
