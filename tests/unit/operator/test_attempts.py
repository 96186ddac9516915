"""What becomes of an open attempt: started, proven, failed, evicted, overdue, deleted, or not ours."""

import copy
import dataclasses
import json
from typing import Any

import pytest

from rlhf_api import names
from rlhf_api.outcome import Outcome
from rlhf_api.status import JobPhase, StagePhase
from rlhf_operator.core.decide import decide
from rlhf_operator.core.model import Settings
from rlhf_operator.shell.kube import Forbidden, Unavailable
from tests.support.rig import DIGEST, HELLO, PROFILE, Rig, one_stage


def running(spec: dict[str, Any] | None = None, **options: Any) -> Rig:
    """A job whose stage sft runs."""
    rig = Rig(spec or one_stage(), **options)
    rig.succeed("prepare")
    rig.run("sft")
    assert rig.stage("sft").phase is StagePhase.RUNNING
    return rig


class TestFailure:
    def test_a_counted_failure_restarts_at_once_and_resumes(self) -> None:
        rig = running()
        rig.finish("sft", 1)
        assert rig.stage("sft").attempt == 2
        assert rig.stage("sft").counted_failures == 1
        assert rig.run_json("sft")["resumeFrom"] == ["stages/sft/r1/checkpoints"]
        assert rig.event("AttemptFailed").startswith("Stage sft attempt 1: exit 1 AppError on chat-sft-r1-0-")

    def test_the_second_failure_waits(self) -> None:
        rig = running()
        rig.finish("sft", 1)
        rig.finish("sft", 1)
        assert rig.stage("sft").phase is StagePhase.RESTARTING
        assert rig.condition("Stalled")[:2] == ("True", "Backoff")
        assert rig.requeue is not None
        rig.wait(rig.requeue)
        assert rig.stage("sft").attempt == 3

    def test_the_last_attempt_fails_the_job_and_skips_the_rest(self) -> None:
        rig = Rig()
        rig.succeed("prepare")
        for _ in range(3):
            rig.finish("sft", 1)
            rig.wait(100)
        assert rig.phases() == "prepare Succeeded, sft Failed, rm Skipped, ppo Skipped"
        assert rig.status.phase is JobPhase.FAILED
        assert rig.condition("Failed")[:2] == ("True", "MaxAttemptsExceeded")
        assert rig.status.reason == "MaxAttemptsExceeded"
        assert rig.events()[-2:] == ["StageFailed", "Failed"]

    def test_a_settings_error_is_never_retried(self) -> None:
        rig = running()
        rig.finish("sft", 64)
        assert rig.status.phase is JobPhase.FAILED
        assert rig.jobs() == ["chat-prepare-r1", "chat-sft-r1"]

    def test_a_stage_that_runs_beside_a_failed_one_keeps_its_output(self) -> None:
        spec = one_stage(runPolicy={"maxParallelStages": 2})
        other = copy.deepcopy(spec["stages"][0])
        spec["stages"].append({**other, "name": "sft2"})
        rig = Rig(spec)
        rig.succeed("prepare")
        rig.run("sft")
        rig.run("sft2")
        rig.finish("sft", 64)
        assert rig.phases() == "prepare Succeeded, sft Failed, sft2 Running"
        assert rig.status.phase is JobPhase.RUNNING
        rig.finish("sft2")
        assert rig.phases() == "prepare Succeeded, sft Failed, sft2 Succeeded"
        assert rig.status.phase is JobPhase.FAILED

    @pytest.mark.parametrize("order", [("sft", "sft2"), ("sft2", "sft")])
    def test_an_attempt_that_never_had_a_job_does_not_outlive_a_failed_stage(self, order: tuple[str, str]) -> None:
        spec = one_stage(runPolicy={"maxParallelStages": 2})
        spec["stages"] = [{**copy.deepcopy(spec["stages"][0]), "name": name} for name in order]
        rig = Rig(spec)
        rig.succeed("prepare")
        rig.run("sft")
        rig.finish("sft2", 1)
        rig.api.faults.fail("create", "Job", Forbidden("exceeded quota: pods"), every=True)
        rig.checks = False
        rig.finish("sft2", 1)
        rig.wait(60)
        assert (rig.attempt("sft2").attempt, rig.attempt("sft2").outcome, rig.attempt("sft2").job_uid) == (3, None, None)
        rig.api.faults.clear()
        for pod in rig.pods("sft"):
            rig.end(pod, 64)
        rig.runner.sync()
        rig.checks = True
        rig.settle()
        assert "chat-sft2-r3" not in rig.jobs()
        assert rig.status.phase is JobPhase.FAILED
        assert rig.attempt("sft2").message == "stage sft failed before this attempt had a Job"
        assert (rig.stage("sft2").phase, rig.stage("sft2").counted_failures) == (StagePhase.SKIPPED, 2)

    def test_a_peer_that_still_runs_is_waited_for(self) -> None:
        rig = running(one_stage(topology={"nodes": 2, "gpusPerNode": 0}))
        rig.ends_deleted_pods = False
        rig.finish("sft", 1, index=1)
        assert rig.stage("sft").phase is StagePhase.RESTARTING
        assert rig.attempt("sft").attempt == 1
        assert rig.condition("Stalled")[:2] == ("True", "Backoff")
        rig.ends_deleted_pods = True
        rig.settle()
        assert rig.stage("sft").attempt == 2

    def test_an_attempt_without_a_job_waits_while_the_job_is_not_accepted(self) -> None:
        rig = Rig(one_stage())
        rig.succeed("prepare")
        rig.api.faults.fail("create", "Job", Forbidden("exceeded quota: pods"), every=True)
        rig.checks = False
        rig.finish("sft", 1)
        rig.api.faults.clear()
        rig.checks = True
        rig.change(priorityClassName="high")
        assert rig.condition("Accepted")[:2] == ("False", "LimitExceeded")
        assert "chat-sft-r2" not in rig.jobs()
        rig.change(priorityClassName=None)
        assert (rig.attempt("sft").attempt, "chat-sft-r2" in rig.jobs()) == (2, True)

    def test_pods_that_were_not_listed_are_not_gone(self) -> None:
        rig = running()
        rig.end(rig.pods("sft")[0], 1)
        rig.runner.sync()
        unlisted = dataclasses.replace(rig.observed(), pods=(), listed=frozenset())
        plan = decide(unlisted, rig.now)
        assert (plan.is_empty, plan.requeue_seconds) == (True, 0.0)

    def test_the_job_event_may_come_before_the_pods_final_status(self) -> None:
        rig = running()
        job = rig.job("sft")
        conditions = [{"type": "FailureTarget", "status": "True", "reason": "BackoffLimitExceeded"}]
        rig.store.update_status("Job", "team-a", "chat-sft-r1", {**job["status"], "conditions": conditions})
        assert rig.plan().requeue_seconds == 2.0
        assert rig.plan().is_empty


