"""One typed block for each stage type, and the stage that holds exactly one of them."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from rlhf_api.base import ApiModel, Bool, Fraction, Int, LearningRate, Number, ObjectName, StageName, Uri, is_empty
from rlhf_api.inputs import Dataset, ModelInput
from rlhf_api.policies import StageRunPolicy
from rlhf_api.ppo import KL, PPO, Optimization, Schedule
from rlhf_api.topology import Topology

__all__ = [
    "KL", "PPO", "SFT", "Block", "Destination", "ModelCard", "Optimization", "Publish", "Quantize", "RewardModel", "Schedule", "Stage",
    "StageType", "Strategy", "Supervised", "block_field", "resolved_block",
]  # fmt: skip

Tag = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Strategy = Literal["auto", "ddp", "zero1", "zero2", "zero2-offload", "gemini", "gemini-offload", "3d"]


class StageType(StrEnum):
    """What a stage does."""

    PREPARE = "Prepare"
    SFT = "SFT"
    REWARD_MODEL = "RewardModel"
    PPO = "PPO"
    QUANTIZE = "Quantize"
    PUBLISH = "Publish"

    @property
    def is_training(self) -> bool:
        """True for the types that update weights, and so have a topology and a strategy."""
        return self in (StageType.SFT, StageType.REWARD_MODEL, StageType.PPO)


class Supervised(Optimization):
    """What SFT and RewardModel share: passes over fixed rows."""

    epochs: Int = Field(1, ge=1, le=100, description="Passes over the dataset.")
    max_steps: Int | None = Field(None, ge=1, le=100_000_000, description="Stop after this many optimizer steps; unset = all epochs.")
    max_length: Int = Field(2048, ge=16, le=1_048_576, description="Longest row in tokens.")
    overlong: Literal["drop", "truncate"] = Field(
        "drop", description="Rows above maxLength: drop, or truncate at the end (never with an invented end token)."
    )


class SFT(Supervised):
    """Learn to answer from conversations."""

    init: ModelInput | None = Field(None, description="Model to start from; unset = spec.model.")
    dataset: Dataset = Field(description="Conversations with answers: instruction, messages or alpaca.")
    learning_rate: LearningRate | None = Field(
        None, description="Peak learning rate, used exactly as written; unset = 2e-5, with LoRA 2e-4."
    )
    global_batch_size: Int = Field(
        128, ge=1, le=1_048_576, description="Rows per optimizer step over all workers; micro-batches follow from the memory plan."
    )
    eval_fraction: Number = Field(0.01, ge=0, le=0.5, description="Part of the rows held out for evaluation (at least one row unless 0).")
    packing: Bool = Field(True, description="Put several rows into one sequence, isolated from each other.")
    loss_on: Literal["assistant", "all"] = Field("assistant", description="Tokens that are learned: only answers, or everything.")


class RewardModel(Supervised):
    """Learn to score answers from preference pairs."""

    init: ModelInput | None = Field(None, description="Backbone to start from; unset = the nearest earlier SFT stage, else spec.model.")
    dataset: Dataset = Field(description="Preference pairs.")
    learning_rate: LearningRate | None = Field(
        None, description="Peak learning rate, used exactly as written; unset = 9e-6, with LoRA 9e-5."
    )
    global_batch_size: Int = Field(
        64, ge=1, le=1_048_576, description="Rows per optimizer step over all workers; micro-batches follow from the memory plan."
    )
    eval_fraction: Number = Field(0.05, ge=0, le=0.5, description="Part of the rows held out for evaluation (at least one row unless 0).")
    center_coefficient: Fraction = Field(0.01, description="Weight of mean((better + worse)^2), which keeps scores near zero.")
    normalize: Bool = Field(True, description="Shift and scale the finished model to mean 0 and deviation 1 on the training answers.")
    min_accuracy: Fraction = Field(0.55, description="Gate: smallest held-out pair accuracy (ties count half); 0 = off.")


class Quantize(ApiModel):
    """Make a smaller model, and measure what that cost."""

    model: ModelInput | None = Field(None, description="Model to quantize; unset = the nearest earlier SFT or PPO stage, else spec.model.")
    eval_dataset: Dataset | None = Field(None, description="Rows for the gate; unset = the held-out rows of the nearest earlier SFT stage.")
    method: Literal["nf4", "int8"] = Field("nf4", description="nf4 = 4-bit normal float, int8 = 8-bit with outliers kept (bitsandbytes).")
    double_quant: Bool | None = Field(None, description="Quantize the scales too (nf4 only); unset = true for nf4.")
    max_eval_rows: Int = Field(512, ge=1, le=100_000, description="Rows used for the gate.")
    max_perplexity_increase: Number = Field(0.1, gt=0, le=10, description="Gate: largest relative growth of perplexity (0.1 = 10 %).")


class Destination(ApiModel):
    """Where an artifact goes."""

    uri: Uri = Field(
        description="Where to write: hf://org/name, s3://bucket/path, gs://bucket/path, oci://registry/repo:tag or pvc://claim/path."
    )
    secret_name: ObjectName | None = Field(None, description="Secret with the credentials; it must carry the label rlhf.dev/use=true.")

    @property
    def scheme(self) -> str:
        """What stands before `://`; empty when nothing does."""
        scheme, separator, _ = self.uri.partition("://")
        return scheme if separator else ""


class ModelCard(ApiModel):
    """What readers of the artifact learn about it."""

    license: str | None = Field(None, max_length=64, description="SPDX license id.")
    tags: tuple[Tag, ...] = Field((), exclude_if=is_empty, max_length=16, description="Tags.")
    description: str | None = Field(None, max_length=2048, description="Short text for readers.")


class Publish(ApiModel):
    """Deliver a finished model."""

    model: ModelInput | None = Field(None, description="Stage to publish; unset = the nearest earlier SFT, PPO or Quantize stage.")
    destination: Destination = Field(description="Where to write.")
    model_card: ModelCard | None = Field(None, description="What readers of the artifact learn about it.")
    sign: Bool = Field(False, description="Sign the manifest with the key of the profile.")


Block = SFT | RewardModel | PPO | Quantize | Publish


class Stage(ApiModel):
    """A named step of a job. Exactly the block of its type is set."""

    name: StageName = Field(description="Name of the stage; immutable.")
    type: Literal[StageType.SFT, StageType.REWARD_MODEL, StageType.PPO, StageType.QUANTIZE, StageType.PUBLISH] = Field(
        description="Type of the stage: exactly the block of this type is set; immutable."
    )
    after: tuple[StageName, ...] = Field(
        (), exclude_if=is_empty, max_length=9, description="Earlier stages to wait for in addition to those named as inputs."
    )
    strategy: Strategy | None = Field(None, description="Replaces spec.strategy for this stage.")
    topology: Topology | None = Field(
        None,
        description="Replaces spec.topology as a whole. Quantize: one process on one node, also when unset, on a GPU if spec.topology has "
        "any; Publish: none.",
    )
    run_policy: StageRunPolicy | None = Field(None, description="Replaces single values of spec.runPolicy for this stage.")
    sft: SFT | None = Field(None, description="Settings of a stage of type SFT.")
    reward_model: RewardModel | None = Field(None, description="Settings of a stage of type RewardModel.")
    ppo: PPO | None = Field(None, description="Settings of a stage of type PPO.")
    quantize: Quantize | None = Field(None, description="Settings of a stage of type Quantize.")
    publish: Publish | None = Field(None, description="Settings of a stage of type Publish.")

    @property
    def own_block(self) -> Block | None:
        """The block of the stage's type, or None when it is missing, which validation refuses."""
        block: Block | None = getattr(self, _BLOCK_FIELDS[StageType(self.type)])
        return block

    @property
    def block(self) -> Block:
        """The block of the stage's type.

        Raises:
            ValueError: it is missing, which validation refuses.
        """
        if (block := self.own_block) is None:
            raise ValueError(f"stage {self.name} of type {self.type} has no block {block_field(StageType(self.type))}")
        return block


