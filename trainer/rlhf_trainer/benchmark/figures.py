"""What a benchmark says: lines of `metrics.jsonl` and peaks in, one flat-ish JSON object out. Pure.

Every answer token counts once: where it is generated, and once more for each model's update, as part of a row. Nothing counts what an
implementation recomputes (ColossalChat's evaluator did, and reported 361 TFLOPS per GPU for the generation of OPT-125m).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rlhf_api.planning import memory
from rlhf_trainer.benchmark.options import Options
from rlhf_trainer.benchmark.planning import Planned
from rlhf_trainer.errors import InternalError

PEAK_FLOPS: Final = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12}
"""Part of a CUDA device's name -> dense bf16 operations a second, from its data sheet. The first match counts."""
PHASES: Final = ("rollout", "score", "update")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Sums over the measured rollouts of all workers; times are those of rank 0."""

    num_rollouts: int
    num_samples: int
    answer_tokens: float
    seconds: float
    """From the end of the last rollout that is not measured to the end of the last one."""
    phase_seconds: Mapping[str, float]


def measure(lines: Sequence[Mapping[str, Any]], num_ignored: int) -> Measured:
    """The sums over all rollouts after the first `num_ignored`, which must be one at least: its line is the start of the clock.

    Raises:
        InternalError: the lines of the stage are not complete.
    """
    steps = [line for line in lines if "update_seconds" in line]
    if not 0 < num_ignored < len(steps):
        raise InternalError(f"metrics.jsonl has {len(steps)} rollouts, {num_ignored} of them are not measured: none is left")
    kept = steps[num_ignored:]
    # `answers_per_second` is the stage's own count of its window over the update's seconds
    samples = [round(line["answers_per_second"] * line["update_seconds"]) for line in kept]
    phase_seconds = {phase: sum(line[f"{phase}_seconds"] for line in kept) for phase in PHASES}
    wall = kept[-1]["time"] - steps[num_ignored - 1]["time"]
    return Measured(
        num_rollouts=len(kept),
        num_samples=sum(samples),
        answer_tokens=sum(count * line["answer_tokens_mean"] for count, line in zip(samples, kept, strict=True)),
        seconds=max(wall, sum(phase_seconds.values())),  # the stamps of lines are rounded to milliseconds
        phase_seconds=phase_seconds,
    )


def report(
    options: Options, planned: Planned, measured: Measured, peaks: Sequence[Mapping[str, int]], device: str, environment: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON object of a run. `peaks` are those of each worker, of which the highest count; `environment` is the stage's `env.json`."""
    row_tokens = measured.num_samples * options.prompt_tokens + measured.answer_tokens
    seconds, phases = measured.seconds, measured.phase_seconds
    shares = {phase: phases[phase] / seconds for phase in PHASES}
    highest = {name: max(each[name] for each in peaks) for name in peaks[0]}
    plan = planned.plan
    return {
        "model": options.shape.name,
        "parameters": options.shape.num_parameters,
        "strategy": plan.strategy,
        "device": device,
        "workers": plan.world_size,
        "precision": planned.precision,
        "experience_batch_size": options.experience_batch_size,
        "train_batch_size": options.train_batch_size,
        "micro_batch_size": plan.micro_batch_size,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "lora_rank": options.lora_rank,
        "prompt_tokens": options.prompt_tokens,
        "total_tokens": options.total_tokens,
        "rollouts": measured.num_rollouts,
        "samples": measured.num_samples,
        "answer_tokens": measured.answer_tokens,
        "seconds": seconds,
        "samples_per_second": measured.num_samples / seconds,
        "rollout_tokens_per_second": measured.answer_tokens / phases["rollout"],
        "update_tokens_per_second": row_tokens / phases["update"],
        "shares": shares | {"other": max(0.0, 1 - sum(shares.values()))},
        "update_mfu": update_mfu(options, measured, device, plan.world_size),
        "memory": highest,
        "plan": compare(planned, highest),
        "optimizers": environment["optimizers"],
        "versions": {"python": environment["python"], **environment["packages"]},
    }


def compare(planned: Planned, peaks: Mapping[str, int]) -> dict[str, float | None]:
    """The estimate for one process and how far it is off: planned ÷ measured − 1. On a CPU everything lies in host memory."""
    need = planned.need
    if used := peaks.get("device_used_bytes"):
        device: tuple[int | None, float | None] = (need.device, need.device / used - 1)
        host = need.host
    else:
        device, host = (None, None), need.device + need.host
    rss = peaks["host_rss_bytes"]
    return {
        "device_bytes": device[0],
        "device_error": device[1],
        "host_bytes": host,
        "host_error": host / rss - 1 if rss else None,
    }


def update_mfu(options: Options, measured: Measured, device: str, num_workers: int) -> float | None:
    """Share of the devices' peak that the update's arithmetic takes. None where the peak is unknown, as on every CPU."""
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in device), None)
    if peak is None:
        return None
    return update_flops(options, measured) / measured.phase_seconds["update"] / (peak * num_workers)


def update_flops(options: Options, measured: Measured) -> float:
    """6·T operations for each token (Kaplan et al. 2020, arXiv:2001.08361, section 2.1), policy and critic together.

    T counts weights that multiply the token: decoder layers for the whole row, the policy's output head for answer tokens only, no
    embeddings. Frozen weights below an adapter need no gradients of their own: 4 instead of 6. Attention scores and what checkpointing
    recomputes are left out.
    """
    shape = options.shape
    row_tokens = measured.num_samples * options.prompt_tokens + measured.answer_tokens
    weights = 2 * shape.num_linear_parameters * row_tokens + shape.vocab_size * shape.embedding_size * measured.answer_tokens
    if not options.lora_rank:
        return 6 * weights
    return 4 * weights + 6 * 2 * memory.adapter_parameters(shape, options.lora_rank) * row_tokens
