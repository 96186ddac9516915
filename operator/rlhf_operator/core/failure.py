"""Who ended the attempt, does it count, and what follows: evidence in, outcome and budget out.

`stages.py` asks when a Job has failed or vanished, or when the operator ends an attempt itself; `status.py` shows the answer. The table is
operator.md section 4: the first row that matches decides. A pod's own words never change the outcome that its exit code gives.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from rlhf_api import names
from rlhf_api.outcome import NEVER_RETRIED, Budget, ExitCode, Outcome, TerminationMessage, budget_of, outcome_of
from rlhf_api.policies import RunPolicy
from rlhf_api.status import AttemptStatus, StagePhase, StageStatus
from rlhf_operator.core import text
from rlhf_operator.core.live import LiveJob, LivePod
from rlhf_operator.core.model import open_attempt

SAME_MOMENT = timedelta(seconds=2)
"""Finish times have whole seconds and clocks differ: within this, all ends compete for being the first, and none came before another."""
LAST_WORDS = timedelta(seconds=5)
"""How long after an end that explains little its peers may still report a better one. They are being killed meanwhile, but a pod may take
two minutes for that, and its GPUs are worth more than that."""
PARTIAL_GANG = "PartialGang"
_MAX_DELAY_SECONDS = 300
_PARTIAL_GANG_DELAY_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an attempt ended."""

    outcome: Outcome
    message: str
    exit_code: int | None = None
    pod: str | None = None
    node: str | None = None
    index: int | None = None
    ended: datetime | None = None
    """When it ended, if the evidence says so, perhaps by a node's clock; else it ended now."""
    report: TerminationMessage | None = None
    """What the culprit left behind, for figures and checkpoint only."""

    @property
    def budget(self) -> Budget:
        """What the attempt uses up."""
        return budget_of(self.outcome)


def ending_of(job: LiveJob, pods: tuple[LivePod, ...], now: datetime) -> Ending | None:
    """How a failed Job's attempt ended; None while a pod may still tell more.

    The caller knows that the Job failed, and has listed its pods.
    """
    if job.failure == "DeadlineExceeded":
        return Ending(
            outcome=Outcome.DEADLINE_EXCEEDED,
            message="the Job reached activeDeadlineSeconds: the time of its stage, or of the whole job, is used up",
        )
    ours = tuple(pod for pod in pods if pod.owner_uid in ("", job.uid))
    culprit = first_failed_pod(ours)
    disrupted = _first_disrupted_pod(ours, culprit)
    if disrupted is not None:
        return _disruption(disrupted)
    if culprit is not None and _may_be_explained(culprit, ours, now):
        return None
    if culprit is not None:
        return _failure(culprit, num_others=sum(pod.exit_code not in (None, 0) for pod in ours) - 1)
    if any(not pod.is_over and pod.deleted is None for pod in ours):
        return None  # the Job's event came before the pod's final status
    return disruption(names.CAUSE_POD_LOST, "the Job failed and no failed pod was kept: its pods were evicted or deleted")


def disruption(cause: str, message: str) -> Ending:
    """An end by the platform. `cause` becomes the first word of the message."""
    return Ending(outcome=Outcome.DISRUPTED, message=f"{cause}: {message}")


def cancelled(cause: str, message: str) -> Ending:
    """An end that nobody is to blame for: suspended, run again, evicted by the queue."""
    return Ending(outcome=Outcome.CANCELLED, message=f"{cause}: {message}")


def first_failed_pod(pods: tuple[LivePod, ...]) -> LivePod | None:
    """The pod to blame. Its peers fail seconds later with a broken connection, which explains nothing."""
    failed = [pod for pod in pods if _is_candidate(pod)]
    if not failed:
        return None
    earliest = min(_finish(pod) for pod in failed)
    return min((pod for pod in failed if _finish(pod) - earliest <= SAME_MOMENT), key=lambda pod: (_rank_of_cause(pod), pod.index))