class TestDisruption:
    def test_a_deleted_pod_costs_no_attempt(self) -> None:
        rig = running()
        rig.delete_pod(rig.pods("sft")[0])
        rig.settle()
        assert (rig.stage("sft").attempt, rig.stage("sft").counted_failures, rig.stage("sft").disruptions) == (2, 0, 1)
        assert "AttemptDisrupted" in rig.events()

    def test_an_evicted_pod_is_named(self) -> None:
        rig = running()
        pod = rig.pods("sft")[0]
        rig.ends_deleted_pods = False
        rig.report(pod, phase="Running", disrupted="PreemptionByScheduler")
        rig.delete_pod(pod)
        rig.settle()
        assert rig.attempt("sft").message is not None
        assert rig.attempt("sft").message.startswith("PreemptionByScheduler: the platform ended pod chat-sft-r1-0-")

    def test_a_pod_that_was_not_admitted_costs_no_attempt(self) -> None:
        rig = Rig(one_stage())
        rig.succeed("prepare")
        status = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "Allocate failed"}
        rig.store.update_status("Pod", "team-a", rig.pods("sft")[0]["metadata"]["name"], status)
        rig.settle()
        first = rig.stage("sft").attempts[0]
        assert (first.outcome, first.exit_code, rig.stage("sft").disruptions) == (Outcome.DISRUPTED, None, 1)
        assert first.message is not None
        assert first.message.startswith("UnexpectedAdmissionError: the platform ended pod chat-sft-r1-0-")

    def test_a_pod_that_was_evicted_before_its_container_had_a_state_ended_then(self) -> None:
        rig = running()
        rig.wait(100)
        target = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "lastTransitionTime": rig.store.now()}
        status = {"phase": "Failed", "reason": "Evicted", "conditions": [target]}
        rig.store.update_status("Pod", "team-a", rig.pods("sft")[0]["metadata"]["name"], status)
        rig.settle()
        assert rig.stage("sft").attempts[0].end_time == rig.now
        assert rig.stage("sft").disruptions == 1

    def test_a_lost_node_does_not_hold_the_next_attempt(self) -> None:
        rig = running()
        rig.ends_deleted_pods = False
        rig.store.delete("Node", "", "node-1")
        pod = rig.pods("sft")[0]
        rig.report(pod, phase="Running", disrupted="DeletionByTaintManager")
        rig.delete_pod(pod)
        rig.settle()
        assert rig.stage("sft").attempt == 2
        assert pod["metadata"]["name"] in [other["metadata"]["name"] for other in rig.store.find("Pod", "team-a")]

    def test_a_deleted_job_ends_the_attempt_and_its_number_is_not_used_again(self) -> None:
        rig = running()
        rig.store.delete("Job", "team-a", "chat-sft-r1")
        rig.settle()
        assert rig.stage("sft").attempt == 2
        assert rig.stage("sft").attempts[0].message == "JobDeleted: Job chat-sft-r1 was deleted"

    def test_a_job_whose_uid_was_not_written_yet_was_still_seen(self) -> None:
        rig = Rig(one_stage(), settings=Settings(uid_write_seconds=1000))
        rig.succeed("prepare")
        assert rig.attempt("sft").job_uid is None
        rig.store.delete("Job", "team-a", "chat-sft-r1")
        rig.settle()
        assert rig.stage("sft").attempt == 2

    def test_the_uid_of_a_new_job_is_written_after_a_while(self) -> None:
        rig = Rig(one_stage(), settings=Settings(uid_write_seconds=10))
        rig.succeed("prepare")
        assert rig.attempt("sft").job_uid is None
        rig.wait(10)
        assert rig.attempt("sft").job_uid == rig.job("sft")["metadata"]["uid"]

    def test_a_job_that_is_being_deleted_has_ended(self) -> None:
        rig = running()
        rig.ends_deleted_pods = False
        rig.store.delete("Job", "team-a", "chat-sft-r1", propagation="Foreground")
        rig.settle()
        assert rig.stage("sft").attempts[0].outcome is Outcome.DISRUPTED

    def test_a_job_replaced_by_another_of_its_name_is_not_touched(self) -> None:
        rig = running()
        body = rig.job("sft")
        rig.store.delete("Job", "team-a", "chat-sft-r1")
        stranger = {"metadata": {"name": "chat-sft-r1", "labels": body["metadata"]["labels"]}, "spec": {**body["spec"], "suspend": True}}
        rig.store.create("Job", "team-a", stranger)
        rig.settle()
        assert rig.stage("sft").attempt == 2
        assert "chat-sft-r1" in rig.jobs()

    def test_disruptions_beyond_the_limit_fail_the_stage(self) -> None:
        rig = running(one_stage(runPolicy={"maxDisruptions": 0}))
        rig.delete_pod(rig.pods("sft")[0])
        rig.settle()
        assert rig.condition("Failed")[:2] == ("True", "MaxDisruptionsExceeded")


