"""What has become of a stage's open attempt: still queued, starting, running; proven; or ended, and then counted.

Observed objects and the stage's status come in, a `Step` comes out. `stages.py` calls this for each open attempt before it starts new
ones. The operator's own ends (suspend, deadlines) are only recorded here; `leftovers.py` deletes their Jobs once the status says so.
"""

from collections.abc import Iterator
from datetime import datetime

from rlhf_api import names
from rlhf_api.outcome import Outcome
from rlhf_api.status import AttemptStatus, JobStatus, PodCount, ProgressStatus, StagePhase, StageStatus
from rlhf_operator.core import deadlines, failure, proof, stall, text
from rlhf_operator.core.failure import Ending
from rlhf_operator.core.live import LiveJob, LivePod
from rlhf_operator.core.manifests import job as job_manifest
from rlhf_operator.core.manifests.service import service
from rlhf_operator.core.model import Create, Observed, Reading, Step, Wait, open_attempt
from rlhf_operator.core.proof import Proven
from rlhf_operator.core.specs import StageSpec

LOOK_AGAIN_SECONDS = 2.0
"""A Job's event may come before the pods' final status."""


def advance(observed: Observed, status: JobStatus, stage: StageSpec, own: StageStatus, now: datetime, *, may_create: bool) -> Step:
    """One look at the open attempt of a stage. `may_create`: an attempt that has no Job yet may get it."""
    attempt = open_attempt(own)
    assert attempt is not None
    assert observed.spec is not None
    job = observed.job_of(stage.name, attempt.attempt)
    if observed.spec.suspend:
        return end(stage, own, failure.cancelled(names.CAUSE_SUSPENDED, "spec.suspend is true"), now)
    if job is None:
        return _without_job(observed, status, stage, own, attempt, now, may_create=may_create)
    stranger = _strange(observed, status, stage, attempt, job)
    if isinstance(stranger, Wait):
        return Step(status=own, wait=stranger, requeue_seconds=60.0)
    if stranger is not None:
        return end(stage, own, stranger, now)
    return _look(observed, status, stage, _with_job(own, attempt, job), job, now)


def end(stage: StageSpec, own: StageStatus, ending: Ending, now: datetime) -> Step:
    """The open attempt has ended: count it and decide what follows. `leftovers.py` frees its pods if the Job still has them."""
    ended = failure.retry_or_give_up(failure.record(own, ending, now), stage.policy, now)
    return Step(status=ended, gpu_seconds=_gpu_seconds(stage, ended.attempts[-1]))


def _without_job(
    observed: Observed, status: JobStatus, stage: StageSpec, own: StageStatus, attempt: AttemptStatus, now: datetime, *, may_create: bool
) -> Step:
    """The attempt's Job is not there: it was deleted if anybody ever saw it, else it was not created yet."""
    if not is_unseen(observed, attempt):
        ending = failure.disruption(names.CAUSE_JOB_DELETED, f"Job {attempt.job_name} was deleted")
        return end(stage, own, ending, now)
    failed = next((other.name for other in status.stages if other.phase is StagePhase.FAILED), None)
    if failed is not None:  # it may never start now, and the job may not end while it is open
        return end(stage, own, Ending(outcome=Outcome.CANCELLED, message=f"stage {failed} failed before this attempt had a Job"), now)
    if not may_create:
        return Step(status=own)
    create = Create("Job", job_manifest.job(observed, stage, status))
    return Step(status=own, after=(create,), wait=refused(observed, create), requeue_seconds=10.0)


def is_unseen(observed: Observed, attempt: AttemptStatus) -> bool:
    """Nobody ever saw the attempt's Job: as far as anybody knows it was not created yet."""
    return attempt.job_uid is None and attempt.job_name not in observed.seen_uids


def refused(observed: Observed, create: Create) -> Wait | None:
    """The server did not take this object the last time. A conflict of names is told elsewhere."""
    error = observed.apply_error
    if error is None or (error.kind, error.name) != (create.kind, create.name) or error.reason == names.REASON_NAME_CONFLICT:
        return None
    return Wait(names.CONDITION_PODS_READY, error.reason, text.clean(error.message))


