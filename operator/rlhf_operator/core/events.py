"""What people should hear of: the difference between two statuses, as events on the RLHFJob. The recorder sends them, best effort."""

from collections.abc import Iterator

from rlhf_api import names
from rlhf_api.outcome import Budget, Outcome
from rlhf_api.stages import StageType
from rlhf_api.status import AttemptStatus, CheckpointStatus, JobStatus, StagePhase, StageStatus
from rlhf_operator.core import failure, text
from rlhf_operator.core.model import EventRecord, Observed

_MAX_MESSAGE = 1000
_NORMAL, _WARNING = "Normal", "Warning"


def between(observed: Observed, new: JobStatus) -> tuple[EventRecord, ...]:
    """Events of a status write, in the order in which they happened."""
    old = observed.status
    known = {stage.name: stage for stage in old.stages}
    found = [*_of_job_before(old, new)]
    for stage in new.stages:
        found += _of_stage(observed, known.get(stage.name), stage)
    found += _of_job_after(old, new)
    return tuple(EventRecord(event.type, event.reason, text.clean(event.message, _MAX_MESSAGE)) for event in found)


def _of_job_before(old: JobStatus, new: JobStatus) -> Iterator[EventRecord]:
    if old.stages and new.rerun_token != old.rerun_token:
        yield EventRecord(_NORMAL, names.EVENT_RERUN, f"runs again by token {new.rerun_token}")
    if _is(old, names.CONDITION_SUSPENDED) and not _is(new, names.CONDITION_SUSPENDED):
        yield EventRecord(_NORMAL, names.EVENT_RESUMED, "resumed")
    refused = _flipped(old, new, names.CONDITION_ACCEPTED, "False")
    if refused is not None:
        is_conflict = refused[0] == names.REASON_NAME_CONFLICT
        yield EventRecord(_WARNING, names.EVENT_NAME_CONFLICT if is_conflict else names.EVENT_NOT_ACCEPTED, f"{refused[0]}: {refused[1]}")


def _of_job_after(old: JobStatus, new: JobStatus) -> Iterator[EventRecord]:
    stalled = _flipped(old, new, names.CONDITION_STALLED, "True")
    if stalled is not None:
        yield EventRecord(_WARNING, names.EVENT_STALLED, f"{stalled[0]}: {stalled[1]}")
    elif _is(old, names.CONDITION_STALLED) and not _is(new, names.CONDITION_STALLED):
        yield EventRecord(_NORMAL, names.EVENT_STALL_CLEARED, "moves again")
    if _flipped(old, new, names.CONDITION_SUSPENDED, "True") is not None:
        yield EventRecord(_NORMAL, names.EVENT_SUSPENDED, "suspended: no pod is left")
    if _flipped(old, new, names.CONDITION_PUBLISHED, "True") is not None:
        yield EventRecord(_NORMAL, names.EVENT_PUBLISHED, ", ".join(artifact.uri for artifact in new.artifacts))
    if _flipped(old, new, names.CONDITION_COMPLETE, "True") is not None:
        yield EventRecord(_NORMAL, names.EVENT_COMPLETE, f"all {len(new.stages)} stages succeeded")
    failed = _flipped(old, new, names.CONDITION_FAILED, "True")
    if failed is not None:
        yield EventRecord(_WARNING, names.EVENT_FAILED, f"{failed[0]}: {failed[1]}")


def _of_stage(observed: Observed, old: StageStatus | None, new: StageStatus) -> Iterator[EventRecord]:
    known = {attempt.attempt: attempt for attempt in old.attempts} if old else {}
    for attempt in new.attempts:
        before = known.get(attempt.attempt)
        about = f"Stage {new.name} attempt {attempt.attempt}"
        if before is None:
            yield EventRecord(_NORMAL, names.EVENT_ATTEMPT_STARTED, f"{about}: Job {attempt.job_name}")
        if attempt.resumed_from is not None and (before is None or before.resumed_from is None):
            yield from _of_resumption(about, old.checkpoint if old else None, attempt.resumed_from)
        if _has_just_ended(before, attempt):
            yield from _of_ending(observed, about, new, attempt)
    if new.phase is StagePhase.SUCCEEDED and (old is None or old.phase is not StagePhase.SUCCEEDED):
        kind = "artifact" if new.type is StageType.PUBLISH else "output"
        yield EventRecord(_NORMAL, names.EVENT_STAGE_SUCCEEDED, f"Stage {new.name}: {kind} {new.output.digest if new.output else ''}")
    if new.phase is StagePhase.FAILED and (old is None or old.phase is not StagePhase.FAILED):
        yield EventRecord(_WARNING, names.EVENT_STAGE_FAILED, f"Stage {new.name}: {new.reason}: {new.message}")


def newly_ended(old: StageStatus | None, new: StageStatus) -> Iterator[AttemptStatus]:
    """Attempts that have an outcome now and had none before."""
    known = {attempt.attempt: attempt for attempt in old.attempts} if old else {}
    return (attempt for attempt in new.attempts if _has_just_ended(known.get(attempt.attempt), attempt))


def _has_just_ended(before: AttemptStatus | None, attempt: AttemptStatus) -> bool:
    return attempt.outcome is not None and (before is None or before.outcome is None)


def _of_resumption(about: str, newest: CheckpointStatus | None, used: CheckpointStatus) -> Iterator[EventRecord]:
    if newest is not None and used.step < newest.step:
        words = f"{about}: resumed from step {used.step}; the checkpoint of step {newest.step} was not usable"
        yield EventRecord(_WARNING, names.EVENT_CHECKPOINT_SKIPPED, words)


def _of_ending(observed: Observed, about: str, stage: StageStatus, attempt: AttemptStatus) -> Iterator[EventRecord]:
    if attempt.outcome in (Outcome.SUCCEEDED, Outcome.CANCELLED) or attempt.outcome is None:
        return
    where = f" on {attempt.pod}" if attempt.pod else ""
    node = f" (node {attempt.node})" if attempt.node else ""
    code = f"exit {attempt.exit_code} " if attempt.exit_code is not None else ""
    words = f"{about}: {code}{attempt.outcome}{where}{node}: {attempt.message or ''}"
    if stage.phase is StagePhase.RESTARTING:
        words += f"; {_retry(observed, stage, attempt)}"
    reason = names.EVENT_ATTEMPT_DISRUPTED if attempt.budget is Budget.DISRUPTION else names.EVENT_ATTEMPT_FAILED
    yield EventRecord(_WARNING, reason, words)


def _retry(observed: Observed, stage: StageStatus, attempt: AttemptStatus) -> str:
    rules = observed.rules
    until = failure.backoff_until(observed.uid, stage, rules.retry.backoff_seconds) if rules else None
    return f"attempt {attempt.attempt + 1} starts {'at ' + text.clock(until) if until else 'when the old pods have ended'}"


def _is(status: JobStatus, kind: str) -> bool:
    return any(condition.type == kind and condition.status == "True" for condition in status.conditions)


def _flipped(old: JobStatus, new: JobStatus, kind: str, value: str) -> tuple[str, str] | None:
    """Reason and message of a condition that has just become `value`, or has it for another reason now."""
    before = next((condition for condition in old.conditions if condition.type == kind), None)
    after = next((condition for condition in new.conditions if condition.type == kind), None)
    if after is None or after.status != value:
        return None
    if before is not None and before.status == value and before.reason == after.reason:
        return None
    return after.reason, after.message
