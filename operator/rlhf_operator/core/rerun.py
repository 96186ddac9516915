"""What runs again: after a new rerun token, or Prepare when its inputs changed. A status in; the status with those stages reopened out.

A reopened stage has no output and no budget used; its attempt numbers go on, and no rerun takes an output from before the token.
Checkpoints are kept only by a stage that had not Succeeded and whose work is the same.
"""

from collections.abc import Mapping
from datetime import datetime

from rlhf_api import names
from rlhf_api.graph import dependants
from rlhf_api.job import RLHFJobSpec
from rlhf_api.status import JobStatus, StagePhase, StageStatus
from rlhf_operator.core import failure
from rlhf_operator.core.model import Observed, open_attempt
from rlhf_operator.core.specs import spec_hash, stages_of
from rlhf_operator.core.stages import forget_work


def has_new_token(spec: RLHFJobSpec, status: JobStatus) -> bool:
    """The user asked for a rerun that has not been acted on. A token that a job is created with asks for nothing."""
    return spec.rerun is not None and bool(status.stages) and spec.rerun.token != status.rerun_token


def reopen(observed: Observed, now: datetime) -> JobStatus | None:
    """The status with everything reopened that must run again; None when nothing must."""
    spec = observed.spec
    if spec is None or not observed.status.stages:
        return None
    if has_new_token(spec, observed.status):
        assert spec.rerun is not None
        # What failed or was skipped elsewhere runs too: with one stage Failed, nothing would start.
        unfinished = {stage.name for stage in observed.status.stages if stage.phase in (StagePhase.FAILED, StagePhase.SKIPPED)}
        changed = _changed(observed, spec)
        wanted = {spec.rerun.from_stage, *dependants(spec, spec.rerun.from_stage), *unfinished, *changed}
        for name in changed - {names.PREPARE}:
            wanted |= dependants(spec, name)
        return _restarted(_reopen(observed.status, wanted, now), spec.rerun.token, now)
    if _is_idle(observed.status) and names.PREPARE in _changed(observed, spec):
        return _reopen(observed.status, {names.PREPARE}, now)
    return None


def _changed(observed: Observed, spec: RLHFJobSpec) -> set[str]:
    """Stages whose work is no longer what their attempts did, measured against the inputs they had."""
    rules = observed.rules
    if rules is None:
        return set()
    known = {status.name: status for status in observed.status.stages}
    outputs = {status.name: status.output.digest for status in observed.status.stages if status.output is not None}
    return {stage.name for stage in stages_of(spec) if _differs(known.get(stage.name), spec_hash(spec, stage, rules, outputs))}


def _differs(status: StageStatus | None, identity: str) -> bool:
    if status is None or status.spec_hash is None:
        return False
    # A stage that never finished compares again when it starts: its inputs may be about to change.
    return status.phase is StagePhase.SUCCEEDED and status.spec_hash != identity


def _reopen(status: JobStatus, wanted: set[str], now: datetime) -> JobStatus:
    """What still runs of the wanted stages ends here; `leftovers.py` deletes its Jobs once the status says so."""
    ending = failure.cancelled(names.CAUSE_RERUN, "the stage runs again")
    found = []
    for stage in status.stages:
        if stage.name in wanted:
            stage = _fresh(stage if open_attempt(stage) is None else failure.record(stage, ending, now))
        found.append(stage)
    return status.model_copy(update={"stages": tuple(found)})


def _fresh(status: StageStatus) -> StageStatus:
    """The stage as before its first attempt, but for its number, and for the checkpoints of unfinished work."""
    kept: Mapping[str, object] = {"output": None, "counted_failures": 0, "disruptions": 0, "completion_time": None, "start_time": None}
    fresh = forget_work(status) if status.phase is StagePhase.SUCCEEDED else status
    return fresh.model_copy(update={**kept, "phase": StagePhase.PENDING, "reason": "", "message": "", "pods": None, "plan": None})


def _restarted(status: JobStatus, token: str, now: datetime) -> JobStatus:
    """The job as unfinished, under the profile as it is now. Its clock starts again: the time that it used may be why it failed."""
    return status.model_copy(update={"rerun_token": token, "profile": None, "completion_time": None, "start_time": now})


def _is_idle(status: JobStatus) -> bool:
    """Nothing runs and the job is not over: Prepare may be repeated without disturbing anybody."""
    is_over = any(
        condition.type in (names.CONDITION_COMPLETE, names.CONDITION_FAILED) and condition.status == "True"
        for condition in status.conditions
    )
    return not is_over and not any(map(open_attempt, status.stages))