class TestProof:
    @pytest.mark.parametrize(
        ("report", "words"),
        [
            pytest.param("", "left no termination message", id="no message"),
            pytest.param("Traceback", "is malformed", id="malformed"),
            pytest.param({"outcome": "Diverged", "exitCode": 76}, "says exit code 76", id="another exit code in it"),
            pytest.param({"outcome": "Succeeded", "exitCode": 0}, "has no outputDigest", id="no digest"),
            pytest.param({"outcome": "Succeeded", "exitCode": 0, "outputDigest": "md5:1"}, "is malformed", id="no sha256"),
            pytest.param('{"outcome": "Succeeded", "exitCode": 0, "metrics": {"loss": NaN}}', "malformed", id="not finite"),
        ],
    )
    def test_exit_zero_without_a_proof_is_a_counted_failure(self, report: Any, words: str) -> None:
        rig = running()
        rig.finish("sft", 0, report=report)
        first = rig.stage("sft").attempts[0]
        assert first.outcome is Outcome.OUTPUT_INVALID
        assert first.message is not None
        assert words in first.message
        assert rig.stage("sft").counted_failures == 1

    def test_with_the_budget_spent_the_stage_is_invalid(self) -> None:
        rig = running(one_stage(runPolicy={"maxAttempts": 1}))
        rig.finish("sft", 0, report="")
        assert rig.condition("Failed")[:2] == ("True", "OutputInvalid")

    def test_evidence_that_is_gone_costs_no_attempt(self) -> None:
        rig = running()
        for pod in rig.pods("sft"):
            rig.end(pod, 0)
        rig.runner.sync()
        rig.store.delete("Pod", "team-a", rig.pods("sft")[0]["metadata"]["name"])
        rig.settle()
        assert rig.stage("sft").attempts[0].message is not None
        assert rig.stage("sft").attempts[0].message.startswith("EvidenceLost: ")
        assert rig.stage("sft").disruptions == 1

    def test_until_pod_0_is_seen_ended_the_stage_verifies(self) -> None:
        rig = running()
        job = rig.job("sft")
        complete = {"conditions": [{"type": "Complete", "status": "True"}], "completionTime": rig.store.now()}
        rig.store.update_status("Job", "team-a", "chat-sft-r1", {**job["status"], **complete})
        rig.settle()
        assert rig.stage("sft").phase is StagePhase.VERIFYING
        assert rig.requeue == 2.0

    def test_the_size_of_the_output_is_a_figure_of_the_report(self) -> None:
        rig = running()
        report = {"outcome": "Succeeded", "exitCode": 0, "outputDigest": DIGEST, "metrics": {"output_bytes": 123.0}}
        rig.finish("sft", 0, report=report)
        assert rig.stage("sft").output is not None
        assert rig.stage("sft").output.size_bytes == 123

    @pytest.mark.parametrize("size", [-1.0, 1e300])
    def test_a_size_that_is_none_keeps_the_proof(self, size: float) -> None:
        rig = running()
        report = {"outcome": "Succeeded", "exitCode": 0, "outputDigest": DIGEST, "metrics": {"output_bytes": size}}
        rig.finish("sft", 0, report=report)
        assert rig.stage("sft").output is not None
        assert rig.stage("sft").output.size_bytes is None


