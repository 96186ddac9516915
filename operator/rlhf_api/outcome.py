"""What a stage says back: exit code, termination message, progress, manifest, and what Prepare found."""

import json
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Literal, Self

from pydantic import Field, JsonValue, ValidationError

from rlhf_api import names
from rlhf_api.base import ApiModel, Digest, Int, Number, ObservedModel, RelativePath, StageName, Timestamp, canonical_json

MAX_TERMINATION_BYTES = 4096  # Kubernetes keeps no more
MAX_PROGRESS_BYTES = 16384
MAX_INTEGER = 2**53 - 1
"""The largest count a pod may report: beyond it JSON readers round, and beyond 64 bits the API server refuses the status that has it."""
_KEPT_CHARACTERS = 512
"""What a status shows of a report's words: they are not cut below this while there are metrics to leave out."""


class ExitCode(IntEnum):
    """How a process of a stage ends, and how `rlhf` ends."""

    SUCCEEDED = 0
    CONFIG = 64
    DATA = 65
    INPUT = 66
    UNSUPPORTED = 69
    INTERNAL = 70
    GPU_OUT_OF_MEMORY = 71
    HOST_OUT_OF_MEMORY = 72
    COMMUNICATION = 73
    STORAGE = 74
    PREEMPTED = 75
    DIVERGED = 76
    GATE_FAILED = 77
    STALLED = 78


class Outcome(StrEnum):
    """How an attempt ended. The names double as reasons of conditions."""

    SUCCEEDED = "Succeeded"
    CONFIG_INVALID = "ConfigInvalid"
    DATA_INVALID = "DataInvalid"
    INPUT_INVALID = "InputInvalid"
    UNSUPPORTED = "Unsupported"
    INTERNAL_ERROR = "InternalError"
    GPU_OUT_OF_MEMORY = "GPUOutOfMemory"
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    COMMUNICATION = "Communication"
    STORAGE = "Storage"
    PREEMPTED = "Preempted"
    DIVERGED = "Diverged"
    GATE_FAILED = "GateFailed"
    STALLED = "Stalled"
    APP_ERROR = "AppError"
    DISRUPTED = "Disrupted"
    STARTUP_TIMEOUT = "StartupTimeout"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    OUTPUT_INVALID = "OutputInvalid"
    CANCELLED = "Cancelled"


class Budget(StrEnum):
    """What an ended attempt uses up."""

    NONE = "None"
    ATTEMPT = "Attempt"
    DISRUPTION = "Disruption"


OUTCOME_OF_CODE = MappingProxyType(
    {
        ExitCode.SUCCEEDED: Outcome.SUCCEEDED,
        ExitCode.CONFIG: Outcome.CONFIG_INVALID,
        ExitCode.DATA: Outcome.DATA_INVALID,
        ExitCode.INPUT: Outcome.INPUT_INVALID,
        ExitCode.UNSUPPORTED: Outcome.UNSUPPORTED,
        ExitCode.INTERNAL: Outcome.INTERNAL_ERROR,
        ExitCode.GPU_OUT_OF_MEMORY: Outcome.GPU_OUT_OF_MEMORY,
        ExitCode.HOST_OUT_OF_MEMORY: Outcome.HOST_OUT_OF_MEMORY,
        ExitCode.COMMUNICATION: Outcome.COMMUNICATION,
        ExitCode.STORAGE: Outcome.STORAGE,
        ExitCode.PREEMPTED: Outcome.PREEMPTED,
        ExitCode.DIVERGED: Outcome.DIVERGED,
        ExitCode.GATE_FAILED: Outcome.GATE_FAILED,
        ExitCode.STALLED: Outcome.STALLED,
    }
)

NEVER_RETRIED = frozenset(
    {
        Outcome.CONFIG_INVALID,
        Outcome.DATA_INVALID,
        Outcome.INPUT_INVALID,
        Outcome.UNSUPPORTED,
        Outcome.GPU_OUT_OF_MEMORY,
        Outcome.DIVERGED,
        Outcome.GATE_FAILED,
        Outcome.DEADLINE_EXCEEDED,
    }
)
"""Outcomes after which the same attempt would end the same way: they fail the stage at once and use up no budget."""

_DISRUPTIONS = frozenset({Outcome.COMMUNICATION, Outcome.PREEMPTED, Outcome.DISRUPTED, Outcome.STARTUP_TIMEOUT})


def outcome_of(exit_code: int) -> Outcome:
    """The outcome of an exit code; 137 without a cause on the platform's side is the kernel's out-of-memory killer."""
    if exit_code == 137:
        return Outcome.HOST_OUT_OF_MEMORY
    return OUTCOME_OF_CODE.get(exit_code, Outcome.APP_ERROR)  # type: ignore[call-overload, no-any-return]  # an int equals its IntEnum


def exit_code_of(outcome: Outcome) -> ExitCode | None:
    """The exit code of an outcome; None for those that no process reports (Disrupted, AppError, …)."""
    return next((code for code, name in OUTCOME_OF_CODE.items() if name is outcome), None)


def budget_of(outcome: Outcome) -> Budget:
    """What an attempt with this outcome uses up: an attempt, a disruption, or nothing."""
    if outcome in _DISRUPTIONS:
        return Budget.DISRUPTION
    if outcome in NEVER_RETRIED or outcome in (Outcome.SUCCEEDED, Outcome.CANCELLED):
        return Budget.NONE
    return Budget.ATTEMPT