def _strange(observed: Observed, status: JobStatus, stage: StageSpec, attempt: AttemptStatus, job: LiveJob) -> Ending | Wait | None:
    """The Job of this name is not the one that the attempt created, or not any more."""
    if attempt.job_uid is not None and attempt.job_uid != job.uid:
        return failure.disruption(names.CAUSE_JOB_DELETED, f"Job {job.name} was replaced by another one of that name")
    if job.is_being_deleted:
        return failure.disruption(names.CAUSE_JOB_DELETED, f"Job {job.name} was deleted")
    if attempt.job_uid is not None or observed.made_uids.get(job.name) == job.uid:
        return None
    sameness = job_manifest.compare(job_manifest.job(observed, stage, status), job.body)
    if sameness == "outdated":
        message = f"{names.CAUSE_SPEC_HASH_MISMATCH}: Job {job.name} was created from another manifest"
        return Ending(outcome=Outcome.DISRUPTED, message=message)
    if sameness == "foreign":
        return Wait(names.CONDITION_ACCEPTED, names.REASON_NAME_CONFLICT, f"Job {job.name} exists and is not this attempt's", stage.name)
    return None


def _with_job(own: StageStatus, attempt: AttemptStatus, job: LiveJob) -> StageStatus:
    seen = attempt.model_copy(update={"job_uid": job.uid, "start_time": attempt.start_time or job.started})
    return own.model_copy(update={"attempts": (*own.attempts[:-1], seen)})


def _look(observed: Observed, status: JobStatus, stage: StageSpec, own: StageStatus, job: LiveJob, now: datetime) -> Step:
    """The Job is ours: evicted, complete, failed, overdue, or on its way."""
    recorded = own.attempts[-1].start_time
    if recorded is not None and (job.was_suspended or job.started not in (None, recorded)):
        ending = failure.cancelled(names.CAUSE_QUEUE_EVICTED, "the queue suspended the Job; an attempt executes once")
        return end(stage, own, ending, now)
    error = observed.apply_error
    if error is not None and error.kind == "Service" and error.name == job.name and error.reason == names.REASON_NAME_CONFLICT:
        ending = failure.disruption(names.REASON_NAME_CONFLICT, error.message)  # without its Service the gang can never meet
        return end(stage, own, ending, now)
    is_steady = not job.has_ended and job.num_ready >= stage.topology.nodes
    if job.name not in observed.listed and not is_steady and not stall.is_early(job, stage.topology.nodes, now):
        return Step(status=own, requeue_seconds=0.0)  # pods that nobody asked for are not pods that are gone: look again, with them
    pods = observed.pods_of(stage.name, job.attempt)
    if job.is_complete:
        return _verify(stage, own, job, pods, now)
    if job.failure is not None:
        ending_or_none = failure.ending_of(job, pods, now)
        if ending_or_none is None:
            return Step(status=own, requeue_seconds=LOOK_AGAIN_SECONDS)
        return end(stage, own, ending_or_none, now)
    return _follow(observed, status, stage, own, job, pods, now)


def _verify(stage: StageSpec, own: StageStatus, job: LiveJob, pods: tuple[LivePod, ...], now: datetime) -> Step:
    verdict = proof.judge(job, pods)
    if verdict is None:
        return Step(status=own.model_copy(update={"phase": StagePhase.VERIFYING}), requeue_seconds=LOOK_AGAIN_SECONDS)
    if isinstance(verdict, Ending):
        return end(stage, own, verdict, now)
    succeeded = _succeed(own, job, verdict, now)
    return Step(status=succeeded, gpu_seconds=_gpu_seconds(stage, succeeded.attempts[-1]))


def _succeed(own: StageStatus, job: LiveJob, proven: Proven, now: datetime) -> StageStatus:
    report, ended_at = proven.report, job.completed or now
    ended = failure.record(own, Ending(outcome=Outcome.SUCCEEDED, message="", exit_code=0, ended=ended_at, report=report), now)
    last = ended.attempts[-1].model_copy(update={"message": None})
    step = report.step if report.step is not None else (own.progress.step if own.progress else 0)
    return ended.model_copy(
        update={
            "attempts": (*ended.attempts[:-1], last),
            "phase": StagePhase.SUCCEEDED,
            "reason": "",
            "message": "",
            "completion_time": last.end_time,
            "output": proven.output,
            "progress": ProgressStatus(percent=100, step=step, total_steps=step or None, eta_seconds=0, update_time=last.end_time),
        }
    )


