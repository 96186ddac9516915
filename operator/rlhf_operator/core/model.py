"""What a decision is made from and what comes out of it: `Observed` in, `Plan` out. Frozen values without behaviour of their own.

`shell/reconciler.py` builds an `Observed` from live objects (`live.py` reads them) and carries a `Plan` out; `decide.py` is between.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rlhf_api import names
from rlhf_api.job import RLHFJobSpec
from rlhf_api.outcome import ProgressDocument
from rlhf_api.problems import Problem
from rlhf_api.profile import ProfileSpec
from rlhf_api.status import AttemptStatus, JobStatus, StageStatus
from rlhf_operator.core.live import LiveClaim, LiveJob, LivePod

SHUTDOWN_SECONDS = 110
"""What the launcher has for a last checkpoint: the grace period of the pod less ten seconds."""
GRACE_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the installation says. The same for every job."""

    cluster_domain: str = "cluster.local"
    operator_namespace: str = "rlhf-system"
    """Namespace whose operator pods may read the progress port."""
    progress_write_seconds: float = 30.0
    """Shortest time between two status writes that progress alone causes."""
    uid_write_seconds: float = 10.0
    """How long the uid of a new Job waits for another reason to write."""
    is_one_machine: bool = False
    """`rlhf run`: the volume is a directory, which all pods share whatever its claim says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileObject:
    """The profile as it is now; the snapshot of a job is another thing."""

    name: str
    uid: str
    generation: int
    spec: ProfileSpec


@dataclass(frozen=True, slots=True)
class Reading:
    """The newest valid answer of pod 0, and for how long its step has not moved (by the operator's monotonic clock)."""

    document: ProgressDocument
    received: datetime
    idle_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ApplyError:
    """Why the last plan of this key could not be carried out: a reason of api.md section 5, and the server's words."""

    reason: str
    message: str
    kind: str = ""
    name: str = ""
    """Which object was refused."""

    @property
    def is_conflict_of_the_job(self) -> bool:
        """A foreign object has a name that the whole job needs. A Service's name is needed by one attempt only."""
        return self.reason == names.REASON_NAME_CONFLICT and self.kind != "Service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything a decision may depend on."""

    name: str
    namespace: str
    uid: str
    generation: int
    resource_version: str = ""
    """Of the object that was read: the status write fails when it has changed since."""
    created: datetime
    is_being_deleted: bool = False
    spec: RLHFJobSpec | None
    """None when the manifest breaks rules: `problems` then says which."""
    problems: tuple[Problem, ...] = ()
    status: JobStatus = field(default_factory=JobStatus)
    settings: Settings = Settings()
    profile: ProfileObject | None = None
    """Read while the job has no snapshot, or needs a new one."""
    snapshot: ProfileSpec | None = None
    """Content of the job's ControllerRevision; None when there is none or its hash is wrong."""
    profile_names: tuple[str, ...] = ()
    """Profiles that exist, for the message that the wanted one does not."""
    namespace_labels: Mapping[str, str] | None = None
    secrets: Mapping[str, bool] = field(default_factory=dict)
    """Secrets that were looked up: whether their owner permits the use."""
    claim: LiveClaim | None = None
    jobs: tuple[LiveJob, ...] = ()
    pods: tuple[LivePod, ...] = ()
    listed: frozenset[str] = frozenset()
    """Names of the attempts whose pods were listed. Of others nothing is known."""
    services: frozenset[str] | None = None
    """Services of this job; None when they were not looked up."""
    seen_uids: Mapping[str, str] = field(default_factory=dict)
    """Jobs that this process has seen, by name: a Job that is gone was there."""
    made_uids: Mapping[str, str] = field(default_factory=dict)
    """Jobs that this process created from the present generation of the spec, by name: they need not be compared with their manifest."""
    progress: Mapping[str, Reading] = field(default_factory=dict)
    """Newest progress by stage."""
    running_since: Mapping[str, datetime] = field(default_factory=dict)
    """When this process first knew that an attempt runs, by the name of its Job: before that it could not hear its pod 0."""
    apply_error: ApplyError | None = None
    has_slot: bool = True
    """False while the namespace runs as many jobs as the profile allows."""

    @property
    def rules(self) -> ProfileSpec | None:
        """The profile that counts for this job: its snapshot, else the live one."""
        return self.snapshot or (self.profile.spec if self.profile else None)

    def job_of(self, stage: str, attempt: int) -> LiveJob | None:
        """The live Job of an attempt."""
        name = names.attempt_name(self.name, stage, attempt)
        return next((job for job in self.jobs if job.name == name), None)

    def pods_of(self, stage: str, attempt: int) -> tuple[LivePod, ...]:
        """The live pods of an attempt, if they were listed."""
        return tuple(pod for pod in self.pods if pod.stage == stage and pod.attempt == attempt)

    def stage_status(self, stage: str) -> StageStatus | None:
        """What the status says of a stage; None before the first write."""
        return next((status for status in self.status.stages if status.name == stage), None)


@dataclass(frozen=True, slots=True)
class Create:
    """POST an object. An equal one of ours counts as created; a foreign one of that name is a NameConflict."""

    kind: str
    body: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the object."""
        return str(self.body["metadata"]["name"])


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an object of ours; the uid guards against another one of that name."""

    kind: str
    name: str
    uid: str
    propagation: str = "Foreground"


Action = Create | Delete


@dataclass(frozen=True, slots=True)
class EventRecord:
    """An event on the RLHFJob, for people."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, in this order: `before`, the status, `after`; then look again in `requeue_seconds`."""

    before: tuple[Action, ...] = ()
    status: JobStatus | None = None
    """None: the status is right as it is."""
    after: tuple[Action, ...] = ()
    requeue_seconds: float | None = None
    events: tuple[EventRecord, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to write."""
        return not self.before and self.status is None and not self.after


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that a stage waits for: the condition that says so, its reason, and words for people."""

    condition: str
    reason: str
    message: str
    stage: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one stage came to in this decision: its new status, what to do for it, what it waits for, when to look again."""

    status: StageStatus
    before: tuple[Action, ...] = ()
    after: tuple[Action, ...] = ()
    wait: Wait | None = None
    requeue_seconds: float | None = None
    gpu_seconds: int = 0
    """GPU time of the attempt that ended in this step."""


def open_attempt(status: StageStatus) -> AttemptStatus | None:
    """The attempt that has not ended, if there is one: it is always the newest."""
    newest = status.attempts[-1] if status.attempts else None
    return newest if newest is not None and newest.outcome is None else None
