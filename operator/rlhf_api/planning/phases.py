"""What a stage holds in memory, phase by phase: a workload in, parts out. A stage needs the largest of its phases, not their sum."""

from dataclasses import dataclass
from typing import Final

from rlhf_api.planning import memory
from rlhf_api.planning.architectures import Architecture
from rlhf_api.planning.memory import Bytes, Part, Precision
from rlhf_api.planning.strategy import CAPABILITIES, GEMINI_OFFLOAD

ROLLOUT_SHARE: Final = 0.9
"""Part of the free memory that a rollout may fill (rule G8)."""


ROLLOUT: Final = "rollout"
"""Name of the phase that the share is about."""
PROCESS: Final = "process"
"""Name of the part that a process takes before it holds a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One worker's share of a training stage."""

    shape: Architecture
    """The model that is trained; for PPO the policy."""
    strategy: str
    num_workers: int
    on_gpu: bool
    precision: Precision
    num_adapter_parameters: int | None = None
    """Trainable parameters with LoRA; None when all weights are trained."""
    in_4bit: bool = False
    num_tokens: int
    """Longest row."""
    micro_batch_size: int
    checkpointing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What PPO adds to a workload."""

    score_shape: Architecture
    """Reward model and critic."""
    num_rows: int
    """Rows of one rollout on one worker."""
    batch_size: int
    """Rows that generate at the same time."""
    is_streamed: bool = False
    """Gather one layer at a time instead of the whole model (rule G7)."""
    has_fp32_copy: bool = False
    """On a CPU bf16 weights generate through an fp32 copy, four times as fast (rule T9)."""
    has_average: bool = False
    """Keep an averaged policy, fp32 in host memory (rule P18)."""
    one_backbone: bool = False
    """One frozen base with an adapter each for policy, critic and reward."""


def supervised(work: Workload, *, rows_in_forward: int) -> dict[str, tuple[Part, ...]]:
    """The phases of SFT (one sequence a row) and of RewardModel (two: chosen and rejected share a forward, rule R4)."""
    resident = (*_base(work), *trained("model", work, work.shape))
    return {"training": (*resident, *_pass(work, work.shape, rows_in_forward)), "step": (*resident, _step(work, work.shape))}


def ppo(work: Workload, rollout: Rollout) -> dict[str, tuple[Part, ...]]:
    """The phases of PPO: rollout, score, update, and the optimizer steps in it."""
    resident = (
        *_base(work),
        *_models(work, rollout),
        *_average(work, rollout),
        Part("rollout buffer", Bytes(memory.rollout_buffer(rollout.num_rows, work.num_tokens))),
    )
    score = memory.layer_activations(work.shape, work.micro_batch_size, work.num_tokens, work.precision)
    return {
        ROLLOUT: (*resident, *_generation(work, rollout)),
        "score": (*resident, Part("activations", Bytes(score)), _logits(work, work.shape)),
        "update": (*resident, *_buffers("critic", work, rollout.score_shape), *_pass(work, work.shape, work.micro_batch_size)),
        "step": (*resident, _step(work, work.shape)),
    }


def quantize(shape: Architecture, method: str, *, double_quant: bool, on_gpu: bool) -> dict[str, tuple[Part, ...]]:
    """The phase of Quantize: the bf16 model is measured first, then its quantized copy, one after the other on the same rows."""
    tokens = min(shape.context, 2048)
    both = 2 * shape.num_parameters + memory.quantized_weights(shape, method, double_quant=double_quant)
    activations = memory.layer_activations(shape, 1, tokens, Precision.BF16)
    parts = (
        Part(PROCESS, memory.fixed("plain", 1, on_gpu=on_gpu)),
        Part("weights before and after", Bytes(both)),
        Part("activations", Bytes(activations)),
        Part("logits", Bytes(memory.logits(shape, tokens))),
    )
    return {"quantize": parts}


def trained(name: str, work: Workload, shape: Architecture) -> tuple[Part, ...]:
    """State of one trained model: everything, or a frozen base and its adapter."""
    if work.num_adapter_parameters is None:
        return (Part(f"{name} state", memory.training_state(work.strategy, shape.num_parameters, work.precision, work.num_workers)),)
    return (frozen(f"{name} base", work, shape, in_4bit=work.in_4bit), adapter(f"{name} adapter", work))


def frozen(name: str, work: Workload, shape: Architecture, *, in_4bit: bool = False) -> Part:
    """A model whose weights are only read."""
    weights = memory.base_weights(shape, work.precision, in_4bit=in_4bit)
    return Part(name, memory.frozen_weights(work.strategy, weights, work.num_workers))


def adapter(name: str, work: Workload) -> Part:
    """A trained adapter: its weights are fp32 in every precision, 16 bytes a parameter before sharding."""
    return Part(name, memory.training_state(work.strategy, work.num_adapter_parameters or 0, Precision.FP32, work.num_workers))


def _models(work: Workload, rollout: Rollout) -> tuple[Part, ...]:
    """Policy, critic, reference and reward model. With LoRA the reference is the policy with its adapter off (rule P9).

    4-bit weights stand below adapters only: the reward model is read in the job's precision, so that its scores stay what they were.
    """
    if rollout.one_backbone:
        adapters = (adapter(f"{role} adapter", work) for role in ("policy", "critic", "reward"))
        return (frozen("base", work, work.shape, in_4bit=work.in_4bit), *adapters)
    reference = () if work.num_adapter_parameters is not None else (frozen("reference", work, work.shape),)
    return (
        *trained("policy", work, work.shape),
        *trained("critic", work, rollout.score_shape),
        *reference,
        frozen("reward model", work, rollout.score_shape),
    )


def _average(work: Workload, rollout: Rollout) -> tuple[Part, ...]:
    trainable = work.num_adapter_parameters or work.shape.num_parameters
    return (Part("averaged policy", Bytes(host=4 * trainable)),) if rollout.has_average else ()


def _generation(work: Workload, rollout: Rollout) -> tuple[Part, ...]:
    shape, w = work.shape, work.precision.num_bytes
    parts = [
        Part("KV cache", Bytes(memory.kv_cache(shape, rollout.batch_size, work.num_tokens, work.precision))),
        Part("logits", Bytes(memory.sampling_logits(shape, rollout.batch_size))),
    ]
    if rollout.is_streamed:
        parts.append(Part("two gathered layers", Bytes(2 * memory.largest_layer(shape) * w)))
    elif CAPABILITIES[work.strategy].gathers_for_rollout and not _is_whole(work):
        parts.append(Part("gathered weights", Bytes(w * shape.num_parameters)))
    if rollout.has_fp32_copy:
        parts.append(Part("fp32 copy for generation", Bytes(4 * shape.num_parameters)))
    return tuple(parts)


def _is_whole(work: Workload) -> bool:
    """True when a sharding strategy has nothing to gather: one worker holds all shards on its device."""
    return work.num_workers == 1 and work.strategy == GEMINI_OFFLOAD


def _pass(work: Workload, shape: Architecture, num_rows: int) -> tuple[Part, ...]:
    """A forward and a backward pass of one micro-batch."""
    activations = memory.activations(shape, num_rows, work.num_tokens, work.precision, checkpointing=work.checkpointing)
    return (*_buffers("model", work, shape), Part("activations", Bytes(activations)), _logits(work, shape))


def _step(work: Workload, shape: Architecture) -> Part:
    """What an optimizer step adds; activations are gone by then. An adapter's fp32 gradients need no copy."""
    copies = 0 if work.num_adapter_parameters is not None else memory.step_copies(work.strategy, shape.num_parameters, work.precision)
    return Part("fp32 gradients", Bytes(copies))


def _buffers(name: str, work: Workload, shape: Architecture) -> tuple[Part, ...]:
    """Reduce buckets and gathered chunks. An adapter's gradients are too few to count."""
    if work.num_adapter_parameters is not None:
        return ()
    num_bytes = memory.gathered(work.strategy, shape, work.precision)
    return (Part(f"{name} buffers", Bytes(num_bytes)),) if num_bytes else ()


def _logits(work: Workload, shape: Architecture) -> Part:
    return Part("logits", Bytes(memory.logits(shape, work.micro_batch_size * work.num_tokens)))


def _base(work: Workload) -> tuple[Part, ...]:
    return (Part(PROCESS, memory.fixed(work.strategy, work.num_workers, on_gpu=work.on_gpu)),)
