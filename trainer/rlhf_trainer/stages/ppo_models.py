"""The four models of PPO: policy and critic in training, reward model and reference frozen (rules P6, P9, P10).

With LoRA the reference is the policy with its adapters off: no second copy. Without, it is a frozen copy of where the policy started; a
resumed attempt loads the same one, its digest is in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_api.ppo import PPO
from rlhf_trainer.errors import UnsupportedError
from rlhf_trainer.models import adapters, load
from rlhf_trainer.run import Run
from rlhf_trainer.stages import inputs, setup
from rlhf_trainer.strategy.base import Strategy, Trained

MODEL_ROLES = ("policy", "reward", "critic")
"""The models that PPO is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOModels:
    """Who acts, who estimates, who judges, and who is not to be left too far behind."""

    policy: Trained
    critic: Trained
    reward: Trained
    frozen_reference: Trained | None
    """None: the policy without its adapters."""
    policy_source: Path
    critic_source: Path

    @contextmanager
    def reference(self) -> Iterator[Any]:
        """The model to stay near to; call it inside the block only."""
        if self.frozen_reference is not None:
            yield self.frozen_reference.model
        else:
            with adapters.adapters_off(self.policy.module):
                yield self.policy.model


def build_models(run: Run, config: PPO, strategy: Strategy, *, num_rows: int, total_steps: int) -> PPOModels:
    """Load all models and hand them to the strategy.

    Raises:
        UnsupportedError: the reward model or the critic has another vocabulary than the policy.
    """
    sources = {role: inputs.model_directory(run, role) for role in MODEL_ROLES}
    _check_vocabularies(sources)
    policy_source, reward_source, critic_source = (sources[role] for role in MODEL_ROLES)
    policy_updates, critic_updates = num_updates(config, num_rows, total_steps)
    policy_rate, critic_rate = config.learning_rate or 0.0, config.critic_learning_rate or 0.0
    head = "saved" if setup.is_score_directory(critic_source) else "zero"
    policy = strategy.prepare(setup.language_model(run, policy_source), setup.optimizer_config(run, config, policy_rate, policy_updates))
    critic = strategy.prepare(
        setup.score_model(run, critic_source, head=head), setup.optimizer_config(run, config, critic_rate, critic_updates)
    )
    reward = strategy.prepare(setup.score_model(run, reward_source, is_trained=False), None, frozen=True)
    needs_copy = not adapters.has_adapter(policy.module)
    reference = strategy.prepare(setup.language_model(run, policy_source, is_trained=False), None, frozen=True) if needs_copy else None
    return PPOModels(
        policy=policy, critic=critic, reward=reward, frozen_reference=reference, policy_source=policy_source, critic_source=critic_source
    )


def num_updates(config: PPO, num_rows: int, total_steps: int) -> tuple[int, int]:
    """Optimizer steps of policy and critic over the whole stage: what their schedules run over (rules P15, P16)."""
    size = min(config.rollout_batch_size, num_rows)
    num_full, rest = divmod(num_rows, size)
    sizes = [size] * num_full + ([rest] if rest else [])
    updates = [config.epochs_per_rollout * -(-sizes[i % len(sizes)] // config.minibatch_size) for i in range(total_steps)]
    return max(1, sum(updates[config.critic_warmup_steps :])), sum(updates)


def _check_vocabularies(directories: dict[str, Path]) -> None:
    sizes = {role: int(load.read_config(directory)["vocab_size"]) for role, directory in directories.items()}
    if len(set(sizes.values())) > 1:
        raise UnsupportedError(
            f"policy, reward and critic must have one vocabulary, they have {sizes} entries",
            hint="train the reward model from the same base model",
        )
