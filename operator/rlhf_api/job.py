"""RLHFJob: what a user writes, and what `kubectl apply` and `rlhf run` both take."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from rlhf_api import names
from rlhf_api.base import (
    OBJECT_NAME_PATTERN,
    ApiModel,
    Bool,
    ByteQuantity,
    Int,
    JobName,
    ModelSize,
    Number,
    ObjectName,
    Timestamp,
    is_empty,
)
from rlhf_api.inputs import Dataset, DatasetFormat, ModelInput, Pinned, Source
from rlhf_api.policies import CheckpointPolicy, Rerun, RunPolicy, StageRunPolicy, resolved_run_policy
from rlhf_api.stages import Stage, Strategy
from rlhf_api.status import JobStatus
from rlhf_api.topology import Topology

__all__ = [
    "ChatTemplate",
    "CheckpointPolicy",
    "Dataset",
    "DatasetFormat",
    "Lora",
    "ModelInput",
    "ModelSpec",
    "ObjectMeta",
    "Pinned",
    "Precision",
    "RLHFJob",
    "RLHFJobSpec",
    "Rerun",
    "RunPolicy",
    "Source",
    "StageRunPolicy",
    "Storage",
    "Topology",
    "resolved_precision",
    "resolved_run_policy",
]  # fmt: skip

Namespace = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=OBJECT_NAME_PATTERN)]
ModuleName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Precision = Literal["bf16", "fp16", "fp32"]
ChatTemplate = Literal["auto", "chatml", "llama2", "llama3", "plain"]


class Lora(ApiModel):
    """Train small adapters beside frozen weights."""

    rank: Int = Field(16, ge=1, le=1024, description="Adapter rank.")
    alpha: Int = Field(32, ge=1, le=4096, description="Scale: updates are multiplied by alpha / rank.")
    dropout: Number = Field(0.0, ge=0, lt=1, description="Adapter dropout; not applied in PPO.")
    target_modules: tuple[ModuleName, ...] = Field(
        (), exclude_if=is_empty, max_length=16, description="Module names; empty means every linear layer except the output head."
    )


class ModelSpec(ApiModel):
    """The base model and how it is trained."""

    size: ModelSize | None = Field(None, description="Number of parameters, for the memory plan (7B, 350M); optional for builtin models.")
    source: Source = Field(description="Where the base model and its tokenizer come from; not https://.")
    precision: Precision | None = Field(
        None, description="Number format of weights and activations while training; unset = bf16, on CPU fp32."
    )
    lora: Lora | None = Field(None, description="Train adapters instead of all weights; unset = all weights are trained.")
    load_in_4bit: Bool = Field(
        False, alias="loadIn4bit", description="QLoRA: keep the frozen weights in NF4; needs lora."
    )  # to_camel would write loadIn_4bit
    trust_remote_code: Bool = Field(
        False, description="Run Python code shipped with the model; the profile must allow it. Unsupported in this version."
    )
    chat_template: ChatTemplate = Field(
        "auto", description="Template that turns messages into text; auto takes the one shipped with the model."
    )


class Storage(ApiModel):
    """The shared volume of the job: a new claim of a size, or an existing claim."""

    size: ByteQuantity | None = Field(None, description="Size of a new claim (200Gi).")
    existing_claim: ObjectName | None = Field(None, description="Claim to use instead of a new one; the profile must allow it.")
    storage_class_name: ObjectName | None = Field(
        None, description="Class of the new claim; unset = the default of the profile, else of the cluster."
    )
    retain: Bool = Field(True, description="Keep the claim when the job is deleted.")
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] | None = Field(
        None,
        description="Unset = ReadWriteOnce when every stage has one node and maxParallelStages is 1, else ReadWriteMany.",
    )


class RLHFJobSpec(ApiModel):
    """What to train, on what, and how hard to try."""

    profile: ObjectName = Field("default", description="ClusterRLHFProfile that supplies images, hardware and limits; immutable.")
    model: ModelSpec = Field(description="The base model and how it is trained; immutable.")
    topology: Topology = Field(description="Pods and processes of every training stage that does not set its own.")
    strategy: Strategy = Field(
        "auto",
        description="How the training state is spread: ddp = a full copy per process; zero1 splits optimizer state, zero2 also gradients, "
        "gemini also weights; -offload uses host memory; 3d = tensor and pipeline parallel; auto = the simplest that fits.",
    )
    seed: Int = Field(42, ge=0, le=2_147_483_647, description="Seed of data order, initialization and sampling; immutable.")
    storage: Storage = Field(description="The shared volume of the job; immutable.")
    checkpoint: CheckpointPolicy = Field(CheckpointPolicy(), description="How often a stage saves, and how many checkpoints stay.")
    run_policy: RunPolicy = Field(RunPolicy(), description="Budgets and deadlines of the job and of its stages.")
    suspend: Bool = Field(False, description="Stop after a checkpoint and hold no GPUs until false again.")
    managed_by: Literal["rlhf.dev/operator", "kueue.x-k8s.io/multikueue"] = Field(
        "rlhf.dev/operator", description="Controller in charge; the operator ignores jobs of others; immutable."
    )
    queue_name: ObjectName | None = Field(None, description="Kueue LocalQueue of every stage; unset = the default of the profile.")
    priority_class_name: ObjectName | None = Field(None, description="PriorityClass of the pods; the profile must list it.")
    rerun: Rerun | None = Field(None, description="Run a part of a finished or failed job again.")
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=10, description="Stages in order; an input may only name an earlier stage.")

    def stage(self, name: str) -> Stage:
        """The stage of that name.

        Raises:
            KeyError: there is none; `prepare` is written by nobody and so is none of these.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)


class ObjectMeta(ApiModel):
    """The part of Kubernetes' metadata that we read; the rest is kept as it came."""

    model_config = ConfigDict(extra="allow")

    name: JobName
    namespace: Namespace = "default"
    uid: str | None = None
    generation: int | None = None
    resource_version: str | None = None
    creation_timestamp: Timestamp | None = None
    deletion_timestamp: Timestamp | None = None
    labels: dict[str, str] = Field({}, exclude_if=is_empty)
    annotations: dict[str, str] = Field({}, exclude_if=is_empty)


class RLHFJob(ApiModel):
    """A job: one manifest from a base model to an aligned, quantized, published one."""

    api_version: Literal["rlhf.dev/v1alpha1"] = names.API_VERSION
    kind: Literal["RLHFJob"] = names.KIND_JOB
    metadata: ObjectMeta = Field(description="At least the name of the job.")
    spec: RLHFJobSpec = Field(description="What to train, on what, and how hard to try.")
    status: JobStatus | None = None


def resolved_precision(model: ModelSpec, topology: Topology) -> Precision:
    """Number format of a stage: as written, else bf16 on GPUs and fp32 on CPUs."""
    return model.precision or ("bf16" if topology.gpus_per_node else "fp32")
