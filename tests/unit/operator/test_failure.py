"""Evidence → outcome → budget → what follows: the table of operator.md section 4, row by row."""

import json
from datetime import timedelta
from typing import Any

import pytest

from rlhf_api import names
from rlhf_api.outcome import Budget, Outcome
from rlhf_api.policies import RunPolicy
from rlhf_api.status import AttemptStatus, StagePhase, StageStatus
from rlhf_operator.core import failure
from rlhf_operator.core.failure import Ending
from rlhf_operator.core.live import LiveJob, LivePod
from tests.support.rig import DIGEST, NOON, Rig, one_stage
from tests.support.stages import a_stage


def a_job(reason: str = "BackoffLimitExceeded") -> LiveJob:
    return LiveJob(name="chat-sft-r1", uid="job", stage="sft", attempt=1, created=NOON, conditions={"FailureTarget": reason})


def a_pod(index: int = 0, exit_code: int | None = 1, *, after: float = 0.0, **changes: Any) -> LivePod:
    """A pod that ended `after` seconds past noon; None: it still runs."""
    finished = None if exit_code is None else NOON + timedelta(seconds=after)
    return LivePod(
        name=f"pod-{index}", uid=str(index), stage="sft", attempt=1, index=index, owner_uid="job", exit_code=exit_code,
        **{"finished": finished, **changes},
    )  # fmt: skip


def ending_of(job: LiveJob, pods: tuple[LivePod, ...], after: float = 3600.0) -> Ending | None:
    """The ending as it looks that many seconds past noon."""
    return failure.ending_of(job, pods, NOON + timedelta(seconds=after))


@pytest.mark.parametrize(
    ("pods", "outcome", "budget"),
    [
        pytest.param([a_pod(exit_code=64)], Outcome.CONFIG_INVALID, Budget.NONE, id="64 is never retried"),
        pytest.param([a_pod(exit_code=65)], Outcome.DATA_INVALID, Budget.NONE, id="65 is never retried"),
        pytest.param([a_pod(exit_code=66)], Outcome.INPUT_INVALID, Budget.NONE, id="66 is never retried"),
        pytest.param([a_pod(exit_code=69)], Outcome.UNSUPPORTED, Budget.NONE, id="69 is never retried"),
        pytest.param([a_pod(exit_code=70)], Outcome.INTERNAL_ERROR, Budget.ATTEMPT, id="a defect of the trainer counts"),
        pytest.param([a_pod(exit_code=71)], Outcome.GPU_OUT_OF_MEMORY, Budget.NONE, id="71 is never retried"),
        pytest.param([a_pod(exit_code=72)], Outcome.HOST_OUT_OF_MEMORY, Budget.ATTEMPT, id="host memory counts"),
        pytest.param([a_pod(exit_code=137)], Outcome.HOST_OUT_OF_MEMORY, Budget.ATTEMPT, id="137 without a cause is the kernel's killer"),
        pytest.param(
            [a_pod(exit_code=1, is_out_of_memory=True)], Outcome.HOST_OUT_OF_MEMORY, Budget.ATTEMPT, id="OOMKilled says so itself"
        ),
        pytest.param([a_pod(exit_code=73)], Outcome.COMMUNICATION, Budget.DISRUPTION, id="a lost peer is a disruption"),
        pytest.param([a_pod(exit_code=74)], Outcome.STORAGE, Budget.ATTEMPT, id="a full volume counts"),
        pytest.param([a_pod(exit_code=75)], Outcome.PREEMPTED, Budget.DISRUPTION, id="a saved preemption is a disruption"),
        pytest.param([a_pod(exit_code=76)], Outcome.DIVERGED, Budget.NONE, id="divergence is never retried"),
        pytest.param([a_pod(exit_code=77)], Outcome.GATE_FAILED, Budget.NONE, id="a missed gate is never retried"),
        pytest.param([a_pod(exit_code=78)], Outcome.STALLED, Budget.ATTEMPT, id="the watchdog's end counts"),
        pytest.param([a_pod(exit_code=1)], Outcome.APP_ERROR, Budget.ATTEMPT, id="any other code counts"),
        pytest.param([a_pod(exit_code=143)], Outcome.APP_ERROR, Budget.ATTEMPT, id="143 without a platform cause counts"),
        pytest.param(
            [a_pod(exit_code=1, disruption="EvictionByEvictionAPI")], Outcome.DISRUPTED, Budget.DISRUPTION, id="any code of an evicted pod"
        ),
        pytest.param(
            [a_pod(exit_code=64), a_pod(1, 143, after=90, disruption="DeletionByTaintManager", disrupted=NOON + timedelta(seconds=60))],
            Outcome.CONFIG_INVALID,
            Budget.NONE,
            id="a peer that is drained a minute later explains nothing",
        ),
        pytest.param(
            [a_pod(exit_code=143, disruption="PreemptionByScheduler", disrupted=NOON + timedelta(seconds=2))],
            Outcome.DISRUPTED,
            Budget.DISRUPTION,
            id="a node's clock that is behind does not make it later",
        ),
        pytest.param(
            [a_pod(exit_code=None, reason="UnexpectedAdmissionError", finished=NOON), a_pod(1, 73, after=60)],
            Outcome.DISRUPTED,
            Budget.DISRUPTION,
            id="a pod that the kubelet did not admit has no exit code",
        ),
        pytest.param([], Outcome.DISRUPTED, Budget.DISRUPTION, id="no failed pod retained: the pods were taken away"),
        pytest.param([a_pod(exit_code=0)], Outcome.DISRUPTED, Budget.DISRUPTION, id="only successful pods retained"),
    ],
)
def test_outcome_and_budget(pods: list[LivePod], outcome: Outcome, budget: Budget) -> None:
    ending = ending_of(a_job(), tuple(pods))
    assert ending is not None
    assert (ending.outcome, ending.budget) == (outcome, budget)


