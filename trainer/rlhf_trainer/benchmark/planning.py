"""The plan of a benchmark: options and gang in, the job that it stands for and the planner's plan of it out. Arithmetic only.

The plan must be the same on every node, so it looks at the memory of the GPU, which is a constant, and not at what is free on a host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from rlhf_api.job import RLHFJobSpec
from rlhf_api.planning import fitting
from rlhf_api.planning.memory import Bytes
from rlhf_api.planning.stage_plan import StagePlan
from rlhf_api.planning.strategy import DDP, PLAIN, find_unsupported
from rlhf_api.ppo import PPO
from rlhf_trainer.benchmark.gang import Gang
from rlhf_trainer.benchmark.options import Options
from rlhf_trainer.errors import UnsupportedError

UNLIMITED: Final = 2**60
"""Bytes: more than any host has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A job with one PPO stage, and how it will run."""

    spec: RLHFJobSpec
    plan: StagePlan

    @property
    def block(self) -> PPO:
        """The settings of the stage."""
        block = self.spec.stages[0].ppo
        assert block is not None, "`job_of` writes one PPO stage"
        return block

    @property
    def precision(self) -> str:
        """Number format of weights and activations: `bf16` or `fp32`."""
        precision = self.spec.model.precision
        assert precision is not None, "`job_of` states it"
        return precision

    @property
    def need(self) -> Bytes:
        """Peak memory of one process, as estimated: the largest phase, with fragmentation."""
        return fitting.peak(self.plan.parts)


def make(options: Options, gang: Gang, gpu_bytes: int) -> Planned:
    """The simplest plan that fits GPUs of `gpu_bytes` each: without gradient checkpointing where that is possible.

    When none fits it is the one that misses by the least.

    Raises:
        UnsupportedError: strategy, model and gang do not exist together. The message has what does.
    """
    budget = fitting.Budget(gpu_bytes, UNLIMITED, on_gpu=True) if gang.device == "cuda" else fitting.Budget(UNLIMITED, 0, on_gpu=False)
    found = []
    for has_checkpoints in (True,) if options.grad_checkpoint else (False, True):
        spec = job_of(options, gang, has_checkpoints)
        _refuse_unsupported(options, spec, gang)
        found += [Planned(spec=spec, plan=plan) for plan in fitting.options(spec, spec.stages[0])]
    found.sort(key=lambda planned: planned.plan.rollout == "streamed")  # slower than anything else

    def shortage(planned: Planned) -> int:
        return budget.shortage(fitting.required(planned.plan.parts))

    return next((planned for planned in found if not shortage(planned)), None) or min(found, key=shortage)


def job_of(options: Options, gang: Gang, has_checkpoints: bool) -> RLHFJobSpec:
    """The job that an operator would get for this: all four models start from one source."""
    source = {"uri": f"pvc://bench/{options.shape.name}"}
    has_lora = options.lora_rank > 0
    block = {
        "prompts": {"uri": "pvc://bench/prompts"},
        "reward": {"source": source},
        "steps": options.num_episodes * options.num_rollouts,
        "rolloutBatchSize": options.experience_batch_size * gang.size,
        "minibatchSize": options.train_batch_size * gang.size,
        "maxPromptLength": options.prompt_tokens,
        "maxNewTokens": options.new_tokens,
        "gradientCheckpointing": has_checkpoints,
        "learningRate": 1e-5 if has_lora else 1e-6,
        "criticLearningRate": 9e-5 if has_lora else 9e-6,
        "criticWarmupSteps": 0,  # every measured update is one of both models
        "maxKl": 0,  # a random policy has no reference worth staying near to
    }
    # Gemini exists in bf16 only
    precision = "bf16" if gang.device == "cuda" or options.strategy.startswith("gemini") else "fp32"
    model: dict[str, Any] = {"source": source, "precision": precision}
    if has_lora:
        model["lora"] = {"rank": options.lora_rank}
    return RLHFJobSpec.from_wire({
        "model": model,
        "topology": gang.topology,
        "storage": {"size": "1Gi"},
        "strategy": DDP if options.strategy == PLAIN else options.strategy,  # a job has no `plain`: it is `ddp` with one worker
        "stages": [{"name": "ppo", "type": "PPO", "ppo": block}],
    })  # fmt: skip


def document(options: Options, planned: Planned) -> dict[str, Any]:
    """The plan as JSON. Bytes are estimates; `parts` are those of one process, `[device, host]`, phase by phase."""
    plan = planned.plan
    return {
        "model": options.shape.name,
        "parameters": options.shape.num_parameters,
        "strategy": plan.strategy,
        "workers": plan.world_size,
        "precision": planned.precision,
        "micro_batch_size": plan.micro_batch_size,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "rollout": plan.rollout,
        "gpu_memory_bytes": plan.gpu_memory_bytes,
        "host_memory_bytes_per_node": plan.host_memory_bytes,
        "parts": {
            phase: {part.name: [part.bytes.device, part.bytes.host] for part in parts} for phase, parts in plan.parts.items()
        },
        "notes": list(plan.notes),
    }  # fmt: skip


def _refuse_unsupported(options: Options, spec: RLHFJobSpec, gang: Gang) -> None:
    features = fitting.features_of(spec, spec.topology)
    if refusals := find_unsupported(options.strategy, features):
        words = "; ".join(f"{refusal.field}: {refusal.value!r} {refusal.rule}" for refusal in refusals)
        raise UnsupportedError(f"{words} ({gang.size} workers)")
