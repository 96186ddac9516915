"""What the operator reports about a job: short enough for etcd, complete enough to resume from.

Bounds here are bounds of the CRD. Messages longer than these are cut by the writer, never refused.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from rlhf_api.base import Int, Number, ObservedModel, Timestamp
from rlhf_api.outcome import Budget, Outcome
from rlhf_api.stages import StageType

MAX_MESSAGE = 1024
MAX_STAGE_MESSAGE = 512
MAX_ATTEMPTS_KEPT = 10
MAX_METRICS = 24
MAX_CONDITIONS = 12

Text63 = Annotated[str, StringConstraints(max_length=63)]
Text253 = Annotated[str, StringConstraints(max_length=253)]
Path = Annotated[str, StringConstraints(max_length=256)]
DigestText = Annotated[str, StringConstraints(max_length=71)]
Uid = Annotated[str, StringConstraints(max_length=64)]


class JobPhase(StrEnum):
    """Where a job stands."""

    PENDING = "Pending"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class StagePhase(StrEnum):
    """Where a stage stands."""

    PENDING = "Pending"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUSPENDED = "Suspended"
    VERIFYING = "Verifying"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SKIPPED = "Skipped"


class Condition(ObservedModel):
    """One answer about the job, in the form of Kubernetes."""

    type: Text63
    status: Literal["True", "False", "Unknown"]
    observed_generation: Int | None = Field(None, ge=0)
    last_transition_time: Timestamp | None = None
    reason: Text63 = ""
    message: str = Field("", max_length=MAX_MESSAGE)


class CheckpointStatus(ObservedModel):
    """The newest complete checkpoint of a stage."""

    path: Path
    step: Int = Field(ge=0)
    digest: DigestText
    time: Timestamp | None = None


class OutputStatus(ObservedModel):
    """A proven output."""

    path: Path
    digest: DigestText
    size_bytes: Int | None = Field(None, ge=0)


class PlanStatus(ObservedModel):
    """What the planner chose. `plain` is one process without Colossal-AI; `auto` never stands here."""

    strategy: Literal["plain", "ddp", "zero1", "zero2", "zero2-offload", "gemini", "gemini-offload", "3d"]
    world_size: Int = Field(ge=1)
    micro_batch_size: Int | None = Field(None, ge=1)
    gpu_memory_gib: Number | None = Field(None, ge=0, alias="gpuMemoryGiB")
    host_memory_gib: Number | None = Field(None, ge=0, alias="hostMemoryGiB")


class ProgressStatus(ObservedModel):
    """The newest progress document of pod 0, cut to what a reader of the job needs."""

    percent: Number = Field(0.0, ge=0, le=100)
    step: Int = Field(0, ge=0)
    total_steps: Int | None = Field(None, ge=0)
    eta_seconds: Int | None = Field(None, ge=0)
    update_time: Timestamp | None = None


class Metric(ObservedModel):
    """A named figure."""

    name: Text63
    value: Number


class PodCount(ObservedModel):
    """Pods of the current attempt."""

    desired: Int = Field(0, ge=0)
    ready: Int = Field(0, ge=0)


class AttemptStatus(ObservedModel):
    """One try of a stage, and how it ended."""

    attempt: Int = Field(ge=1)
    job_name: Text63
    job_uid: Uid | None = None
    start_time: Timestamp | None = None
    end_time: Timestamp | None = None
    outcome: Outcome | None = None
    budget: Budget | None = None
    exit_code: Int | None = Field(None, ge=0, le=255)
    pod: Text253 | None = None
    node: Text253 | None = None
    index: Int | None = Field(None, ge=0)
    message: str | None = Field(None, max_length=MAX_STAGE_MESSAGE)
    resumed_from: CheckpointStatus | None = None


class StageStatus(ObservedModel):
    """Where a stage stands; the first of a job is `prepare`."""

    name: Annotated[str, StringConstraints(max_length=15)]
    type: StageType
    phase: StagePhase = StagePhase.PENDING
    reason: Text63 = ""
    message: str = Field("", max_length=MAX_STAGE_MESSAGE)
    spec_hash: DigestText | None = Field(
        None, description="Of the stage block without topology, strategy and runPolicy, and of its inputs' digests."
    )
    attempt: Int = Field(0, ge=0, description="Newest r<N>; never reused, also not by rerun.")
    counted_failures: Int = Field(0, ge=0)
    disruptions: Int = Field(0, ge=0)
    start_time: Timestamp | None = None
    completion_time: Timestamp | None = None
    pods: PodCount | None = None
    plan: PlanStatus | None = None
    progress: ProgressStatus | None = None
    metrics: tuple[Metric, ...] = Field((), max_length=MAX_METRICS)
    checkpoint: CheckpointStatus | None = None
    output: OutputStatus | None = Field(None, description="Set once the output is verified.")
    attempts: tuple[AttemptStatus, ...] = Field((), max_length=MAX_ATTEMPTS_KEPT, description="The newest attempts, oldest first.")


class ProfileStatus(ObservedModel):
    """The profile of the job and the snapshot that its attempts use."""

    name: Text63
    uid: Uid | None = None
    generation: Int | None = Field(None, ge=0)
    revision: Text253 | None = Field(None, description="Name of the ControllerRevision that holds the snapshot.")
    hash: DigestText | None = None


class VolumeStatus(ObservedModel):
    """Where the files of the job are."""

    claim_name: Text253
    path: Path | None = None


class Artifact(ObservedModel):
    """What a Publish stage delivered."""

    stage: Annotated[str, StringConstraints(max_length=15)]
    uri: str = Field(max_length=512)
    digest: DigestText
    size_bytes: Int | None = Field(None, ge=0)
    signed: bool = False


class JobStatus(ObservedModel):
    """Everything the operator knows about a job that cannot be read from live objects."""

    observed_generation: Int | None = Field(None, ge=0)
    phase: JobPhase = JobPhase.PENDING
    reason: Text63 = Field("", description="Why the job waits or failed: the reason of the decisive condition.")
    current_stage: str = Field("", max_length=175, description="Stage that runs; a comma list when several do.")
    stages_summary: str = Field("", max_length=15, description="Succeeded stages of all, Prepare included.")
    start_time: Timestamp | None = Field(None, description="When the first pod ran.")
    completion_time: Timestamp | None = None
    gpu_seconds: Int = Field(0, ge=0)
    rerun_token: str | None = Field(None, max_length=64, description="Last spec.rerun.token acted on.")
    profile: ProfileStatus | None = None
    volume: VolumeStatus | None = None
    conditions: tuple[Condition, ...] = Field((), max_length=MAX_CONDITIONS)
    stages: tuple[StageStatus, ...] = Field((), max_length=11, description="One for each stage; the first is prepare.")
    artifacts: tuple[Artifact, ...] = Field((), max_length=10)