def test_the_jobs_own_deadline_fails_the_stage() -> None:
    ending = ending_of(a_job("DeadlineExceeded"), (a_pod(exit_code=143),))
    assert ending is not None
    assert ending.outcome is Outcome.DEADLINE_EXCEEDED


def test_a_pod_that_still_runs_may_be_the_one_to_blame() -> None:
    assert ending_of(a_job(), (a_pod(exit_code=None),)) is None


class TestLastWords:
    """A rank that lost its peers often ends first: the one that was first tells a moment later."""

    PODS = (a_pod(0, 73, after=0), a_pod(1, None))

    @pytest.mark.parametrize("code", [73, 75])
    def test_a_peer_that_has_not_reported_may_be_the_one_to_blame(self, code: int) -> None:
        assert ending_of(a_job(), (a_pod(0, code), a_pod(1, None)), after=4) is None
        ending = ending_of(a_job(), (a_pod(0, code), a_pod(1, 64)), after=4)
        assert ending is not None
        assert ending.outcome is Outcome.CONFIG_INVALID

    @pytest.mark.parametrize("after", [5, 3600, -5, -3600])
    def test_it_is_waited_for_only_seconds_whatever_the_clocks_say(self, after: float) -> None:
        ending = ending_of(a_job(), self.PODS, after)
        assert ending is not None
        assert ending.outcome is Outcome.COMMUNICATION

    def test_a_code_that_names_its_cause_needs_no_other(self) -> None:
        assert ending_of(a_job(), (a_pod(0, 1), a_pod(1, None)), after=0) is not None


def test_pods_of_another_job_of_that_name_tell_nothing() -> None:
    ending = ending_of(a_job(), (a_pod(exit_code=64).__class__(name="x", uid="x", stage="sft", attempt=1, index=0, owner_uid="other"),))
    assert ending is not None
    assert ending.message.startswith("PodLost: ")


@pytest.mark.parametrize(
    ("pods", "index"),
    [
        pytest.param([a_pod(0, 73, after=0), a_pod(1, 1, after=5)], 0, id="the first end, when the others came clearly later"),
        pytest.param([a_pod(0, 73, after=0), a_pod(1, 1, after=2)], 1, id="within two seconds a broken connection explains least"),
        pytest.param([a_pod(0, 75, after=0), a_pod(1, 73, after=0)], 0, id="75 explains more than 73"),
        pytest.param([a_pod(0, 1, after=0), a_pod(1, 64, after=1)], 1, id="a contract code names its cause"),
        pytest.param([a_pod(0, 64, after=0), a_pod(1, 1, after=1, is_out_of_memory=True)], 1, id="memory explains everything"),
        pytest.param([a_pod(2, 1, after=1), a_pod(1, 1, after=1)], 1, id="equal causes: the lowest index"),
        pytest.param([a_pod(0, 143, after=1, deleted=NOON), a_pod(1, 1, after=0)], 1, id="peers that were deleted drop out"),
    ],
)
def test_culprit(pods: list[LivePod], index: int) -> None:
    culprit = failure.first_failed_pod(tuple(pods))
    assert culprit is not None
    assert culprit.index == index


