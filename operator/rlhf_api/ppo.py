"""The PPO block of a stage."""

from typing import Literal

from pydantic import Field

from rlhf_api.base import ApiModel, Bool, Fraction, Int, LearningRate, Number
from rlhf_api.inputs import Dataset, ModelInput

Schedule = Literal["cosine", "linear", "constant"]


class Optimization(ApiModel):
    """What every training stage shares."""

    schedule: Schedule = Field("cosine", description="Learning rate after warm-up.")
    min_learning_rate_fraction: Fraction = Field(0.1, description="Final learning rate as a part of the peak.")
    warmup_fraction: Number = Field(0.03, ge=0, lt=1, description="Part of all optimizer steps spent warming up.")
    weight_decay: Number = Field(0.0, ge=0, le=1, description="AdamW weight decay.")
    gradient_clip: Number = Field(1.0, ge=0, le=1000, description="Largest global gradient norm; 0 = off.")
    gradient_checkpointing: Bool = Field(True, description="Recompute activations in the backward pass: less memory, about 30 % slower.")
    max_drop_fraction: Fraction = Field(0.05, description="Fail with DataInvalid when more rows than this part are unusable.")


class KL(ApiModel):
    """How the policy is held near its reference."""

    coefficient: Number = Field(0.02, ge=0, le=10, description="Weight in the reward.")
    estimator: Literal["k1", "k2", "k3"] = Field("k1", description="k1 = log ratio, k2 = half its square, k3 = ratio - 1 - log ratio.")
    controller: Literal["fixed", "adaptive"] = Field("fixed", description="fixed keeps the coefficient; adaptive steers it to target.")
    target: Number | None = Field(None, gt=0, le=1000, description="Wanted KL in nats per answer; only with adaptive.")
    horizon: Int = Field(10000, ge=1, le=100_000_000, description="Answers over which the adaptive controller reacts.")


class PPO(Optimization):
    """Move the policy towards what the reward model prefers."""

    policy: ModelInput | None = Field(
        None, description="Policy and reference to start from; unset = the nearest earlier SFT or PPO stage, else spec.model."
    )
    reward: ModelInput | None = Field(None, description="Reward model; unset = the nearest earlier RewardModel stage.")
    critic: ModelInput | None = Field(None, description="Critic to start from; unset = the reward model.")
    prompts: Dataset = Field(description="Prompts, or conversations of which the last answer is removed.")
    pretrain_dataset: Dataset | None = Field(None, description="Rows mixed into the update to keep general skill; needs ptxCoefficient.")
    ptx_coefficient: Number = Field(0.0, ge=0, le=100, description="Weight of the language-model loss on pretrainDataset.")
    episodes: Int | None = Field(None, ge=1, le=1000, description="Passes over the prompts; unset = 1 unless steps is set.")
    steps: Int | None = Field(None, ge=1, le=10_000_000, description="Number of rollouts instead of episodes.")
    rollout_batch_size: Int = Field(512, ge=1, le=1_048_576, description="Prompts answered per rollout over all workers.")
    minibatch_size: Int = Field(128, ge=1, le=1_048_576, description="Answers per optimizer step; divides rolloutBatchSize.")
    epochs_per_rollout: Int = Field(1, ge=1, le=16, description="Updates over the same rollout; more than 2 is often unstable.")
    max_prompt_length: Int = Field(1024, ge=8, le=1_048_576, description="Longest prompt in tokens; longer ones are dropped and counted.")
    max_new_tokens: Int = Field(512, ge=1, le=131_072, description="Longest answer in tokens.")
    temperature: Number = Field(1.0, gt=0, le=10, description="Sampling temperature; log-probabilities use the same value.")
    top_k: Int = Field(0, ge=0, le=1_000_000, description="0 = off. Must stay off unless importanceCorrection is on.")
    top_p: Number = Field(1.0, gt=0, le=1, description="1 = off. Must stay off unless importanceCorrection is on.")
    importance_correction: Bool = Field(
        False, description="Reweight by the truncated sampling distribution so that topK and topP stay correct."
    )
    learning_rate: LearningRate | None = Field(
        None, description="Peak learning rate of the policy, used exactly as written; unset = 1e-6, with LoRA 1e-5."
    )
    critic_learning_rate: LearningRate | None = Field(
        None, description="Peak learning rate of the critic, used exactly as written; unset = 9e-6, with LoRA 9e-5."
    )
    critic_warmup_steps: Int = Field(20, ge=0, le=100_000, description="Rollouts in which only the critic learns.")
    kl: KL = Field(KL(), description="How the policy is held near its reference.")
    max_kl: Number = Field(
        50.0,
        ge=0,
        le=100_000,
        description="Guard: mean KL of a rollout in nats per answer above which the stage stops as Diverged; 0 = off.",
    )
    missing_eos_penalty: Number = Field(1.0, ge=0, le=1000, description="Subtracted from the score of an answer without an end token.")
    gamma: Number = Field(1.0, gt=0, le=1, description="Discount per token.")
    gae_lambda: Fraction = Field(0.95, alias="lambda", description="GAE lambda.")  # `lambda` is a keyword of Python
    clip: Number = Field(0.2, gt=0, le=1, description="Clip range of the probability ratio.")
    value_clip: Number = Field(0.2, ge=0, le=100, description="Clip range of the value change; 0 = off.")
    normalize_reward: Bool = Field(True, description="Divide scores by a running deviation after removing the running mean.")
    reward_clip: Number = Field(5.0, ge=0, le=1000, description="Largest absolute score after normalization; 0 = off.")
    loss_mean: Literal["token", "sequence"] = Field("token", description="Average over all tokens of a minibatch, or over answers first.")
    ema_decay: Number = Field(0.0, ge=0, lt=1, description="Decay of the averaged policy, which then becomes the output; 0 = off.")
