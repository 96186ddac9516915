"""What a reader of a plan should know besides its numbers: sentences, each with what was assumed or what can be done."""

import math
from collections.abc import Iterator
from typing import Final

from rlhf_api.planning import memory
from rlhf_api.planning.architectures import Architecture
from rlhf_api.planning.memory import GIB, Precision
from rlhf_api.planning.phases import Rollout, Workload
from rlhf_api.planning.strategy import PLAIN
from rlhf_api.stages import PPO, Stage

NO_SHAPE: Final = "no memory estimate: the shape of the model is unknown until it is fetched; spec.model.size (for example 7B) gives one"
LINK_BYTES_PER_SECOND: Final = 25e9
"""Slowest link of a streamed rollout: PCIe 4 x16, or a network card of 200 Gbit/s. Assumed, not measured."""


def of_training(work: Workload, rollout: Rollout | None, stage: Stage) -> tuple[str, ...]:
    """Notes on a training stage."""
    return (*_on_shape(work.shape), *_on_host(work), *_on_rollout(work, rollout, stage), *_on_length(work, stage))


def of_artifact(shape: Architecture, method: str, *, double_quant: bool) -> tuple[str, ...]:
    """Notes on a quantized model: what it takes to run it."""
    weights = memory.quantized_weights(shape, method, double_quant=double_quant)
    size = f"the {method} model takes {weights / 1e6:.1f} MB"
    if weights > GIB:
        gib = math.ceil(weights / GIB)
        size += f"; {gib} GiB hold {tokens_that_fit(shape, weights, gib * GIB)} tokens of KV cache beside it"
    return (*_on_shape(shape), size)


def tokens_that_fit(shape: Architecture, weights: int, memory_bytes: int) -> int:
    """Tokens of bf16 KV cache that fit beside the weights of a model; the context of the GPU comes on top."""
    return max(0, (memory_bytes - weights) // memory.kv_cache(shape, 1, 1, Precision.BF16))


def _on_shape(shape: Architecture) -> Iterator[str]:
    if shape.stated_parameters is not None:
        yield f"shape assumed like {shape.name}, the known model nearest to spec.model.size"


def _on_length(work: Workload, stage: Stage) -> Iterator[str]:
    """Only Prepare reads the model's config.json and can refuse; by then the job has waited for its volume and its downloads."""
    shape = work.shape
    if shape.stated_parameters is None and work.num_tokens > shape.context:
        fields = "maxPromptLength or maxNewTokens" if isinstance(stage.block, PPO) else "maxLength"
        yield f"Prepare will refuse rows of {work.num_tokens} tokens: the context of {shape.name} has {shape.context}; lower {fields}"


def _on_host(work: Workload) -> Iterator[str]:
    if not work.on_gpu and work.strategy != PLAIN:
        yield f"{work.strategy} on CPUs runs through the host accelerator: functional only, its figures say nothing about GPUs"


def _on_rollout(work: Workload, rollout: Rollout | None, stage: Stage) -> Iterator[str]:
    block = stage.block
    if rollout is None or not isinstance(block, PPO):
        return
    if rollout.is_streamed:
        moved = work.precision.num_bytes * work.shape.num_parameters * block.max_new_tokens
        seconds = moved / LINK_BYTES_PER_SECOND * rollout.num_rows / rollout.batch_size
        yield (
            "the policy does not fit one GPU, so each rollout gathers it layer by layer for every token: "
            f"about {seconds:.0f} s per rollout at 25 GB/s (assumed). This version plans it and does not run it yet: "
            "take LoRA, or a smaller policy"
        )
    if not work.on_gpu and work.precision is Precision.BF16 and not rollout.has_fp32_copy:
        yield "no memory for an fp32 copy of the policy: bf16 generates about four times slower on CPUs"