def test_the_culprit_is_recorded_and_the_others_are_counted() -> None:
    report = json.dumps({"version": 1, "outcome": "DataInvalid", "exitCode": 65, "message": "row 37 is broken", "hint": "repair it"})
    ending = ending_of(a_job(), (a_pod(1, 65, node="gpu-17", message=report), a_pod(0, 73, after=1)))
    assert ending is not None
    assert (ending.pod, ending.node, ending.index, ending.exit_code) == ("pod-1", "gpu-17", 1, 65)
    assert ending.message == "row 37 is broken Hint: repair it (1 other pods failed after it)"


def test_a_message_never_changes_what_the_code_says() -> None:
    report = json.dumps({"version": 1, "outcome": "Succeeded", "exitCode": 0, "message": "all fine"})
    ending = ending_of(a_job(), (a_pod(exit_code=1, message=report),))
    assert ending is not None
    assert (ending.outcome, ending.message) == (Outcome.APP_ERROR, "all fine")


def test_a_report_without_words_gets_ours() -> None:
    ending = ending_of(a_job(), (a_pod(exit_code=1, message="Traceback …"),))
    assert ending is not None
    assert ending.message == "the trainer ended with exit code 1 and left no report; its log has the cause"
    killed = ending_of(a_job(), (a_pod(exit_code=137),))
    assert killed is not None
    assert "killed for memory" in killed.message


class TestDeletedByHand:
    def test_a_pod_deleted_before_its_peer_failed_disrupted_the_attempt(self) -> None:
        pods = (a_pod(0, 143, after=2, deleted=NOON - timedelta(seconds=2), node="n"), a_pod(1, 73, after=1))
        ending = ending_of(a_job(), pods)
        assert ending is not None
        assert (ending.outcome, ending.pod) == (Outcome.DISRUPTED, "pod-0")
        assert ending.message == "PodDeleted: the platform ended pod pod-0 on node n"

    def test_a_pod_deleted_in_the_moment_of_the_failure_was_the_job_controllers(self) -> None:
        """The failed pod's node is two seconds ahead of the API server."""
        ending = ending_of(a_job(), (a_pod(0, 143, after=5, deleted=NOON), a_pod(1, 1, after=2)))
        assert ending is not None
        assert ending.outcome is Outcome.APP_ERROR

    def test_a_pod_deleted_after_the_failure_was_the_job_controllers(self) -> None:
        ending = ending_of(a_job(), (a_pod(0, 143, after=5, deleted=NOON + timedelta(seconds=1)), a_pod(1, 1, after=0)))
        assert ending is not None
        assert ending.outcome is Outcome.APP_ERROR

    def test_with_no_failed_pod_left_it_is_a_disruption_too(self) -> None:
        ending = ending_of(a_job(), (a_pod(0, None, deleted=NOON),))
        assert ending is not None
        assert ending.message.startswith("PodLost: ")


class TestVerdict:
    @pytest.mark.parametrize(
        ("stage", "reason"),
        [
            pytest.param(a_stage(Outcome.APP_ERROR, counted_failures=1), None, id="a counted failure within maxAttempts is retried"),
            pytest.param(a_stage(Outcome.APP_ERROR, counted_failures=3), "MaxAttemptsExceeded", id="the last attempt ends the stage"),
            pytest.param(a_stage(Outcome.OUTPUT_INVALID, counted_failures=3), "OutputInvalid", id="an output that never was valid says so"),
            pytest.param(a_stage(Outcome.DISRUPTED, disruptions=9), None, id="disruptions do not use up maxAttempts"),
            pytest.param(a_stage(Outcome.DISRUPTED, disruptions=20), None, id="maxDisruptions may be reached"),
            pytest.param(
                a_stage(Outcome.DISRUPTED, disruptions=21), "MaxDisruptionsExceeded", id="more than maxDisruptions ends the stage"
            ),
            pytest.param(a_stage(Outcome.GPU_OUT_OF_MEMORY), "GPUOutOfMemory", id="what would happen again ends the stage at once"),
            pytest.param(a_stage(Outcome.CANCELLED), None, id="a cancelled attempt says nothing"),
        ],
    )
    def test_reason(self, stage: StageStatus, reason: str | None) -> None:
        assert failure.verdict(stage, RunPolicy()) == reason

    def test_a_stage_that_gives_up_is_failed_with_the_reason(self) -> None:
        failed = failure.retry_or_give_up(a_stage(Outcome.APP_ERROR, counted_failures=3), RunPolicy(), NOON)
        assert (failed.phase, failed.reason, failed.completion_time) == (StagePhase.FAILED, "MaxAttemptsExceeded", NOON)

    def test_a_stage_that_retries_is_restarting(self) -> None:
        assert failure.retry_or_give_up(a_stage(Outcome.APP_ERROR, counted_failures=1), RunPolicy(), NOON).phase is StagePhase.RESTARTING


