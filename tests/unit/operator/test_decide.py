"""The life cycle of a job, told by the rig: what a user sees after each thing that may happen. Every step also checks idempotence."""

import copy

import pytest

from rlhf_api import names
from rlhf_api.outcome import Outcome
from rlhf_api.status import JobPhase, StagePhase
from tests.support.rig import HELLO, PROFILE, Rig, digest_of, one_stage


def test_a_job_runs_its_stages_in_order_and_completes() -> None:
    rig = Rig()
    rig.settle()
    assert rig.phases() == "prepare Starting, sft Pending, rm Pending, ppo Pending"
    assert rig.status.phase is JobPhase.STARTING
    rig.run("prepare")
    assert rig.status.phase is JobPhase.RUNNING
    rig.finish("prepare")
    assert rig.phases() == "prepare Succeeded, sft Starting, rm Pending, ppo Pending"
    rig.succeed("sft", "rm", "ppo")
    assert rig.status.phase is JobPhase.SUCCEEDED
    assert rig.condition("Complete") == ("True", "StagesSucceeded", "")
    assert rig.condition("Failed")[0] == "False"
    assert rig.status.stages_summary == "4/4"
    assert rig.jobs() == ["chat-ppo-r1", "chat-prepare-r1", "chat-rm-r1", "chat-sft-r1"]
    assert rig.plan().is_empty
    assert rig.requeue is None


def test_a_stage_that_finished_before_it_was_seen_running_counts() -> None:
    rig = Rig(one_stage())
    rig.settle()
    rig.finish("prepare")
    rig.finish("sft")
    assert rig.status.phase is JobPhase.SUCCEEDED


def test_outputs_and_figures_of_the_report_are_in_the_status() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare", "sft")
    stage = rig.stage("sft")
    assert stage.output is not None
    assert (stage.output.path, stage.output.digest) == ("stages/sft/r1/output", digest_of("sft"))
    assert [(metric.name, metric.value) for metric in stage.metrics] == [("loss", 1.5)]
    assert (rig.attempt("sft").outcome, rig.attempt("sft").exit_code) == (Outcome.SUCCEEDED, 0)


def test_the_first_attempt_of_a_job_costs_a_snapshot_a_claim_a_policy_a_status_and_a_job() -> None:
    rig = Rig()
    rig.settle()
    assert [obj["metadata"]["name"] for obj in rig.store.find("PersistentVolumeClaim", "team-a")] == [f"chat-{rig.uid[:8]}"]
    assert rig.status.profile is not None
    assert [obj["metadata"]["name"] for obj in rig.store.find("ControllerRevision", "team-a")] == [rig.status.profile.revision]
    assert [obj["metadata"]["name"] for obj in rig.store.find("NetworkPolicy", "team-a")] == ["chat-isolate"]


def test_a_profile_without_isolation_has_no_network_policy() -> None:
    rig = Rig(profile={**PROFILE, "networkPolicy": "None"})
    rig.settle()
    assert rig.store.find("NetworkPolicy", "team-a") == []


def test_independent_stages_run_together_when_the_policy_allows() -> None:
    spec = {**HELLO, "runPolicy": {"maxParallelStages": 2}, "stages": [dict(HELLO["stages"][0]), dict(HELLO["stages"][1])]}
    spec["stages"][1]["rewardModel"] = {**spec["stages"][1]["rewardModel"], "init": {"source": {"uri": "builtin://models/tiny-llama"}}}
    rig = Rig(spec)
    rig.succeed("prepare")
    assert rig.phases() == "prepare Succeeded, sft Starting, rm Starting"
    assert rig.status.current_stage == "sft,rm"


def test_by_default_one_stage_runs_at_a_time() -> None:
    spec = {**HELLO, "stages": [dict(HELLO["stages"][0]), dict(HELLO["stages"][1])]}
    spec["stages"][1]["rewardModel"] = {**spec["stages"][1]["rewardModel"], "init": {"source": {"uri": "builtin://models/tiny-llama"}}}
    rig = Rig(spec)
    rig.succeed("prepare")
    assert rig.phases() == "prepare Succeeded, sft Starting, rm Pending"
    assert rig.condition("Stalled")[0] == "False"