class TestQueue:
    def queued(self) -> Rig:
        rig = Rig(one_stage(queueName="team-a"))
        rig.settle()
        return rig

    def admit(self, rig: Rig, stage: str) -> None:
        job = rig.job(stage)
        job["spec"]["suspend"] = False
        rig.store.update("Job", "team-a", job)
        rig.settle()

    def test_the_job_waits_suspended_until_it_is_admitted(self) -> None:
        rig = self.queued()
        assert rig.stage("prepare").phase is StagePhase.QUEUED
        assert rig.status.phase is JobPhase.QUEUED
        assert rig.condition("QuotaReserved")[:2] == ("False", "Waiting")
        self.admit(rig, "prepare")
        assert rig.stage("prepare").phase is StagePhase.STARTING
        assert rig.condition("QuotaReserved")[:2] == ("True", "Admitted")

    def test_waiting_in_the_queue_stops_all_clocks(self) -> None:
        rig = self.queued()
        rig.wait(100_000)
        assert rig.stage("prepare").phase is StagePhase.QUEUED
        assert rig.stage("prepare").attempt == 1

    def test_eviction_by_the_queue_costs_nothing_and_queues_again(self) -> None:
        rig = self.queued()
        self.admit(rig, "prepare")
        rig.run("prepare")
        job = rig.job("prepare")
        job["spec"]["suspend"] = True
        rig.store.update("Job", "team-a", job)
        rig.settle()
        stage = rig.stage("prepare")
        assert (stage.attempt, stage.phase, stage.disruptions, stage.counted_failures) == (2, StagePhase.QUEUED, 0, 0)
        assert stage.attempts[0].message is not None
        assert stage.attempts[0].message.startswith("QueueEvicted: ")

    def test_an_attempt_executes_once_even_when_the_queue_resumes_it_unseen(self) -> None:
        rig = self.queued()
        self.admit(rig, "prepare")
        rig.run("prepare")
        job = rig.job("prepare")
        rig.store.update_status("Job", "team-a", job["metadata"]["name"], {**job["status"], "startTime": "2026-01-01T13:00:00Z"})
        rig.settle()
        assert rig.stage("prepare").attempts[0].outcome is Outcome.CANCELLED
        assert rig.stage("prepare").attempt == 2