class TestBackoff:
    def seconds(self, stage: StageStatus, backoff_seconds: int = 10) -> float:
        until = failure.backoff_until("uid", stage, backoff_seconds)
        return 0.0 if until is None else (until - NOON).total_seconds()

    def test_the_attempt_after_a_first_failure_starts_at_once(self) -> None:
        assert self.seconds(a_stage(Outcome.APP_ERROR)) == 0

    def test_then_the_delay_doubles_up_to_five_minutes(self) -> None:
        for number, delay in ((2, 10), (3, 20), (4, 40), (9, 300)):
            assert 0.8 * delay - 1 <= self.seconds(a_stage(*[Outcome.APP_ERROR] * number)) <= 1.2 * delay + 1

    def test_a_newer_checkpoint_starts_the_count_again(self) -> None:
        assert self.seconds(a_stage(*[Outcome.APP_ERROR] * 4, checkpoint_of=4)) == 0
        assert self.seconds(a_stage(*[Outcome.APP_ERROR] * 4, checkpoint_of=3)) == 0
        assert self.seconds(a_stage(*[Outcome.APP_ERROR] * 4, checkpoint_of=2)) > 0

    def test_a_suspension_starts_the_count_again(self) -> None:
        assert self.seconds(a_stage(Outcome.APP_ERROR, Outcome.APP_ERROR, Outcome.CANCELLED)) == 0

    def test_without_backoff_seconds_there_is_none(self) -> None:
        assert self.seconds(a_stage(*[Outcome.APP_ERROR] * 5), backoff_seconds=0) == 0

    def test_a_partial_gang_waits_at_least_half_a_minute(self) -> None:
        stage = a_stage(Outcome.STARTUP_TIMEOUT)
        partial = stage.attempts[0].model_copy(update={"message": f"{failure.PARTIAL_GANG}: 3 of 4 pods placed"})
        assert 30 <= self.seconds(stage.model_copy(update={"attempts": (partial,)}), backoff_seconds=0) <= 45

    def test_two_stages_that_fail_together_do_not_retry_together(self) -> None:
        delays = {failure.backoff_until(f"uid-{number}", a_stage(*[Outcome.APP_ERROR] * 6), 10) for number in range(20)}
        assert len(delays) > 10

    def test_a_stage_that_never_ran_waits_for_nothing(self) -> None:
        assert failure.backoff_until("uid", a_stage(), 10) is None


def test_an_end_is_counted_and_its_checkpoint_kept() -> None:
    attempt = AttemptStatus(attempt=1, job_name="chat-sft-r1", start_time=NOON)
    stage = StageStatus(name="sft", type="SFT", attempt=1, attempts=(attempt,))
    report = failure.TerminationMessage.from_wire(
        {
            "outcome": "Preempted",
            "exitCode": 75,
            "metrics": {"loss": 1.0},
            "checkpoint": {"path": "stages/sft/r1/checkpoints/5", "step": 5, "digest": DIGEST},
            "resumedFrom": {"path": "stages/sft/r1/checkpoints/2", "step": 2, "digest": DIGEST},
        }
    )
    ending = Ending(
        outcome=Outcome.PREEMPTED, message="asked to stop\x1b[31m", exit_code=75, ended=NOON - timedelta(seconds=5), report=report
    )
    ended = failure.record(stage, ending, NOON)
    assert (ended.counted_failures, ended.disruptions) == (0, 1)
    assert ended.checkpoint is not None
    assert ended.checkpoint.step == 5
    assert ended.attempts[0].resumed_from is not None
    assert ended.attempts[0].message == "asked to stop [31m"
    assert ended.attempts[0].end_time == NOON  # a clock behind ours must not make a negative duration
    assert [metric.name for metric in ended.metrics] == ["loss"]


