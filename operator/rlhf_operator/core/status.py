"""The status of a job as a function of its stages: phase, conditions, counters, artifacts. Everything a user sees, and nothing else.

A `Walk` comes in, a `JobStatus` goes out, and whether it is worth a write. `lastTransitionTime` moves only when a condition flips.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from rlhf_api import names
from rlhf_api.stages import StageType
from rlhf_api.status import Artifact, Condition, JobPhase, JobStatus, StagePhase, StageStatus
from rlhf_operator.core import storage, text
from rlhf_operator.core.admission import Refusal
from rlhf_operator.core.manifests.job import queue_of
from rlhf_operator.core.model import Observed, Wait, open_attempt
from rlhf_operator.core.stages import Walk

_ACTIVE = frozenset({StagePhase.QUEUED, StagePhase.STARTING, StagePhase.RUNNING, StagePhase.RESTARTING, StagePhase.VERIFYING})
_MAX_MESSAGE = 1024
Answer = tuple[bool, str, str]
"""Status, reason and message of a condition."""


def is_over(status: JobStatus) -> bool:
    """The job is Complete or Failed: only a new rerun token changes that."""
    return any(
        condition.type in (names.CONDITION_COMPLETE, names.CONDITION_FAILED) and condition.status == "True"
        for condition in status.conditions
    )


def holds_slot(status: JobStatus) -> bool:
    """The job counts towards `maxRunningJobsPerNamespace`: it has begun, is neither over nor suspended, and does not wait for a slot.

    By its phase, not by its open attempts: between two attempts it keeps its slot.
    """
    has_begun = any(stage.attempt for stage in status.stages)
    waits = any(condition.reason == names.REASON_CONCURRENCY_LIMIT for condition in status.conditions)
    return has_begun and not waits and status.phase not in (JobPhase.SUCCEEDED, JobPhase.FAILED, JobPhase.SUSPENDED)


def of_refused(observed: Observed, refusal: Refusal, now: datetime) -> JobStatus:
    """The status of a job whose manifest cannot even be read: only the Accepted condition says something."""
    answers = {names.CONDITION_ACCEPTED: (False, refusal.reason, refusal.message)}
    return observed.status.model_copy(
        update={"observed_generation": observed.generation, "reason": refusal.reason, "conditions": _conditions(observed, answers, now)}
    )


def of_job(observed: Observed, walked: Walk, now: datetime) -> JobStatus:
    """The whole status after this decision."""
    spec = observed.spec
    assert spec is not None
    waits = tuple(wait for wait in walked.waits if wait.reason)
    stages = tuple(_with_wait(stage, waits) for stage in walked.status.stages)
    answers = _answers(observed, walked, stages, waits)
    token = walked.status.rerun_token or (spec.rerun.token if spec.rerun else None)
    starts = [attempt.start_time for stage in stages for attempt in stage.attempts if attempt.start_time]
    ends = [stage.completion_time for stage in stages if stage.completion_time]
    terminal = answers[names.CONDITION_COMPLETE][0] or answers[names.CONDITION_FAILED][0]
    return walked.status.model_copy(
        update={
            "observed_generation": observed.generation,
            "phase": _phase(stages, answers),
            "reason": _decisive_reason(answers),
            "current_stage": ",".join(stage.name for stage in stages if stage.phase in _ACTIVE),
            "stages_summary": f"{sum(stage.phase is StagePhase.SUCCEEDED for stage in stages)}/{len(stages)}",
            "start_time": walked.status.start_time or min(starts, default=None),
            "completion_time": (walked.status.completion_time or max(ends, default=now)) if terminal else None,
            "rerun_token": token,
            "conditions": _conditions(observed, answers, now),
            "stages": stages,
            "artifacts": _artifacts(observed, stages),
        }
    )


def seconds_until_write(observed: Observed, new: JobStatus, now: datetime) -> float | None:
    """0 when the status must be written now, more when the difference can wait that long, None when there is none."""
    old = observed.status
    if new == old:
        return None
    if _without(new, uids=True, progress=True) != _without(old, uids=True, progress=True):
        return 0.0
    waits = []
    if _without(new, uids=False, progress=True) != _without(old, uids=False, progress=True):
        waits.append(observed.settings.uid_write_seconds - _age_of_newest_job(observed, now))
    if _without(new, uids=True, progress=False) != _without(old, uids=True, progress=False):
        waits.append(observed.settings.progress_write_seconds - _age_of_progress(old, now))
    return max(0.0, min(waits)) if waits else None


def _answers(observed: Observed, walked: Walk, stages: tuple[StageStatus, ...], waits: tuple[Wait, ...]) -> dict[str, Answer]:
    """Every condition: whether it is true, why, and in words."""
    conflict = next((wait for wait in waits if wait.condition == names.CONDITION_ACCEPTED), None)
    refusal = walked.refusal or (Refusal(conflict.reason, conflict.message) if conflict else None)
    stall = next(iter(waits), None)
    return {
        names.CONDITION_ACCEPTED: (False, refusal.reason, refusal.message) if refusal else (True, names.REASON_VALID, ""),
        names.CONDITION_STORAGE_READY: _storage_ready(observed, walked.status),
        names.CONDITION_QUOTA_RESERVED: _quota_reserved(observed, stages, waits),
        names.CONDITION_PODS_READY: _pods_ready(stages, waits),
        names.CONDITION_STALLED: (True, stall.reason, _about(stall)) if stall else (False, names.REASON_NOT_STALLED, ""),
        names.CONDITION_SUSPENDED: _suspended(observed, stages),
        names.CONDITION_PUBLISHED: _published(stages),
        names.CONDITION_COMPLETE: _complete(stages),
        names.CONDITION_FAILED: _failed(stages),
    }


def _storage_ready(observed: Observed, status: JobStatus) -> Answer:
    """Of the claim as it is, also while nothing waits for it: running pods go on when it is lost."""
    wait = storage.wait_for_claim(observed, status)
    if wait is not None:
        return False, wait.reason, wait.message
    return (
        (True, names.REASON_BOUND, "")
        if storage.is_bound(observed.claim)
        else (False, names.REASON_PENDING, "the first pod binds the claim")
    )


def _quota_reserved(observed: Observed, stages: tuple[StageStatus, ...], waits: tuple[Wait, ...]) -> Answer:
    wait = _first(waits, names.CONDITION_QUOTA_RESERVED)
    if wait is not None:
        return False, wait.reason, wait.message
    if observed.spec is None or observed.rules is None or queue_of(observed.spec, observed.rules) is None:
        return True, names.REASON_NO_QUEUE, ""
    if any(stage.phase is StagePhase.QUEUED for stage in stages):
        return False, names.REASON_WAITING, "the queue has not admitted the Job yet"
    return True, names.REASON_ADMITTED, ""


def _pods_ready(stages: tuple[StageStatus, ...], waits: tuple[Wait, ...]) -> Answer:
    wait = _first(waits, names.CONDITION_PODS_READY)
    if wait is not None:
        return False, wait.reason, _about(wait)
    active = [stage for stage in stages if open_attempt(stage) is not None]
    if active and all(stage.phase in (StagePhase.RUNNING, StagePhase.VERIFYING) for stage in active):
        return True, names.REASON_ALL_READY, ""
    return False, names.REASON_INITIALIZING if active else names.REASON_NO_PODS, ""


def _suspended(observed: Observed, stages: tuple[StageStatus, ...]) -> Answer:
    is_wanted = observed.spec is not None and observed.spec.suspend
    phases = {stage.phase for stage in stages}
    if is_wanted and StagePhase.SUSPENDED in phases and not phases & _ACTIVE:
        return True, names.REASON_USER, "spec.suspend is true"
    return False, names.REASON_NOT_SUSPENDED, ""


def _published(stages: tuple[StageStatus, ...]) -> Answer:
    publishes = [stage for stage in stages if stage.type is StageType.PUBLISH]
    if not publishes:
        return False, names.REASON_NOT_REQUESTED, ""
    if all(stage.phase is StagePhase.SUCCEEDED for stage in publishes):
        return True, names.REASON_PUBLISHED, ""
    failed = next((stage for stage in publishes if stage.phase is StagePhase.FAILED), None)
    return (False, names.REASON_REJECTED, failed.message) if failed else (False, names.REASON_WAITING, "")


def _complete(stages: tuple[StageStatus, ...]) -> Answer:
    if all(stage.phase is StagePhase.SUCCEEDED for stage in stages):
        return True, names.REASON_STAGES_SUCCEEDED, ""
    return False, "", ""


def _failed(stages: tuple[StageStatus, ...]) -> Answer:
    failed = next((stage for stage in stages if stage.phase is StagePhase.FAILED), None)
    if failed is None or any(map(open_attempt, stages)):
        return False, "", ""
    return True, failed.reason, f"stage {failed.name}: {failed.message}"


def _phase(stages: tuple[StageStatus, ...], answers: dict[str, Answer]) -> JobPhase:
    if answers[names.CONDITION_COMPLETE][0]:
        return JobPhase.SUCCEEDED
    if answers[names.CONDITION_FAILED][0]:
        return JobPhase.FAILED
    if answers[names.CONDITION_SUSPENDED][0]:
        return JobPhase.SUSPENDED
    phases = {stage.phase for stage in stages}
    if phases & {StagePhase.RUNNING, StagePhase.VERIFYING}:
        return JobPhase.RUNNING
    if phases & {StagePhase.STARTING, StagePhase.RESTARTING}:
        return JobPhase.STARTING
    return JobPhase.QUEUED if StagePhase.QUEUED in phases else JobPhase.PENDING


def _decisive_reason(answers: dict[str, Answer]) -> str:
    """Why the job waits or failed; empty when it runs."""
    for kind, when in (
        (names.CONDITION_FAILED, True),
        (names.CONDITION_ACCEPTED, False),
        (names.CONDITION_SUSPENDED, True),
        (names.CONDITION_STALLED, True),
    ):
        if answers[kind][0] is when:
            return answers[kind][1]
    return ""


def _conditions(observed: Observed, answers: dict[str, Answer], now: datetime) -> tuple[Condition, ...]:
    known = {condition.type: condition for condition in observed.status.conditions}
    kept = tuple(condition for condition in observed.status.conditions if condition.type not in answers)
    return (*kept, *(_condition(observed, known.get(kind), kind, answer, now) for kind, answer in answers.items()))


def _condition(observed: Observed, known: Condition | None, kind: str, answer: Answer, now: datetime) -> Condition:
    value: Literal["True", "False"] = "True" if answer[0] else "False"
    since = known.last_transition_time if known is not None and known.status == value else now
    message = text.clean(answer[2], _MAX_MESSAGE)
    return Condition.model_construct(
        type=kind, status=value, observed_generation=observed.generation, last_transition_time=since, reason=answer[1], message=message
    )


def _with_wait(stage: StageStatus, waits: Iterable[Wait]) -> StageStatus:
    """Why this stage waits, in its own row. A failed or restarting stage keeps what ended its attempt."""
    wait = next((wait for wait in waits if wait.stage == stage.name), None)
    if wait is not None:
        return stage.model_copy(update={"reason": wait.reason, "message": text.clean(wait.message)})
    if stage.phase in (StagePhase.FAILED, StagePhase.RESTARTING):
        return stage
    return stage.model_copy(update={"reason": "", "message": ""})


def _artifacts(observed: Observed, stages: tuple[StageStatus, ...]) -> tuple[Artifact, ...]:
    spec = observed.spec
    assert spec is not None
    found = []
    for stage in stages:
        if stage.type is StageType.PUBLISH and stage.output is not None:
            publish = spec.stage(stage.name).publish
            assert publish is not None
            found.append(
                Artifact(
                    stage=stage.name,
                    uri=publish.destination.uri,
                    digest=stage.output.digest,
                    size_bytes=stage.output.size_bytes,
                    signed=publish.sign,
                )
            )
    return tuple(found)


def _first(waits: tuple[Wait, ...], condition: str) -> Wait | None:
    return next((wait for wait in waits if wait.condition == condition), None)


def _about(wait: Wait) -> str:
    return f"stage {wait.stage}: {wait.message}" if wait.stage else wait.message


def _without(status: JobStatus, *, uids: bool, progress: bool) -> JobStatus:
    """The status without what is not worth a write by itself."""

    def stripped(stage: StageStatus) -> StageStatus:
        update: dict[str, object] = {}
        if uids:
            update["attempts"] = tuple(
                attempt.model_copy(update={"job_uid": None, "start_time": None, "resumed_from": None}) for attempt in stage.attempts
            )
        if progress:
            update |= {"progress": None, "metrics": (), "checkpoint": None}
        elif stage.progress is not None:  # the time of an answer that says nothing new is no news
            update["progress"] = stage.progress.model_copy(update={"update_time": None})
        return stage.model_copy(update=update)

    return status.model_copy(update={"stages": tuple(map(stripped, status.stages)), "start_time": None if uids else status.start_time})


def _age_of_newest_job(observed: Observed, now: datetime) -> float:
    created = [job.created for job in observed.jobs]
    return (now - max(created)).total_seconds() if created else 0.0


def _age_of_progress(status: JobStatus, now: datetime) -> float:
    running = [stage.progress for stage in status.stages if stage.progress is not None and open_attempt(stage) is not None]
    times = [progress.update_time for progress in running if progress.update_time is not None]
    return (now - max(times)).total_seconds() if times else float("inf")