def test_a_gang_gets_a_service_that_belongs_to_its_job() -> None:
    rig = Rig(one_stage(topology={"nodes": 2, "gpusPerNode": 0}))
    rig.succeed("prepare")
    (service,) = rig.store.find("Service", "team-a")
    assert service["metadata"]["name"] == "chat-sft-r1"
    assert service["metadata"]["ownerReferences"][0]["uid"] == rig.job("sft")["metadata"]["uid"]
    assert len(rig.pods("sft")) == 2


def test_a_job_of_another_controller_is_left_alone() -> None:
    rig = Rig({**HELLO, "managedBy": "kueue.x-k8s.io/multikueue"})
    rig.settle()
    assert "status" not in rig.body()
    assert rig.jobs() == []


def test_a_job_that_is_being_deleted_is_left_alone() -> None:
    rig = Rig()
    rig.settle()
    body = rig.body()
    body["metadata"]["finalizers"] = ["somebody/else"]
    rig.store.update(names.KIND_JOB, "team-a", body)
    rig.store.delete(names.KIND_JOB, "team-a", "chat")
    assert rig.plan().is_empty


def test_a_finished_job_is_deleted_when_its_time_has_come() -> None:
    rig = Rig(one_stage(runPolicy={"ttlSecondsAfterFinished": 60}))
    rig.succeed("prepare", "sft")
    assert rig.requeue == 60
    rig.wait(59)
    assert rig.body()
    rig.wait(2)
    assert rig.store.find(names.KIND_JOB, "team-a") == []


def test_the_round_that_ends_a_job_asks_for_the_end_of_its_time_to_live() -> None:
    """In a cluster nothing else would: the own status write is no event, and the resync comes in minutes."""
    rig = Rig(one_stage(runPolicy={"ttlSecondsAfterFinished": 60}))
    rig.succeed("prepare")
    rig.run("sft")
    for pod in rig.pods("sft"):
        rig.end(pod, 0)
    rig.runner.sync()
    assert rig.run_once() == 60
    assert rig.status.phase is JobPhase.SUCCEEDED


def test_an_edit_of_a_finished_job_without_a_token_is_only_noticed() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare", "sft")
    rig.change(runPolicy={"maxAttempts": 5})
    assert rig.status.observed_generation == 2
    assert rig.status.phase is JobPhase.SUCCEEDED


def test_a_finished_job_that_was_edited_beyond_reading_stays_finished() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare", "sft")
    rig.change(stages="none")
    assert rig.status.phase is JobPhase.SUCCEEDED


def test_a_namespace_that_the_profile_allows_may_use_it() -> None:
    rig = Rig(one_stage(), {**PROFILE, "allowedNamespaces": {"matchLabels": {"team": "a"}}})
    rig.settle()
    assert rig.jobs() == ["chat-prepare-r1"]


class TestSuspend:
    def test_running_pods_are_ended_without_using_a_budget(self) -> None:
        rig = Rig(one_stage())
        rig.succeed("prepare")
        rig.run("sft")
        rig.change(suspend=True)
        assert rig.status.phase is JobPhase.SUSPENDED
        assert rig.condition("Suspended") == ("True", "User", "spec.suspend is true")
        assert (rig.attempt("sft").outcome, rig.stage("sft").counted_failures, rig.stage("sft").disruptions) == (Outcome.CANCELLED, 0, 0)
        assert "chat-sft-r1" not in rig.jobs()

    def test_it_is_effective_only_when_no_pod_is_left(self) -> None:
        rig = Rig(one_stage())
        rig.succeed("prepare")
        rig.run("sft")
        rig.ends_deleted_pods = False
        rig.change(suspend=True)
        assert rig.condition("Suspended")[0] == "False"
        rig.ends_deleted_pods = True
        rig.settle()
        assert rig.condition("Suspended")[0] == "True"

    def test_resume_starts_the_next_attempt_from_the_checkpoints(self) -> None:
        rig = Rig(one_stage())
        rig.succeed("prepare")
        rig.run("sft")
        rig.change(suspend=True)
        rig.change(suspend=False)
        assert rig.stage("sft").attempt == 2
        assert rig.run_json("sft")["resumeFrom"] == ["stages/sft/r1/checkpoints"]
        assert rig.events()[-2:] == ["Resumed", "AttemptStarted"]

    def test_a_job_that_is_created_suspended_holds_nothing(self) -> None:
        rig = Rig(one_stage(suspend=True))
        rig.settle()
        assert rig.status.phase is JobPhase.SUSPENDED
        assert rig.jobs() == []
        assert rig.store.find("PersistentVolumeClaim", "team-a") == []
        rig.change(suspend=False)
        assert rig.phases() == "prepare Starting, sft Pending"