class TestAClockThatIsWrong:
    """A pod says when it ended by the clock of its node. One wrong clock must not delay, charge or delete anything."""

    @pytest.mark.parametrize(
        ("ended", "recorded"),
        [
            pytest.param(-90, -90, id="a believable time is kept"),
            pytest.param(-3600, -3600, id="the moment of the start is believable"),
            pytest.param(-3601, 0, id="before the start: it ended now"),
            pytest.param(1, 0, id="a second ahead: it ended now"),
            pytest.param(8 * 3600, 0, id="hours ahead: it ended now"),
            pytest.param(None, 0, id="no time at all: it ended now"),
        ],
    )
    def test_an_end_lies_between_the_start_and_now(self, ended: float | None, recorded: float) -> None:
        attempt = AttemptStatus(attempt=1, job_name="chat-sft-r1", start_time=NOON - timedelta(hours=1))
        stage = StageStatus(name="sft", type="SFT", attempt=1, attempts=(attempt,))
        when = None if ended is None else NOON + timedelta(seconds=ended)
        end = failure.record(stage, Ending(outcome=Outcome.APP_ERROR, message="", ended=when), NOON).attempts[0].end_time
        assert end == NOON + timedelta(seconds=recorded)

    def test_our_own_clock_behind_the_api_servers_makes_no_negative_duration(self) -> None:
        attempt = AttemptStatus(attempt=1, job_name="chat-sft-r1", start_time=NOON + timedelta(seconds=3))
        stage = StageStatus(name="sft", type="SFT", attempt=1, attempts=(attempt,))
        ended = failure.record(stage, Ending(outcome=Outcome.APP_ERROR, message=""), NOON).attempts[0]
        assert ended.end_time == ended.start_time

    def running(self, **policy: Any) -> Rig:
        rig = Rig(one_stage(runPolicy=policy))
        rig.succeed("prepare")
        rig.run("sft")
        return rig

    def end(self, rig: Rig, exit_code: int, *, hours_ahead: float) -> None:
        skewed = rig.now + timedelta(hours=hours_ahead)
        rig.finish("sft", exit_code, finishedAt=skewed.strftime("%Y-%m-%dT%H:%M:%SZ"))

    def test_eight_hours_ahead_the_next_attempt_starts_after_its_backoff(self) -> None:
        rig = self.running()
        self.end(rig, 1, hours_ahead=8)
        rig.run("sft")
        self.end(rig, 1, hours_ahead=8)
        assert rig.stage("sft").phase is StagePhase.RESTARTING
        assert rig.requeue is not None
        assert 0 < rig.requeue <= 60
        rig.wait(rig.requeue)
        assert rig.stage("sft").attempt == 3

    def test_twelve_hours_ahead_nothing_is_charged_that_did_not_run(self) -> None:
        rig = self.running(activeDeadlineSeconds=10 * 3600)
        rig.wait(60)
        self.end(rig, 1, hours_ahead=12)
        rig.run("sft")
        assert rig.stage("sft").phase is StagePhase.RUNNING
        assert rig.job("sft")["spec"]["activeDeadlineSeconds"] == 10 * 3600 - 60

    def test_eight_hours_behind_a_finished_job_has_its_full_time_to_live(self) -> None:
        rig = self.running(ttlSecondsAfterFinished=600)
        rig.wait(3600)
        self.end(rig, 64, hours_ahead=-8)
        assert rig.status.completion_time == rig.now
        assert rig.requeue == 600
        rig.wait(599)
        assert rig.body()
        rig.wait(2)
        assert rig.store.find(names.KIND_JOB, "team-a") == []


def test_causes_are_the_first_word_of_the_message() -> None:
    assert failure.disruption(names.CAUSE_JOB_DELETED, "gone").message == "JobDeleted: gone"
    assert failure.cancelled(names.CAUSE_SUSPENDED, "by the user").outcome is Outcome.CANCELLED