_BLOCK_FIELDS = {
    StageType.SFT: "sft",
    StageType.REWARD_MODEL: "reward_model",
    StageType.PPO: "ppo",
    StageType.QUANTIZE: "quantize",
    StageType.PUBLISH: "publish",
}


def block_field(stage_type: StageType) -> str:
    """Wire name of the block of a stage type: `rewardModel` for RewardModel."""
    return str(Stage.model_fields[_BLOCK_FIELDS[stage_type]].alias)


_LEARNING_RATES = {SFT: 2e-5, RewardModel: 9e-6, PPO: 1e-6}
_CRITIC_LEARNING_RATE = 9e-6
_LORA_FACTOR = 10  # adapters start at zero and are few: they take ten times the step


def resolved_learning_rate(block: SFT | RewardModel | PPO, has_lora: bool) -> float:
    """Peak learning rate: as written, else the default of the block's type, times 10 with LoRA."""
    if block.learning_rate is not None:
        return block.learning_rate
    return _scaled(_LEARNING_RATES[type(block)], has_lora)


def resolved_critic_learning_rate(block: PPO, has_lora: bool) -> float:
    """Peak learning rate of the critic: as written, else 9e-6, times 10 with LoRA."""
    return block.critic_learning_rate if block.critic_learning_rate is not None else _scaled(_CRITIC_LEARNING_RATE, has_lora)


def resolved_block(block: Block, has_lora: bool) -> Block:
    """The block with every value that depends on others filled in, as run.json carries it."""
    if isinstance(block, PPO):
        episodes = 1 if block.episodes is None and block.steps is None else block.episodes
        return block.model_copy(
            update={
                "learning_rate": resolved_learning_rate(block, has_lora),
                "critic_learning_rate": resolved_critic_learning_rate(block, has_lora),
                "episodes": episodes,
            }
        )
    if isinstance(block, SFT | RewardModel):
        return block.model_copy(update={"learning_rate": resolved_learning_rate(block, has_lora)})
    if isinstance(block, Quantize):
        double_quant = block.method == "nf4" if block.double_quant is None else block.double_quant
        # `false` for int8 would break the rule that doubleQuant belongs to nf4, so there it stays unset.
        return block.model_copy(update={"double_quant": double_quant if block.method == "nf4" else None})
    return block


def _scaled(rate: float, has_lora: bool) -> float:
    # Division keeps the decimal that a reader expects: 9e-6 * 10 is 8.999999999999999e-05.
    return rate if not has_lora else float(f"{rate * _LORA_FACTOR:.12g}")