def record(status: StageStatus, ending: Ending, now: datetime) -> StageStatus:
    """The stage with its open attempt ended and counted. What follows is `verdict`'s."""
    attempt = open_attempt(status)
    assert attempt is not None
    report = ending.report
    ended = attempt.model_copy(
        update={
            "end_time": _end_time(ending, attempt, now),
            "outcome": ending.outcome,
            "budget": ending.budget,
            "exit_code": ending.exit_code,
            "pod": ending.pod,
            "node": ending.node,
            "index": ending.index,
            "message": text.clean(ending.message),
            "resumed_from": text.checkpoint(report.resumed_from, status.name) if report else attempt.resumed_from,
        }
    )
    return status.model_copy(
        update={
            "attempts": (*status.attempts[:-1], ended),
            "counted_failures": status.counted_failures + (ending.budget is Budget.ATTEMPT),
            "disruptions": status.disruptions + (ending.budget is Budget.DISRUPTION),
            "checkpoint": text.newer(status.checkpoint, text.checkpoint(report.checkpoint, status.name) if report else None),
            "metrics": text.metrics(report.metrics) if report and report.metrics else status.metrics,
            "pods": None,
        }
    )


def _end_time(ending: Ending, attempt: AttemptStatus, now: datetime) -> datetime:
    """When the attempt ended, as far as a node's clock can be believed: backoff, deadlines and the time to live all count from here.

    An end that is still to come would delay the next attempt by the clock's error and charge it as running time; one from before the start
    would delete the finished job at once.
    """
    started, ended = attempt.start_time, ending.ended
    if ended is None or (started is not None and ended < started):
        ended = now
    ended = min(ended, now)
    return ended if started is None else max(ended, started)  # our own clock may be behind the API server's: no duration is negative


def verdict(status: StageStatus, policy: RunPolicy) -> str | None:
    """Reason why the stage has failed for good after its newest attempt; None while it may try again."""
    newest = status.attempts[-1]
    assert newest.outcome is not None
    if newest.outcome in NEVER_RETRIED:
        return newest.outcome
    if status.counted_failures >= policy.max_attempts:
        return newest.outcome if newest.outcome is Outcome.OUTPUT_INVALID else names.REASON_MAX_ATTEMPTS_EXCEEDED
    if status.disruptions > policy.max_disruptions:
        return names.REASON_MAX_DISRUPTIONS_EXCEEDED
    return None


def retry_or_give_up(status: StageStatus, policy: RunPolicy, now: datetime) -> StageStatus:
    """The stage after an ended attempt: Restarting, or Failed with the reason."""
    newest = status.attempts[-1]
    reason = verdict(status, policy)
    if reason is None:
        return status.model_copy(update={"phase": StagePhase.RESTARTING, "reason": newest.outcome, "message": newest.message or ""})
    return give_up(status, reason, newest.message or "", newest.end_time or now)


def give_up(status: StageStatus, reason: str, message: str, now: datetime) -> StageStatus:
    """The stage Failed for good."""
    return status.model_copy(update={"phase": StagePhase.FAILED, "reason": reason, "message": message, "completion_time": now})


def backoff_until(uid: str, status: StageStatus, backoff_seconds: int) -> datetime | None:
    """When the next attempt may start; None for at once. The same for every reconcile: jitter comes from the attempt, not from a die."""
    if not status.attempts or status.attempts[-1].end_time is None:
        return None
    newest = status.attempts[-1]
    fruitless = _num_without_newer_checkpoint(status)
    delay = min(backoff_seconds * 2.0 ** (fruitless - 2), _MAX_DELAY_SECONDS) if fruitless > 1 else 0.0
    if (newest.message or "").startswith(PARTIAL_GANG):
        delay = max(delay, _PARTIAL_GANG_DELAY_SECONDS / 0.8)  # at least 30 s after the jitter: two jobs must not collide again
    if not delay or newest.end_time is None:
        return None
    return newest.end_time + timedelta(seconds=round(delay * _jitter(uid, status.name, newest.attempt)))


def _num_without_newer_checkpoint(status: StageStatus) -> int:
    """Ended attempts in a row, from the newest, that failed and left no newer checkpoint."""
    count = 0
    owner = status.checkpoint.path.split("/") if status.checkpoint else []
    for attempt in reversed(status.attempts):
        if f"r{attempt.attempt}" in owner or attempt.budget is Budget.NONE:
            break
        count += 1
    return count


def _jitter(uid: str, stage: str, attempt: int) -> float:
    """0.8 to 1.2, fixed for an attempt."""
    return 0.8 + 0.4 * int.from_bytes(hashlib.sha256(f"{uid}/{stage}/{attempt}".encode()).digest()[:4], "big") / 0xFFFFFFFF