class TestRerun:
    def test_a_token_runs_the_stage_and_its_dependants_from_zero(self) -> None:
        rig = Rig()
        rig.succeed("prepare", "sft", "rm", "ppo")
        rig.change(rerun={"fromStage": "rm", "token": "2"})
        assert rig.phases() == "prepare Succeeded, sft Succeeded, rm Starting, ppo Pending"
        assert rig.stage("rm").attempt == 2
        assert rig.run_json("rm")["resumeFrom"] == []
        assert rig.condition("Complete")[0] == "False"
        assert rig.status.rerun_token == "2"
        rig.succeed("rm", "ppo")
        assert rig.status.phase is JobPhase.SUCCEEDED

    def test_a_failed_stage_resumes_when_its_work_is_the_same(self) -> None:
        rig = Rig(one_stage(runPolicy={"maxAttempts": 1}))
        rig.succeed("prepare")
        rig.finish("sft", 1)
        assert rig.status.phase is JobPhase.FAILED
        rig.change(rerun={"fromStage": "sft", "token": "2"})
        assert rig.stage("sft").counted_failures == 0
        assert rig.run_json("sft")["resumeFrom"] == ["stages/sft/r1/checkpoints"]

    def test_a_failed_stage_that_was_edited_starts_anew(self) -> None:
        rig = Rig(one_stage(runPolicy={"maxAttempts": 1}))
        rig.succeed("prepare")
        rig.finish("sft", 1)
        stages = one_stage()["stages"]
        stages[0]["sft"]["learningRate"] = 1e-4
        rig.change(stages=stages, rerun={"fromStage": "sft", "token": "2"})
        assert rig.stage("sft").attempt == 2
        assert rig.run_json("sft")["resumeFrom"] == []
        assert rig.phases() == "prepare Succeeded, sft Starting"

    def test_changed_data_runs_prepare_again_and_not_the_other_stages(self) -> None:
        rig = Rig()
        rig.succeed("prepare", "sft")
        rig.finish("rm", 65)
        assert rig.phases() == "prepare Succeeded, sft Succeeded, rm Failed, ppo Skipped"
        stages = [dict(stage) for stage in HELLO["stages"]]
        stages[1]["rewardModel"] = {**stages[1]["rewardModel"], "dataset": {"uri": "builtin://datasets/tiny-chat-other"}}
        rig.change(stages=stages, rerun={"fromStage": "rm", "token": "2"})
        assert rig.phases() == "prepare Starting, sft Succeeded, rm Pending, ppo Pending"

    def test_a_rerun_takes_the_profile_as_it_is_now(self) -> None:
        rig = Rig(one_stage())
        rig.succeed("prepare", "sft")
        profile = rig.store.get(names.KIND_PROFILE, "", "default")
        profile["spec"]["env"] = [{"name": "NCCL_DEBUG", "value": "INFO"}]
        rig.store.update(names.KIND_PROFILE, "", profile)
        rig.change(rerun={"fromStage": "sft", "token": "2"})
        env = rig.job("sft")["spec"]["template"]["spec"]["containers"][0]["env"]
        assert {"name": "NCCL_DEBUG", "value": "INFO"} in env

    def test_every_changed_stage_runs_again_with_its_dependants(self) -> None:
        rig = Rig()
        rig.succeed("prepare", "sft", "rm", "ppo")
        stages = copy.deepcopy(HELLO["stages"])
        stages[1]["rewardModel"]["learningRate"] = 1e-5
        rig.change(stages=stages, rerun={"fromStage": "ppo", "token": "2"})
        assert rig.phases() == "prepare Succeeded, sft Succeeded, rm Starting, ppo Pending"

    @pytest.mark.parametrize("has_job", [True, False])
    def test_what_still_runs_is_ended_first(self, has_job: bool) -> None:
        rig = Rig(one_stage())
        rig.succeed("prepare")
        rig.run("sft")
        if not has_job:
            rig.store.delete("Job", "team-a", "chat-sft-r1")
        rig.change(rerun={"fromStage": "sft", "token": "2"})
        assert rig.stage("sft").attempt == 2
        assert rig.stage("sft").attempts[0].message == "Rerun: the stage runs again"
        assert "chat-sft-r1" not in rig.jobs()
        assert "Rerun" in rig.events()

    def test_the_token_of_a_new_job_asks_for_nothing(self) -> None:
        rig = Rig(one_stage(rerun={"fromStage": "sft", "token": "1"}))
        rig.succeed("prepare", "sft")
        assert rig.stage("sft").attempt == 1
        assert rig.status.phase is JobPhase.SUCCEEDED

    def test_suspended_work_ends_when_its_stage_is_rerun(self) -> None:
        rig = Rig(one_stage())
        rig.succeed("prepare")
        rig.run("sft")
        rig.ends_deleted_pods = False
        rig.change(suspend=True)
        rig.change(suspend=False, rerun={"fromStage": "sft", "token": "2"})
        assert rig.stage("sft").phase is StagePhase.PENDING
        rig.ends_deleted_pods = True
        rig.settle()
        assert rig.stage("sft").attempt == 2


