"""run.json: the resolved configuration of one attempt, written by the operator, read by the launcher, which trusts only its sha256.

Everything is resolved: no default is left to fill in. All paths are relative to `root`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from rlhf_api import names
from rlhf_api.base import (
    ApiModel,
    Bool,
    Digest,
    Fraction,
    Int,
    Number,
    RelativePath,
    StageName,
    canonical_json,
    digest,
    is_empty,
    sha256_hex,
)
from rlhf_api.inputs import Dataset, Source
from rlhf_api.job import ChatTemplate, Lora, Precision
from rlhf_api.policies import CheckpointPolicy
from rlhf_api.stages import PPO, SFT, Publish, Quantize, RewardModel, StageType

__all__ = [
    "MAX_RUN_BYTES", "DatasetRequest", "Deadlines", "Gang", "InputRef", "JobRef", "ModelRequest", "Optimizer", "PrepareConfig", "RunConfig",
    "RunModel", "RunPlan", "StageConfig", "StageRef", "digest",
]  # fmt: skip

MAX_RUN_BYTES = 65536


class JobRef(ApiModel):
    """Whose attempt this is."""

    name: str
    namespace: str
    uid: str


class StageRef(ApiModel):
    """Which stage this is an attempt of."""

    name: StageName
    type: StageType


class Gang(ApiModel):
    """The workers of the attempt and where they meet."""

    nodes: Int = Field(ge=1)
    processes_per_node: Int = Field(ge=1)
    world_size: Int = Field(ge=1)
    master_address: str
    master_port: Int = names.RENDEZVOUS_PORT
    device: Literal["cuda", "cpu"]


class RunModel(ApiModel):
    """`spec.model` without its source, precision resolved."""

    size: str | None = None
    precision: Precision
    lora: Lora | None = None
    load_in_4bit: Bool = Field(False, alias="loadIn4bit")
    chat_template: ChatTemplate = "auto"
    trust_remote_code: Bool = False


class InputRef(ApiModel):
    """An output on the volume: its directory, and the digest of the manifest in it."""

    path: RelativePath
    digest: Digest


class RunPlan(ApiModel):
    """What the planner chose. `plain` is one process without Colossal-AI; `total_steps` is set only when the job file fixes it."""

    strategy: Literal["plain", "ddp", "zero1", "zero2", "zero2-offload", "gemini", "gemini-offload", "3d"] = "plain"
    tensor_parallel: Int = Field(1, ge=1)
    pipeline_parallel: Int = Field(1, ge=1)
    micro_batch_size: Int = Field(1, ge=1)
    gradient_checkpointing: Bool = False
    total_steps: Int | None = Field(None, ge=1)


class Optimizer(ApiModel):
    """Fixed and recorded: AdamW."""

    betas: tuple[Number, Number] = (0.9, 0.95)
    eps: Number = 1e-5


class Deadlines(ApiModel):
    """Clocks of the launcher, in seconds."""

    startup_seconds: Int = Field(ge=1)
    progress_seconds: Int = Field(ge=1)
    shutdown_seconds: Int = Field(110, ge=1)


class ModelRequest(ApiModel):
    """A model that Prepare fetches and verifies under `key`: `model`, or `<stage>.<role>`."""

    key: str
    source: Source


class DatasetRequest(ApiModel):
    """A dataset that Prepare fetches, checks and tokenises under `key`: `<stage>.<field>`."""

    key: str
    dataset: Dataset
    purpose: Literal["conversations", "preference", "prompts"]
    tokenizer: str = Field(description="Key of the model whose tokenizer is used.")
    max_length: Int = Field(ge=1)
    answer_length: Int = Field(0, ge=0, exclude_if=is_empty, description="Tokens that a stage generates after each row.")
    overlong: Literal["drop", "truncate"] = "drop"
    max_drop_fraction: Fraction = 0.05
    eval_fraction: Number = Field(0.0, ge=0, le=0.5)
    loss_on: Literal["assistant", "all"] = "assistant"


class PrepareConfig(ApiModel):
    """The block of the implicit first stage."""

    models: tuple[ModelRequest, ...]
    datasets: tuple[DatasetRequest, ...]
    chat_template: ChatTemplate = "auto"
    allow_private_addresses: Bool = False


StageConfig = PrepareConfig | SFT | RewardModel | PPO | Quantize | Publish

_CONFIGS: Mapping[str, type[ApiModel]] = {
    StageType.PREPARE: PrepareConfig,
    StageType.SFT: SFT,
    StageType.REWARD_MODEL: RewardModel,
    StageType.PPO: PPO,
    StageType.QUANTIZE: Quantize,
    StageType.PUBLISH: Publish,
}


class RunConfig(ApiModel):
    """run.json."""

    version: Literal[1] = 1
    job: JobRef
    stage: StageRef
    attempt: Int = Field(ge=1)
    gang: Gang
    root: str = Field(min_length=1)
    directory: RelativePath
    resume_from: tuple[RelativePath, ...] = ()
    model: RunModel
    inputs: dict[str, InputRef] = {}
    """Roles fed by an earlier stage's output. The model lies in its `model/`, a PPO critic in `critic/`."""
    prepared: InputRef | None = None
    """Output of Prepare; None for Prepare itself."""
    prepared_models: dict[str, str] = {}
    """Roles fed by Prepare, as keys into `models` of prepared.json."""
    prepared_datasets: dict[str, str] = {}
    """Datasets of the stage, as keys into `datasets` of prepared.json."""
    plan: RunPlan = RunPlan()
    config: StageConfig
    optimizer: Optimizer = Optimizer()
    seed: Int
    checkpoint: CheckpointPolicy
    deadlines: Deadlines
    progress_port: Int = Field(names.PROGRESS_PORT, ge=0, le=65535)

    @model_validator(mode="before")
    @classmethod
    def _read_config_by_type(cls, document: Any) -> Any:
        """The stage's type decides what `config` is: a union would guess, and blocks look alike."""
        if not isinstance(document, Mapping) or not isinstance(document.get("config"), Mapping):
            return document
        stage = document.get("stage")
        stage_type = stage.get("type") if isinstance(stage, Mapping) else getattr(stage, "type", None)
        model = _CONFIGS.get(stage_type) if isinstance(stage_type, str) else None
        return document if model is None else {**document, "config": model.from_wire(document["config"])}

    @classmethod
    def load(cls, path: Path) -> "RunConfig":
        """The configuration in a file.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not JSON, or not a run.json (pydantic.ValidationError is a ValueError).
        """
        return cls.from_wire(json.loads(path.read_bytes()))

    def to_bytes(self) -> bytes:
        """The bytes of run.json. Equal configurations give equal bytes, so a repeated create gives the same Job.

        Raises:
            ValueError: more than 64 KiB, which an annotation does not hold.
        """
        data = canonical_json(self.to_wire())
        if len(data) > MAX_RUN_BYTES:
            raise ValueError(f"run.json of stage {self.stage.name} has {len(data)} bytes, more than {MAX_RUN_BYTES}")
        return data


def run_sha256(data: bytes) -> str:
    """The sha256 of run.json as `RLHF_RUN_SHA256` carries it: plain hex."""
    return sha256_hex(data)
