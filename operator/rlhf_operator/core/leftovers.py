"""Which Jobs of ours must go: those whose pods may still run although their attempt has ended, and those that have been superseded.

The status, which is always ahead of the cluster, and the Jobs as they are come in. What is asked for follows from nothing else, so a
delete that was lost, with its answer or with the operator, is asked for again in every round until the Job is gone.
"""

from collections.abc import Iterator

from rlhf_api.status import JobStatus, StageStatus
from rlhf_operator.core.model import Delete, Observed, open_attempt


def deletes(observed: Observed, status: JobStatus) -> tuple[Delete, ...]:
    """The Jobs to delete under this status."""
    return tuple(_deletes(observed, {stage.name: stage for stage in status.stages}))


def _deletes(observed: Observed, stages: dict[str, StageStatus]) -> Iterator[Delete]:
    for job in observed.jobs:
        stage = stages.get(job.stage)
        if stage is None or job.owner_uid != observed.uid or job.is_being_deleted:
            continue
        if _has_ended(stage, job.attempt) and not job.has_ended:  # its pods hold their GPUs
            yield Delete("Job", job.name, job.uid)  # in the foreground: the next attempt waits for its pods
        elif job.attempt < stage.attempt - 1:
            yield Delete("Job", job.name, job.uid, "Background")  # kept for its logs, which newer ones have superseded


def _has_ended(stage: StageStatus, attempt: int) -> bool:
    """Only the newest attempt can be open. A number above it was created before the status could speak of it."""
    newest = open_attempt(stage)
    return attempt < stage.attempt or (attempt == stage.attempt and newest is None)