def test_prepare_runs_again_when_a_suspended_job_gets_other_data() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare")
    rig.run("sft")
    rig.change(suspend=True)
    stages = one_stage()["stages"]
    stages[0]["sft"]["dataset"] = {"uri": "builtin://datasets/tiny-chat-other"}
    rig.change(stages=stages, suspend=False)
    assert rig.phases() == "prepare Starting, sft Restarting"
    rig.succeed("prepare")
    assert rig.run_json("sft")["resumeFrom"] == []


def test_old_jobs_are_deleted_but_for_the_last_ended_one() -> None:
    rig = Rig(one_stage(runPolicy={"maxAttempts": 5}))
    rig.succeed("prepare")
    for _ in range(3):
        rig.finish("sft", 1)
        rig.wait(400)
    assert rig.jobs() == ["chat-prepare-r1", "chat-sft-r3", "chat-sft-r4"]


def test_the_namespace_limit_holds_new_jobs_back() -> None:
    rig = Rig()
    rig.reconciler.set_slot(rig.key, has_slot=False)
    rig.settle()
    assert rig.jobs() == []
    assert rig.condition("QuotaReserved")[:2] == ("False", "ConcurrencyLimit")
    assert rig.condition("Stalled")[:2] == ("True", "ConcurrencyLimit")
    rig.reconciler.set_slot(rig.key, has_slot=True)
    rig.settle()
    assert rig.jobs() == ["chat-prepare-r1"]
    assert "StallCleared" in rig.events()


@pytest.mark.parametrize("point", range(6))
def test_an_operator_that_forgets_everything_between_two_steps_changes_nothing(point: int) -> None:
    steps = [
        lambda rig: rig.settle(),
        lambda rig: rig.run("prepare"),
        lambda rig: rig.finish("prepare"),
        lambda rig: rig.run("sft"),
        lambda rig: rig.finish("sft", 1),
        lambda rig: rig.succeed("sft"),
    ]
    rig = Rig(one_stage())
    for number, step in enumerate(steps):
        if number == point:
            rig.reconciler = rig.new_reconciler()
        step(rig)
    assert rig.status.phase is JobPhase.SUCCEEDED
    assert rig.stage("sft").attempt == 2


@pytest.mark.parametrize("code", [0, 64])
def test_an_attempt_that_ended_before_the_status_knew_it_is_judged_by_its_pods(code: int) -> None:
    """The operator died right after it created the first Job: the next one finds an empty status and a Job that is over."""
    rig = Rig(one_stage())
    rig.run_once()
    assert rig.jobs() == ["chat-prepare-r1"]
    assert not rig.body().get("status", {}).get("stages")
    rig.reconciler = rig.new_reconciler()
    rig.runner.sync()
    for pod in rig.store.find("Pod", "team-a"):
        rig.end(pod, code)
    rig.runner.sync()
    rig.settle(checks=False)  # finds its Job, whose event would bring the next look; here time does
    rig.wait(2)
    assert rig.stage("prepare").phase is (StagePhase.FAILED if code else StagePhase.SUCCEEDED)
    assert [attempt.outcome for attempt in rig.stage("prepare").attempts] == [Outcome.CONFIG_INVALID if code else Outcome.SUCCEEDED]
    assert rig.stage("prepare").disruptions == 0