def _is_candidate(pod: LivePod) -> bool:
    """It failed by itself or by the platform; peers that the Job controller deleted drop out."""
    if pod.finished is None or pod.exit_code == 0:
        return False
    return bool(pod.disruption) or pod.deleted is None or pod.deleted > pod.finished


def _finish(pod: LivePod) -> datetime:
    assert pod.finished is not None
    return pod.finished


_CONTRACT = frozenset(int(code) for code in ExitCode) - {0, ExitCode.COMMUNICATION, ExitCode.PREEMPTED}


def _rank_of_cause(pod: LivePod) -> int:
    """How well an end explains the others: memory, then a code that names its cause, then any code, then 75, then 73."""
    if pod.is_out_of_memory:
        return 0
    if pod.exit_code in _CONTRACT:
        return 1
    return {ExitCode.PREEMPTED: 3, ExitCode.COMMUNICATION: 4}.get(ExitCode(pod.exit_code), 2) if pod.exit_code in tuple(ExitCode) else 2


def _may_be_explained(culprit: LivePod, pods: tuple[LivePod, ...], now: datetime) -> bool:
    """The culprit lost its peers, or was asked to stop: one that has not reported yet may have been first.

    A node whose clock is far off ends the wait at once, rather than never.
    """
    is_vague = culprit.exit_code in (ExitCode.COMMUNICATION, ExitCode.PREEMPTED)
    return is_vague and any(not pod.is_over for pod in pods) and abs(now - _finish(culprit)) < LAST_WORDS


def _first_disrupted_pod(pods: tuple[LivePod, ...], culprit: LivePod | None) -> LivePod | None:
    """A pod that the platform or a person ended, not later than the culprit did."""
    disrupted = [
        pod for pod in pods if _was_disrupted(pod, culprit) or _was_deleted_by_hand(pod, culprit) or (pod is culprit and _never_ran(pod))
    ]
    return min(disrupted, key=lambda pod: (pod.disruption == "", pod.index), default=None)


def _was_disrupted(pod: LivePod, culprit: LivePod | None) -> bool:
    """The platform ended it. The API server says when, a node's clock says when the culprit ended: the same moment is not later."""
    if not pod.disruption:
        return False
    return culprit is None or pod.disrupted is None or pod.disrupted <= _finish(culprit) + SAME_MOMENT


def _was_deleted_by_hand(pod: LivePod, culprit: LivePod | None) -> bool:
    """Deleted clearly before any pod failed. The Job controller deletes the peers in the moment of a failure, by another clock."""
    return pod.deleted is not None and culprit is not None and culprit is not pod and pod.deleted + SAME_MOMENT < _finish(culprit)


def _never_ran(pod: LivePod) -> bool:
    """The kubelet failed the pod as a whole, and no container has an exit code: it was not admitted, or was evicted."""
    return pod.exit_code is None


def _disruption(pod: LivePod) -> Ending:
    cause = pod.disruption or pod.reason or names.CAUSE_POD_DELETED
    where = f" on node {pod.node}" if pod.node else ""
    return Ending(
        outcome=Outcome.DISRUPTED,
        message=f"{cause}: the platform ended pod {pod.name}{where}",
        exit_code=pod.exit_code,
        pod=pod.name,
        node=pod.node or None,
        index=pod.index,
        ended=pod.finished,
        report=TerminationMessage.parse(pod.message),
    )


def _failure(pod: LivePod, num_others: int) -> Ending:
    report = TerminationMessage.parse(pod.message)
    assert pod.exit_code is not None
    code = pod.exit_code
    outcome = Outcome.HOST_OUT_OF_MEMORY if pod.is_out_of_memory else outcome_of(code)
    return Ending(
        outcome=outcome,
        message=_words(report, code, pod) + (f" ({num_others} other pods failed after it)" if num_others > 0 else ""),
        exit_code=code,
        pod=pod.name,
        node=pod.node or None,
        index=pod.index,
        ended=pod.finished,
        report=report,
    )


def _words(report: TerminationMessage | None, code: int, pod: LivePod) -> str:
    if report is not None and report.message:
        return report.message + (f" Hint: {report.hint}" if report.hint else "")
    if pod.is_out_of_memory or code == 137:
        return "the container was killed for memory: it used more than the profile gives it"
    return f"the trainer ended with exit code {code} and left no report; its log has the cause"