class TestOwnership:
    def test_a_job_of_ours_from_another_manifest_is_not_continued(self) -> None:
        rig = Rig(one_stage())
        rig.run_once()
        rig.reconciler = rig.new_reconciler()  # the one that made it does not compare it
        body = rig.store.get("Job", "team-a", "chat-prepare-r1")
        body["metadata"]["annotations"] = {names.ANNOTATION_SPEC_HASH: "0" * 64}
        rig.store.update("Job", "team-a", body)
        rig.settle()
        assert rig.stage("prepare").attempts[0].message == "SpecHashMismatch: Job chat-prepare-r1 was created from another manifest"
        assert rig.stage("prepare").attempt == 2

    def test_a_job_of_ours_with_other_content_is_a_conflict(self) -> None:
        rig = Rig(one_stage())
        rig.run_once()
        rig.reconciler = rig.new_reconciler()
        body = rig.store.get("Job", "team-a", "chat-prepare-r1")
        body["spec"]["backoffLimit"] = 6
        rig.store.update("Job", "team-a", body)
        rig.settle()
        assert rig.condition("Accepted")[:2] == ("False", "NameConflict")
        assert rig.requeue == 60

    def test_a_job_in_the_place_of_ours_before_its_uid_was_known_is_a_conflict(self) -> None:
        rig = Rig(one_stage(), settings=Settings(uid_write_seconds=1000))
        rig.succeed("prepare")
        rig.reconciler = rig.new_reconciler()
        body = rig.job("sft")
        body["spec"]["backoffLimit"] = 6
        rig.store.update("Job", "team-a", body)
        rig.settle()
        assert rig.condition("Accepted") == ("False", "NameConflict", "Job chat-sft-r1 exists and is not this attempt's")
        assert (rig.requeue, rig.attempt("sft").outcome) == (60, None)

    def test_a_foreign_job_of_that_name_is_a_conflict_until_it_leaves(self) -> None:
        rig = Rig(one_stage())
        rig.store.create(
            "Job",
            "team-a",
            {"metadata": {"name": "chat-prepare-r1"}, "spec": {"completions": 1, "suspend": True, "template": {"spec": {}}}},
        )
        rig.settle(checks=False)
        assert rig.condition("Accepted")[:2] == ("False", "NameConflict")
        assert "NameConflict" in rig.events()
        rig.store.delete("Job", "team-a", "chat-prepare-r1")
        rig.wait(60)
        assert rig.condition("Accepted")[0] == "True"
        assert rig.job("prepare")["metadata"]["ownerReferences"][0]["uid"] == rig.uid

    def test_a_foreign_service_ends_the_attempt_whose_gang_could_never_meet(self) -> None:
        rig = Rig(one_stage(topology={"nodes": 2, "gpusPerNode": 0}))
        rig.store.create("Service", "team-a", {"metadata": {"name": "chat-sft-r1"}, "spec": {}})
        rig.succeed("prepare")
        assert rig.stage("sft").attempts[0].message is not None
        assert rig.stage("sft").attempts[0].message.startswith("NameConflict: Service chat-sft-r1 exists")
        assert rig.stage("sft").attempt == 2


