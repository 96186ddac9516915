"""What of a job may change, and when. The API server asks on every write of a spec, the operator again when it sees the change.

The rules about single fields stand in the schema. Those that compare whole specs would also run on every status write there and cost
7 ms each time, so `crd` puts them into a ValidatingAdmissionPolicy that status writes do not pass.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rlhf_api.job import RLHFJob
from rlhf_api.status import JobPhase, StagePhase

IMMUTABLE_FIELDS = ("profile", "model", "seed", "storage", "managedBy")
IMMUTABLE_CEL = "self == oldSelf"

_AT_REST = (JobPhase.PENDING, JobPhase.SUSPENDED, JobPhase.FAILED)
_AT_REST_CEL = "self.?status.?phase.orValue('Pending') in ['Pending', 'Suspended', 'Failed']"


@dataclass(frozen=True, slots=True)
class ChangeRule:
    """A rule about an old and a new job; `self` and `oldSelf` of its CEL are the whole objects."""

    cel: str
    message: str
    find: Callable[[RLHFJob, RLHFJob], Iterable[str]]
    """Paths in the new job that may not have changed."""


def immutable_message(field: str) -> str:
    """The words of the rule about one immutable field of the spec."""
    return f"spec.{field} is immutable: create a new job"


def phase_of(job: RLHFJob) -> JobPhase:
    """The phase of a job; one without status is Pending."""
    return JobPhase.PENDING if job.status is None else job.status.phase


def _find_moved_topology(old: RLHFJob, new: RLHFJob) -> Iterator[str]:
    if phase_of(old) in _AT_REST:
        return
    if new.spec.topology != old.spec.topology:
        yield "spec.topology"
    if new.spec.strategy != old.spec.strategy:
        yield "spec.strategy"


def _find_moved_stages(old: RLHFJob, new: RLHFJob) -> Iterator[str]:
    if new.spec.stages != old.spec.stages and phase_of(old) not in _AT_REST:
        yield "spec.stages"


def _find_other_stages(old: RLHFJob, new: RLHFJob) -> Iterator[str]:
    if [(stage.name, stage.type) for stage in new.spec.stages] != [(stage.name, stage.type) for stage in old.spec.stages]:
        yield "spec.stages"


def _find_changed_success(old: RLHFJob, new: RLHFJob) -> Iterator[str]:
    token = None if old.spec.rerun is None else old.spec.rerun.token
    if old.status is None or (new.spec.rerun is not None and new.spec.rerun.token != token):
        return
    succeeded = {stage.name for stage in old.status.stages if stage.phase == StagePhase.SUCCEEDED}
    before = {stage.name: stage for stage in old.spec.stages}
    for i, stage in enumerate(new.spec.stages):
        if stage.name in succeeded and stage != before.get(stage.name):
            yield f"spec.stages[{i}]"


def _find_early_rerun(old: RLHFJob, new: RLHFJob) -> Iterator[str]:
    if new.spec.rerun != old.spec.rerun and phase_of(old) not in (*_AT_REST, JobPhase.SUCCEEDED):
        yield "spec.rerun"


CHANGE_RULES = (
    ChangeRule(
        f"(self.spec.topology == oldSelf.spec.topology && self.spec.strategy == oldSelf.spec.strategy) || {_AT_REST_CEL}",
        "spec.topology and spec.strategy may change only while the job is Pending, Suspended or Failed",
        _find_moved_topology,
    ),
    ChangeRule(
        f"self.spec.stages == oldSelf.spec.stages || {_AT_REST_CEL}",
        "spec.stages may change only while the job is Pending, Suspended or Failed",
        _find_moved_stages,
    ),
    ChangeRule(
        "self.spec.stages.size() == oldSelf.spec.stages.size() && [0,1,2,3,4,5,6,7,8,9].all(i, i >= self.spec.stages.size() || "
        "(self.spec.stages[i].name == oldSelf.spec.stages[i].name && self.spec.stages[i].type == oldSelf.spec.stages[i].type))",
        "stages cannot be added, removed, renamed, reordered or given another type: create a new job",
        _find_other_stages,
    ),
    ChangeRule(
        "!has(self.status) || !has(self.status.stages) || "
        "(has(self.spec.rerun) && self.spec.rerun.token != oldSelf.spec.?rerun.?token.orValue('')) || "
        "self.status.stages.all(p, p.?phase.orValue('') != 'Succeeded' || "
        "self.spec.stages.filter(x, x.name == p.name) == oldSelf.spec.stages.filter(x, x.name == p.name))",
        "a Succeeded stage may change only together with a new rerun.token",
        _find_changed_success,
    ),
    ChangeRule(
        "(has(self.spec.rerun) ? has(oldSelf.spec.rerun) && self.spec.rerun == oldSelf.spec.rerun : !has(oldSelf.spec.rerun)) || "
        "self.?status.?phase.orValue('Pending') in ['Pending', 'Suspended', 'Failed', 'Succeeded']",
        "spec.rerun may change only while the job is Pending, Suspended, Failed or Succeeded",
        _find_early_rerun,
    ),
)
