"""What a status write means in figures: attempts, stages and jobs that started or ended. Two statuses in, `metrics.py` counted up.

A figure is counted when its status was written, so a crash counts nothing twice; what is written while another process leads, that
process counts.
"""

from datetime import datetime

from rlhf_api.status import AttemptStatus, JobPhase, JobStatus, StagePhase, StageStatus
from rlhf_operator.core.events import newly_ended
from rlhf_operator.core.model import Observed
from rlhf_operator.core.specs import stages_of
from rlhf_operator.shell.metrics import Metrics

_OVER = (JobPhase.SUCCEEDED, JobPhase.FAILED)


def count_status(metrics: Metrics, observed: Observed, new: JobStatus, now: datetime) -> None:
    """Count what `new` says that the status before it did not."""
    old = observed.status
    known = {stage.name: stage for stage in old.stages}
    for stage in new.stages:
        before = known.get(stage.name) or StageStatus(name=stage.name, type=stage.type)
        _count_attempts(metrics, observed, before, stage, now)
        _count_stage(metrics, observed, before, stage, now)
    if new.phase in _OVER and old.phase is not new.phase:
        metrics.job_finished.labels(new.phase, new.reason).inc()


def count_first_job(metrics: Metrics, observed: Observed, now: datetime) -> None:
    """The job's first Job was created. Creation times have whole seconds, so this is up to a second too long."""
    metrics.job_create_latency.observe(_seconds(observed.created, now))


def _count_attempts(metrics: Metrics, observed: Observed, old: StageStatus, new: StageStatus, now: datetime) -> None:
    for attempt in newly_ended(old, new):
        metrics.attempts.labels(new.type, attempt.outcome).inc()
        metrics.stage_gpu_seconds.labels(new.type).inc(_gpu_seconds(observed, new, attempt))
    before = new.attempts[-2] if len(new.attempts) > 1 else None
    if new.attempt > old.attempt and before is not None and before.end_time is not None:
        metrics.attempt_restart.observe(_seconds(before.end_time, now))


def _count_stage(metrics: Metrics, observed: Observed, old: StageStatus, new: StageStatus, now: datetime) -> None:
    job = observed.job_of(new.name, new.attempt)
    if new.phase is StagePhase.RUNNING and old.phase is not StagePhase.RUNNING and job is not None:
        metrics.attempt_start.labels(new.type).observe(_seconds(job.created, now))
    if new.phase in (StagePhase.SUCCEEDED, StagePhase.FAILED) and old.phase is not new.phase and new.start_time is not None:
        metrics.stage_duration.labels(new.type, new.phase).observe(_seconds(new.start_time, new.completion_time or now))


def _gpu_seconds(observed: Observed, stage: StageStatus, attempt: AttemptStatus) -> float:
    if observed.spec is None or attempt.start_time is None or attempt.end_time is None:
        return 0.0
    gpus = next((spec.topology.num_gpus for spec in stages_of(observed.spec) if spec.name == stage.name), 0)
    return gpus * _seconds(attempt.start_time, attempt.end_time)


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())
