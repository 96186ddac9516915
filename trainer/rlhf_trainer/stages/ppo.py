"""PPO: move the policy towards what the reward model prefers (Schulman et al. 2017, arXiv:1707.06347; Ouyang et al. 2022, step 3).

    for prompts in order.batches:                    one rollout; `totalSteps` counts rollouts
        answers     = generate(policy, prompts)      one random number generator a row (rule P14)
        judgements  = reward model, reference, critic, and the policy itself, teacher-forced
        advantages  = whiten(gae(score − KL penalty))
        update policy and critic, minibatch by minibatch; save or stop when all workers agree

Departures from Schulman et al.:
1. The KL to the reference is part of each token's reward (Ziegler et al. 2019, arXiv:1909.08593, eq. 2), its coefficient fixed or adaptive.
2. The reward model's score is paid on the last answer token only (rule P1): on every token, as in ColossalChat, it rewards length.
3. Advantages are whitened over the whole rollout of all workers (rule P4), so one GPU and eight take the same step.
4. Policy and critic are two models with two optimizers; the critic starts from the reward model (rule P10) and learns alone for
   `criticWarmupSteps` rollouts (rule P16).
5. `ptxCoefficient` mixes the SFT loss in, against forgetting (Ouyang et al. 2022, eq. 2).

Laptop: `rlhf run examples/tiny-chat.yaml`. Output: `model/`, `critic/`, with LoRA also `adapter/` and `critic-adapter/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_api.planning import steps
from rlhf_api.ppo import PPO
from rlhf_trainer.data.order import Cursor
from rlhf_trainer.data.rows import PromptRow
from rlhf_trainer.data.store import PreparedDataset
from rlhf_trainer.errors import ConfigError, UnsupportedError
from rlhf_trainer.loop import Loop, Part
from rlhf_trainer.report.reporter import Reporter
from rlhf_trainer.rl import kl, rewards
from rlhf_trainer.run import Run, StageResult
from rlhf_trainer.stages import inputs, outputs
from rlhf_trainer.stages.ema import Ema
from rlhf_trainer.stages.facts import Facts
from rlhf_trainer.stages.ppo_models import MODEL_ROLES, PPOModels, build_models
from rlhf_trainer.stages.ppo_rollout import Rollouts
from rlhf_trainer.stages.ppo_update import Updates
from rlhf_trainer.strategy import select
from rlhf_trainer.strategy.base import Strategy

NUM_EVALUATIONS = 5
"""Evaluations during a run, by rollout number."""


def run(run: Run) -> StageResult:
    """Train one PPO stage to its end.

    Raises:
        Diverged: mean KL above `maxKl`, or non-finite numbers three times in a row.
        StageError: see errors.py; what was reached is in the newest checkpoint.
    """
    config = run.config.config
    assert isinstance(config, PPO)
    strategy = select.build(run)
    _check(run, config, strategy)
    prompts = inputs.dataset(run, "prompts", "prompts")
    cursor = Cursor(run.config.seed, len(prompts.train), config.rollout_batch_size, None if config.steps else config.episodes or 1)
    total_steps = config.steps or steps.total_steps(len(prompts.train), config.rollout_batch_size, config.episodes or 1)
    if total_steps <= config.critic_warmup_steps:
        raise ConfigError(
            f"ppo.criticWarmupSteps: {config.critic_warmup_steps} must be below the number of rollouts, {total_steps}",
            hint=f"set steps above {config.critic_warmup_steps}, or criticWarmupSteps below {total_steps}",
        )
    models = build_models(run, config, strategy, num_rows=len(prompts.train), total_steps=total_steps)
    ema = Ema(models.policy.module, config.ema_decay) if config.ema_decay else None
    controller, moments = _kl_controller(config), rewards.RunningMoments()
    given = inputs.digests(run)
    # The models alone: Prepare may run again between two attempts, and the cursor guards the order of the rows.
    facts = Facts({"dropped_rows": float(prompts.statistics.get("droppedRows", 0))}, pinned={role: given[role] for role in MODEL_ROLES})
    with Reporter(run) as reporter:
        rollouts = Rollouts(run, config, strategy, models, prompts, reporter, controller, moments)
        updates = Updates(run, config, strategy, models, ema)
        parts: dict[str, Part] = {"cursor": cursor, "kl": controller, "moments": moments, "facts": facts}
        loop = Loop(
            run,
            strategy,
            reporter,
            models={"policy": models.policy, "critic": models.critic},
            parts=parts | updates.parts,
            tensors={"ema": ema} if ema else {},
            total_steps=total_steps,
        )
        loop.resume()
        while loop.step < total_steps and (window := cursor.next()) is not None:
            batches, metrics = rollouts.roll_out(loop.step, window[1])
            metrics |= updates.update(loop, batches, num_rows=len(window[1]))
            # A policy that is still the reference has a KL of 0, which would loosen the penalty before the first update.
            is_steered = loop.step >= config.critic_warmup_steps
            metrics |= rollouts.steer(metrics["kl_mean"], len(window[1])) if is_steered else {"kl_coef": controller.coef}
            metrics |= throughput(metrics, len(window[1]))
            facts.add({name: metrics[name] for name in ("reward_mean", "kl_mean", "entropy", "answer_tokens_mean")})
            loop.finish_step(metrics, prompts.train.row_ids(window[1]))
            if loop.step < total_steps and loop.step % -(-total_steps // NUM_EVALUATIONS) == 0:
                rollouts.examine(loop.step, thoroughly=False)
        loop.finish()
        if ema is not None:
            ema.copy_to(models.policy.module)
        facts.add(rollouts.examine(loop.step, thoroughly=True))
        return _complete(run, strategy, loop, models, prompts, facts.metrics)


def throughput(metrics: Mapping[str, float], num_answers: int) -> dict[str, float]:
    """Answer tokens per second of the whole step, in which they are generated, judged and trained on.

    Each counts once, however many epochs learn from it; prompts and ptx rows do not count.
    """
    seconds = sum(metrics[name] for name in ("rollout_seconds", "score_seconds", "update_seconds"))
    return {"tokens_per_second": metrics["answer_tokens_mean"] * num_answers / max(seconds, 1e-9)}


def _check(run: Run, config: PPO, strategy: Strategy) -> None:
    """What only the stage can refuse: the rest was refused by validation."""
    world_size = strategy.world.size
    if config.ema_decay and run.config.plan.strategy.startswith("gemini"):
        raise UnsupportedError("ppo.emaDecay: an average of sharded weights does not exist", hint="use zero2, or set emaDecay to 0")
    if config.ptx_coefficient and not strategy.capabilities().accumulation:
        raise UnsupportedError(
            f"ppo.ptxCoefficient: {strategy.name} takes one micro-batch a step, ptx needs two", hint="use zero2, or set ptxCoefficient to 0"
        )
    for name, value in (("rolloutBatchSize", config.rollout_batch_size), ("minibatchSize", config.minibatch_size)):
        if value % world_size:
            raise ConfigError(f"ppo.{name}: {value} must be a multiple of {world_size} (workers)")


def _kl_controller(config: PPO) -> kl.FixedKL:
    if config.kl.controller == "adaptive" and config.kl.target is not None:
        return kl.AdaptiveKL(config.kl.coefficient, config.kl.target, config.kl.horizon)
    return kl.FixedKL(config.kl.coefficient)


def _complete(
    run: Run, strategy: Strategy, loop: Loop, models: PPOModels, prompts: PreparedDataset[PromptRow], metrics: dict[str, float]
) -> StageResult:
    """Policy and critic, in the layout that every later stage reads."""
    facts = {"metrics": metrics, "inputs": inputs.digests(run)}
    common: dict[str, Any] = {
        "stop_ids": prompts.stop_ids,
        "pad_id": prompts.pad_id,
        "check_ids": outputs.check_rows(prompts.train, "prompt_ids"),
    }
    critic: Any = models.critic.module
    policy_output = outputs.ModelOutput(folder="model", source=models.policy_source, facts=facts, **common)
    critic_output = outputs.ModelOutput(folder="critic", source=models.critic_source, facts=facts | {"mean": critic.mean}, **common)
    return outputs.complete(run, strategy, loop, [(models.policy, policy_output), (models.critic, critic_output)], metrics)