class CheckpointRef(ObservedModel):
    """A complete checkpoint."""

    path: RelativePath
    step: Int = Field(ge=0, le=MAX_INTEGER)
    digest: Digest
    time: Timestamp | None = None


class TerminationMessage(ObservedModel):
    """What every pod leaves behind. `output_digest` comes from pod 0 only."""

    version: Literal[1] = 1
    outcome: Outcome
    exit_code: Int = Field(ge=0, le=255)
    message: str = ""
    hint: str | None = None
    rank: Int | None = Field(None, ge=0, le=MAX_INTEGER)
    step: Int | None = Field(None, ge=0, le=MAX_INTEGER)
    checkpoint: CheckpointRef | None = None
    resumed_from: CheckpointRef | None = None
    output_digest: Digest | None = None
    metrics: dict[str, Number] = Field({})

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The message of a pod, or None when it is none: a pod may write anything."""
        try:
            return cls.model_validate(json.loads(text), by_name=False, by_alias=True)
        except (ValueError, RecursionError, ValidationError):
            return None

    def encode(self, max_bytes: int = MAX_TERMINATION_BYTES) -> bytes:
        """JSON of at most `max_bytes`: first `hint` is cut, then `message`, both no shorter than a status shows; then metrics are left out,
        those that nobody looks for first; then the texts go as well.

        Raises:
            ValueError: nothing is left to cut.
        """
        fitting = self._with_cut("hint", max_bytes, _KEPT_CHARACTERS)._with_cut("message", max_bytes, _KEPT_CHARACTERS)
        fitting = fitting._with_fewer_metrics(max_bytes)
        fitting = fitting._with_cut("hint", max_bytes, 0)._with_cut("message", max_bytes, 0)
        if len(encoded := fitting.to_bytes()) > max_bytes:
            raise ValueError(f"a termination message of {len(encoded)} bytes cannot be cut to {max_bytes}")
        return encoded

    def _with_cut(self, name: str, max_bytes: int, shortest: int) -> Self:
        """This message, with one text shortened by as much as the whole is too long, but not below that many characters."""
        text: str = getattr(self, name) or ""
        cut = self
        while (excess := len(cut.to_bytes()) - max_bytes) > 0 and len(text) > shortest:
            text = text[: max(shortest, len(text) - max(1, excess // 4))]  # a character is up to 4 bytes, more when escaped
            cut = self.model_copy(update={name: text or ("" if name == "message" else None)})
        return cut

    def _with_fewer_metrics(self, max_bytes: int) -> Self:
        """This message without as many metrics as it is too long: headline ones stay longest."""
        kept = sorted(self.metrics, key=lambda name: (name not in names.HEADLINE_METRICS, name))
        cut = self
        while (excess := len(cut.to_bytes()) - max_bytes) > 0 and kept:
            del kept[-max(1, excess // 256) :]  # hardly any is longer
            cut = self.model_copy(update={"metrics": {name: self.metrics[name] for name in kept}})
        return cut


class ProgressDocument(ObservedModel):
    """What `GET /progress` of pod 0 answers."""

    version: Literal[1] = 1
    job_uid: str = Field(max_length=64)
    stage: StageName
    attempt: Int = Field(ge=1, le=MAX_INTEGER)
    state: Literal["loading", "rollout", "training", "evaluating", "saving", "finishing"]
    step: Int = Field(0, ge=0, le=MAX_INTEGER)
    total_steps: Int | None = Field(None, ge=0, le=MAX_INTEGER)
    percent: Number = Field(0.0, ge=0, le=100)
    eta_seconds: Number | None = Field(None, ge=0, le=MAX_INTEGER)
    update_time: Timestamp | None = None
    metrics: dict[str, Number] = Field({})
    checkpoint: CheckpointRef | None = None
    resumed_from: CheckpointRef | None = None


class ManifestFile(ApiModel):
    """A file and what proves it."""

    path: RelativePath
    size_bytes: Int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(ApiModel):
    """The list of files of an output, a checkpoint or an artifact. Its digest is the sha256 of the bytes of `manifest.json`."""

    version: Literal[1] = 1
    kind: Literal["output", "checkpoint", "artifact"]
    job: str = Field(max_length=63)
    stage: StageName
    attempt: Int = Field(ge=1)
    step: Int = Field(0, ge=0)
    inputs: dict[str, Digest] = Field({})
    metrics: dict[str, Number] = Field({})
    files: tuple[ManifestFile, ...]

    def to_bytes(self) -> bytes:
        """The bytes of `manifest.json`: files sorted by path, so that equal outputs have equal digests."""
        wire = self.to_wire()
        wire["files"] = sorted(wire["files"], key=lambda file: str(file["path"]))
        return canonical_json(wire)


class PreparedModel(ApiModel):
    """A verified model on the volume; `path` is relative to the root of the job."""

    path: RelativePath
    digest: Digest
    vocab_size: Int = Field(ge=1)


class PreparedDataset(ApiModel):
    """A tokenised dataset on the volume; `path` is relative to the root of the job."""

    path: RelativePath
    digest: Digest
    rows: Int = Field(ge=0)
    eval_rows: Int = Field(0, ge=0)
    held_out_rows: Int = Field(0, ge=0)
    statistics: dict[str, JsonValue] = Field({})


class Prepared(ApiModel):
    """`prepared.json`: what only Prepare knows."""

    version: Literal[1] = 1
    chat_template: str
    models: dict[str, PreparedModel]
    datasets: dict[str, PreparedDataset]