class TestService:
    """A gang runs only once its Service is there: afterwards nobody looks for it."""

    def gang(self) -> Rig:
        return Rig(one_stage(topology={"nodes": 2, "gpusPerNode": 0}))

    def services(self, rig: Rig) -> list[str]:
        return [service["metadata"]["name"] for service in rig.store.find("Service", "team-a")]

    def test_pods_that_are_ready_before_the_next_operator_looks_wait_for_it(self) -> None:
        rig = self.gang()
        rig.settle()
        for pod in rig.pods("prepare"):
            rig.end(pod, 0)
        rig.runner.sync()
        rig.run_once()
        rig.reconciler = rig.new_reconciler()
        rig.runner.sync()
        assert (rig.jobs(), self.services(rig)) == (["chat-prepare-r1", "chat-sft-r1"], [])
        for pod in rig.pods("sft"):
            rig.report(pod, phase="Running", ready=True)
        rig.runner.sync()
        assert rig.run_once() == 0, "no event follows the create of a Service"
        assert (rig.stage("sft").phase, self.services(rig)) == (StagePhase.STARTING, ["chat-sft-r1"])
        rig.settle()
        assert rig.stage("sft").phase is StagePhase.RUNNING

    def test_pods_that_become_ready_do_not_hide_that_the_server_refused_it(self) -> None:
        rig = self.gang()
        rig.api.faults.fail("create", "Service", Forbidden("exceeded quota: services=10"), every=True)
        rig.checks = False
        rig.succeed("prepare")
        rig.run("sft")
        rig.wait(60)
        assert rig.stage("sft").phase is StagePhase.STARTING
        assert rig.condition("Stalled") == ("True", "QuotaExceeded", "stage sft: exceeded quota: services=10")
        rig.api.faults.clear()
        rig.checks = True
        rig.wait(60)
        assert (rig.stage("sft").phase, self.services(rig)) == (StagePhase.RUNNING, ["chat-sft-r1"])
        assert rig.condition("Stalled")[0] == "False"

    def test_a_running_gang_costs_no_look_at_it(self) -> None:
        rig = running(one_stage(topology={"nodes": 2, "gpusPerNode": 0}))
        rig.api.faults.fail("get", "Service", Unavailable("timeout"), every=True)
        rig.progress("sft", 1)
        assert rig.stage("sft").progress is not None


def test_an_attempt_goes_on_without_the_snapshot_of_its_profile() -> None:
    """Somebody deleted it, and a new operator has not read it yet: what runs is followed to its end, and nothing new starts."""
    rig = running(HELLO)
    rig.reconciler = rig.new_reconciler()
    rig.store.delete("ControllerRevision", "team-a", str(rig.status.profile.revision))
    rig.progress("sft", 7)
    assert (rig.stage("sft").phase, rig.condition("Accepted")[:2]) == (StagePhase.RUNNING, ("False", "NameConflict"))
    rig.succeed("sft")
    assert rig.stage("sft").phase is StagePhase.SUCCEEDED
    assert rig.jobs() == ["chat-prepare-r1", "chat-sft-r1"]