def _follow(
    observed: Observed, status: JobStatus, stage: StageSpec, own: StageStatus, job: LiveJob, pods: tuple[LivePod, ...], now: datetime
) -> Step:
    """The attempt is on its way: phase, progress, deadlines, and what it waits for."""
    num_nodes = stage.topology.nodes
    is_running = has_gathered(observed, stage, own, job)
    reading = _reading_of(observed, stage, job)
    checks = list(_deadlines(observed, status, stage, own, job, pods, reading, now, is_running=is_running))
    for check in checks:
        if isinstance(check, Ending):
            return end(stage, own, check, now)
    own = _with_progress(own, reading, job)
    phase = StagePhase.RUNNING if is_running else StagePhase.QUEUED if job.is_suspended else StagePhase.STARTING
    silent_since = observed.running_since.get(job.name, now)
    if is_running:
        wait = stall.while_running(reading, silent_since, stage.policy.progress_deadline_seconds, now)
    else:
        wait = stall.while_starting(job, pods, num_nodes, now)
    own = own.model_copy(update={"phase": phase, "pods": PodCount(desired=num_nodes, ready=min(job.num_ready, num_nodes))})
    looks = [check for check in checks if isinstance(check, float)]
    if not is_running:
        looks.append(0.0 if job.num_ready >= num_nodes else _next_look(job, now))  # no event follows the create of a Service
    elif reading is None and wait is None:
        looks.append(float(stall.INITIALIZING_SECONDS + 1 - text.seconds_between(silent_since, now)))
    services = () if is_running else _missing_service(observed, stage, job)
    wait = next((found for create in services if (found := refused(observed, create)) is not None), wait)
    return Step(status=own, after=services, wait=wait, requeue_seconds=min(looks, default=None))


def has_gathered(observed: Observed, stage: StageSpec, own: StageStatus | None, job: LiveJob) -> bool:
    """All pods of the attempt are ready, or were once, and a gang has its Service.

    Pods may be ready before anybody looks. Without the Service they cannot meet, and once the stage runs nobody looks for it.
    """
    was_running = own is not None and own.phase is StagePhase.RUNNING
    return was_running or (job.num_ready >= stage.topology.nodes and not _missing_service(observed, stage, job))


def _deadlines(
    observed: Observed,
    status: JobStatus,
    stage: StageSpec,
    own: StageStatus,
    job: LiveJob,
    pods: tuple[LivePod, ...],
    reading: Reading | None,
    now: datetime,
    *,
    is_running: bool,
) -> Iterator[Ending | float | None]:
    rules, spec = observed.rules, observed.spec
    assert spec is not None
    if job.is_suspended:
        return  # the queue holds it: no clock runs
    if rules is not None:  # without its snapshot the attempt goes on, under the deadline that its Job was given
        current = status.model_copy(update={"stages": tuple(own if other.name == own.name else other for other in status.stages)})
        yield deadlines.active(current, own, stage.policy, spec.run_policy, rules, now)
    yield deadlines.progress(reading, stage.policy) if is_running else deadlines.startup(job, pods, stage.topology.nodes, stage.policy, now)


def _reading_of(observed: Observed, stage: StageSpec, job: LiveJob) -> Reading | None:
    reading = observed.progress.get(stage.name)
    return reading if reading is not None and reading.document.attempt == job.attempt else None


def _with_progress(own: StageStatus, reading: Reading | None, job: LiveJob) -> StageStatus:
    """Progress changes figures, the newest checkpoint and where the attempt resumed from; nothing else."""
    if reading is None:
        return own
    document = reading.document
    progress = ProgressStatus(
        percent=document.percent,
        step=document.step,
        total_steps=document.total_steps,
        eta_seconds=None if document.eta_seconds is None else round(document.eta_seconds),
        update_time=reading.received,
    )
    resumed_from = text.checkpoint(document.resumed_from, own.name) or own.attempts[-1].resumed_from
    resumed = own.attempts[-1].model_copy(update={"resumed_from": resumed_from})
    return own.model_copy(
        update={
            "progress": progress,
            "metrics": text.metrics(document.metrics) or own.metrics,
            "checkpoint": text.newer(own.checkpoint, text.checkpoint(document.checkpoint, own.name)),
            "attempts": (*own.attempts[:-1], resumed),
        }
    )


def _missing_service(observed: Observed, stage: StageSpec, job: LiveJob) -> tuple[Create, ...]:
    """The gang's Service, which needs the uid of its Job and so comes after it."""
    if stage.topology.nodes == 1 or observed.services is None or job.name in observed.services:
        return ()
    return (Create("Service", service(observed, stage, job)),)


def _next_look(job: LiveJob, now: datetime) -> float:
    """Starting attempts: at 10 s, then every 15 s, after 10 min every 60 s."""
    age = text.seconds_between(job.started or job.created, now)
    return float(10 - age) if age < 10 else 15.0 if age < 600 else 60.0


def _gpu_seconds(stage: StageSpec, attempt: AttemptStatus) -> int:
    if attempt.start_time is None or attempt.end_time is None:
        return 0
    return stage.topology.num_gpus * text.seconds_between(attempt.start_time, attempt.end_time)
