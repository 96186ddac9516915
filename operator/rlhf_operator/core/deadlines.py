"""Which time is up: startup, progress and active deadlines of an attempt, and the job's time to live.

Times of live objects and of the status come in; the ending of an overdue attempt, or the seconds until it would be overdue, go out. All but
the progress deadline also hold for time in which the operator was down.
"""

from datetime import datetime, timedelta

from rlhf_api.outcome import Outcome
from rlhf_api.policies import RunPolicy
from rlhf_api.profile import ProfileSpec
from rlhf_api.status import AttemptStatus, JobStatus, StageStatus
from rlhf_operator.core import text
from rlhf_operator.core.failure import PARTIAL_GANG, Ending
from rlhf_operator.core.live import LiveJob, LivePod
from rlhf_operator.core.model import Reading

WATCHDOG_HEAD_START_SECONDS = 120
"""The launcher's watchdog sees a standstill first and has stacks to show; the operator acts when it did not."""


def startup(job: LiveJob, pods: tuple[LivePod, ...], num_nodes: int, policy: RunPolicy, now: datetime) -> Ending | float:
    """Seconds until a starting attempt has taken too long, or its ending. Time without any placed pod is waiting for capacity."""
    placed = [pod.placed for pod in pods if pod.placed is not None]
    if job.started is None or not placed:
        return float(policy.startup_deadline_seconds)
    left = policy.startup_deadline_seconds - (now - max(job.started, min(placed))).total_seconds()
    if left > 0:
        return left
    limit = f"not all {num_nodes} pods were ready after {policy.startup_deadline_seconds} s (startupDeadlineSeconds)"
    if len(placed) < num_nodes:
        return Ending(outcome=Outcome.STARTUP_TIMEOUT, message=f"{PARTIAL_GANG}: {len(placed)} of {num_nodes} pods placed; {limit}")
    return Ending(outcome=Outcome.STARTUP_TIMEOUT, message=limit)


def progress(reading: Reading | None, policy: RunPolicy) -> Ending | float | None:
    """Seconds until an attempt without a new step counts as stalled, or its ending; None when nobody can tell."""
    if reading is None:
        return None
    left = policy.progress_deadline_seconds + WATCHDOG_HEAD_START_SECONDS - reading.idle_seconds
    if left > 0:
        return left
    step = reading.document.step
    limit = f"{policy.progress_deadline_seconds} s (progressDeadlineSeconds)"
    return Ending(outcome=Outcome.STALLED, message=f"no new step after step {step} for {limit}, and the launcher's watchdog did not act")


def active(
    status: JobStatus, stage: StageStatus, policy: RunPolicy, job_policy: RunPolicy, rules: ProfileSpec, now: datetime
) -> Ending | float:
    """Seconds of running time that are left to the stage and to the job, whichever ends first, or the ending.

    Both clocks count from the startTime in the status, which a rerun sets anew: what ran before it is not charged again.
    """
    stage_left = _limit(policy, rules) - _seconds(stage.attempts, stage.start_time, now)
    every = tuple(attempt for other in status.stages for attempt in other.attempts)
    job_left = _limit(job_policy, rules) - _seconds(every, status.start_time, now)
    if min(stage_left, job_left) > 0:
        return float(min(stage_left, job_left))
    what, limit = ("stage", _limit(policy, rules)) if stage_left <= job_left else ("job", _limit(job_policy, rules))
    return Ending(outcome=Outcome.DEADLINE_EXCEEDED, message=f"the {what} ran for {limit} s (activeDeadlineSeconds)")


def remaining_at_start(status: JobStatus, stage: StageStatus, policy: RunPolicy, job_policy: RunPolicy, rules: ProfileSpec) -> int:
    """`activeDeadlineSeconds` of the open attempt's Job: what was left when it was decided. A backstop, so at least a second.

    The moment of the decision is taken from the status: the end of the attempt before, or the start of the stage. So the same
    Job comes out after a crash.
    """
    ended = [attempt.end_time for attempt in stage.attempts if attempt.end_time is not None]
    moment = max([*ended, *([stage.start_time] if stage.start_time else [])], default=None)
    before = tuple(attempt for attempt in stage.attempts if attempt.end_time is not None)
    stage_left = _limit(policy, rules) - (_seconds(before, stage.start_time, moment) if moment else 0)
    others = (attempt for other in status.stages if other.name != stage.name for attempt in other.attempts)
    earlier = tuple(attempt for attempt in others if moment and attempt.end_time is not None and attempt.end_time <= moment)
    job_left = _limit(job_policy, rules) - (_seconds((*before, *earlier), status.start_time, moment) if moment else 0)
    return max(1, min(stage_left, job_left))


def deletion_in(completed: datetime | None, policy: RunPolicy, now: datetime) -> float | None:
    """Seconds until a finished job is deleted, 0 when that is due; None when it stays."""
    if completed is None or policy.ttl_seconds_after_finished is None:
        return None
    return max(0.0, (completed + timedelta(seconds=policy.ttl_seconds_after_finished) - now).total_seconds())


def _limit(policy: RunPolicy, rules: ProfileSpec) -> int:
    return policy.active_deadline_seconds or rules.limits.max_active_deadline_seconds


def _seconds(attempts: tuple[AttemptStatus, ...], since: datetime | None, now: datetime) -> int:
    """Running time: the union of the attempts' times, so that stages that ran together count once and waiting counts never."""
    spans = sorted((attempt.start_time, attempt.end_time or now) for attempt in attempts if attempt.start_time is not None)
    total, reached = 0, since
    for start, end in spans:
        total += text.seconds_between(start if reached is None else max(start, reached), end)
        reached = end if reached is None else max(reached, end)
    return total