class TestProgress:
    def test_figures_checkpoint_and_resumption_reach_the_status(self) -> None:
        rig = running()
        checkpoint = {"path": "stages/sft/r1/checkpoints/5", "step": 5, "digest": DIGEST}
        rig.progress(
            "sft", 7, totalSteps=10, percent=70, etaSeconds=3.4, metrics={"loss": 2.0}, checkpoint=checkpoint, resumedFrom=checkpoint
        )
        stage = rig.stage("sft")
        assert stage.progress is not None
        assert (stage.progress.step, stage.progress.total_steps, stage.progress.percent, stage.progress.eta_seconds) == (7, 10, 70, 3)
        assert stage.checkpoint is not None
        assert stage.attempts[-1].resumed_from is not None

    def test_progress_of_an_older_attempt_is_ignored(self) -> None:
        rig = running()
        rig.progress("sft", 7)
        rig.finish("sft", 1)
        rig.run("sft")
        rig.settle()
        assert rig.stage("sft").attempt == 2
        assert rig.stage("sft").attempts[-1].resumed_from is None

    def test_an_older_checkpoint_than_the_known_one_raises_an_event(self) -> None:
        rig = running()
        rig.progress("sft", 7, checkpoint={"path": "stages/sft/r1/checkpoints/6", "step": 6, "digest": DIGEST})
        rig.finish("sft", 1)
        rig.run("sft")
        rig.progress("sft", 4, resumedFrom={"path": "stages/sft/r1/checkpoints/3", "step": 3, "digest": DIGEST})
        assert rig.event("CheckpointSkipped") == "Stage sft attempt 2: resumed from step 3; the checkpoint of step 6 was not usable"

    def test_a_path_that_leaves_the_job_is_no_checkpoint(self) -> None:
        rig = running()
        rig.progress("sft", 7, checkpoint={"path": "stages/../../other", "step": 5, "digest": DIGEST})
        assert rig.stage("sft").checkpoint is None

    def test_half_the_deadline_without_a_step_is_a_stall(self) -> None:
        rig = running()
        rig.progress("sft", 7, idle_seconds=901)
        assert rig.condition("Stalled")[:2] == ("True", "NoProgress")
        assert rig.stage("sft").phase is StagePhase.RUNNING
        rig.progress("sft", 8)
        assert rig.condition("Stalled")[0] == "False"

    def test_the_whole_deadline_and_the_watchdogs_time_end_the_attempt(self) -> None:
        rig = running()
        rig.progress("sft", 7, idle_seconds=1919)
        assert rig.stage("sft").attempt == 1
        rig.progress("sft", 7, idle_seconds=1921)
        assert rig.stage("sft").attempts[0].outcome is Outcome.STALLED
        assert rig.stage("sft").counted_failures == 1

    def test_pods_that_report_nothing_for_a_while_are_initializing(self) -> None:
        rig = running()
        assert rig.requeue == 21
        rig.wait(21)
        assert rig.condition("Stalled")[:2] == ("True", "Initializing")

    def test_a_new_operator_listens_before_it_calls_a_running_attempt_silent(self) -> None:
        rig = running()
        rig.progress("sft", 80)
        rig.wait(600)
        before = rig.body()
        rig.reconciler = rig.new_reconciler()
        rig.settle()
        assert rig.body() == before, "nothing is known yet, so nothing is said"
        assert rig.requeue == 21
        rig.wait(21)
        assert rig.condition("Stalled")[:2] == ("True", "Initializing")

    def test_silence_counts_from_when_all_pods_run(self) -> None:
        rig = Rig(one_stage())
        rig.succeed("prepare")
        rig.report(rig.pods("sft")[0], phase="Pending", waiting={"reason": "ContainerCreating"})
        rig.wait(300)
        rig.run("sft")
        assert rig.condition("Stalled")[0] == "False"
        rig.wait(21)
        assert rig.condition("Stalled")[:2] == ("True", "Initializing")

    def test_progress_alone_is_written_only_now_and_then(self) -> None:
        rig = running(settings=Settings(progress_write_seconds=30, uid_write_seconds=0))
        rig.progress("sft", 1)
        rig.now = rig.now.replace(second=10)
        rig.progress("sft", 2)
        assert rig.stage("sft").progress is not None
        assert rig.stage("sft").progress.step == 1
        assert rig.requeue is not None
        assert rig.requeue <= 20
        rig.wait(20)
        assert rig.stage("sft").progress.step == 2


def test_run_json_names_everything_a_stage_needs() -> None:
    rig = Rig()
    rig.succeed("prepare", "sft", "rm")
    run = rig.run_json("ppo")
    assert run["inputs"] == {
        "policy": {"path": "stages/sft/r1/output", "digest": run["inputs"]["policy"]["digest"]},
        "reward": {"path": "stages/rm/r1/output", "digest": run["inputs"]["reward"]["digest"]},
        "critic": {"path": "stages/rm/r1/output", "digest": run["inputs"]["reward"]["digest"]},
    }
    assert run["preparedDatasets"] == {"prompts": "ppo.prompts"}
    assert run["prepared"]["path"] == "stages/prepare/r1/output"
    assert json.dumps(run).isascii()


def test_gpu_seconds_count_the_time_of_ended_attempts() -> None:
    profile = {**PROFILE, "gpu": {"memoryGiB": 80}}
    rig = Rig(one_stage(topology={"gpusPerNode": 2}), profile)
    rig.succeed("prepare")
    rig.run("sft")
    rig.wait(100)
    rig.finish("sft", 1)
    assert rig.status.gpu_seconds == 200
