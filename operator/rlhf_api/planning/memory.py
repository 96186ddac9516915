"""Bytes: shapes, batches and a strategy in, the memory of one process out, part by part.

Symbols are those of the trainer design, section 7: N parameters, T trainable ones, d workers. `Bytes.device` lies where the model computes
(the GPU, or the host's memory on a CPU-only node), `Bytes.host` beside it in host memory. Every constant that the GPU check may fit stands
in the first block; the formulas below have none of their own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from rlhf_api.planning import strategy as strategies
from rlhf_api.planning.architectures import Architecture

GIB: Final = 2**30

# ---- constants to be fitted by the GPU check
CONTEXT_BYTES: Final = 600_000_000
"""CUDA context and libraries of one process."""
NCCL_BYTES: Final = 400_000_000
"""Buffers of NCCL; only with several workers."""
FRAGMENTATION: Final = 0.03
"""Part of the sum that the caching allocator cannot hand out."""
CPU_PROCESS_BYTES: Final = 720_000_000
"""Resident memory of a worker with torch and the model classes loaded, before it holds a model (docs/lab-notes.md)."""
CPU_BOOSTER_BYTES: Final = 800_000_000
"""The same with Colossal-AI's booster."""
WIDTHS_OF_HIDDEN: Final = 8
"""c1: activations of hidden size kept per layer; norm inputs, in fp32, count double."""
WIDTHS_OF_MLP: Final = {True: 4, False: 3}
"""c2: activations of MLP size kept per layer, gated or not."""
ZERO_BUCKET_ELEMENTS: Final = 12 * 2**20
DDP_BUCKET_BYTES: Final = 25_000_000
GEMINI_CHUNK_ELEMENTS: Final = 32 * 2**20
LOGITS_CHUNK_BYTES: Final = 64 * 2**20
"""fp32 logits that the chunked head computes at a time (rule G9)."""
LOGITS_BYTES_PER_ELEMENT: Final = 2 + 4 + 4
"""Logits in bf16, in fp32, and their gradient."""
ROLLOUT_BYTES_PER_TOKEN: Final = 24
"""Ids, mask and four fp32 streams."""

# ---- formats
OPTIMIZER_BYTES: Final = 12
"""fp32 master and two moments."""
MOMENTS_BYTES: Final = 8
"""fp32 weights are their own masters."""
NF4_BYTES: Final = {True: 0.5 + 1 / 64 + 4 / 16384, False: 0.5 + 4 / 64}
"""Bytes of a weight in NF4, with and without double quantization of the scales (one per 64 weights)."""


_UNITS: Final = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}


def bytes_of_quantity(quantity: str) -> int:
    """Bytes of a quantity as the API writes it: 64Gi, 512Mi."""
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]


class Precision(StrEnum):
    """Number format of weights and activations."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"

    @property
    def num_bytes(self) -> int:
        """Bytes of one number."""
        return 4 if self is Precision.FP32 else 2


@dataclass(frozen=True, slots=True)
class Bytes:
    """Memory of one process: where the model computes, and in host memory beside it."""

    device: int = 0
    host: int = 0

    def __add__(self, other: "Bytes") -> "Bytes":
        return Bytes(self.device + other.device, self.host + other.host)


@dataclass(frozen=True, slots=True)
class Part:
    """One line of a plan: what it is, and what it takes."""

    name: str
    bytes: Bytes


def total(parts: Iterable[Part]) -> Bytes:
    """The sum of parts."""
    return sum((part.bytes for part in parts), start=Bytes())


def training_state(strategy: str, num_parameters: int, precision: Precision, num_workers: int) -> Bytes:
    """Weights, gradients, masters and moments of a trained model (or of its adapter). bf16 on plain: 16 bytes a parameter.

    fp32 weights are their own masters where they are whole; ZeRO and Gemini keep separate shards of masters all the same.
    """
    n, d, w = num_parameters, num_workers, precision.num_bytes
    if strategy in (strategies.PLAIN, strategies.DDP):
        return Bytes(n * (2 * w + (MOMENTS_BYTES if precision is Precision.FP32 else OPTIMIZER_BYTES)))
    if strategy == strategies.ZERO1:
        return Bytes(2 * w * n + OPTIMIZER_BYTES * n // d)
    if strategy == strategies.ZERO2:
        return Bytes(w * n + (w + OPTIMIZER_BYTES) * n // d)
    if strategy == strategies.ZERO2_OFFLOAD:
        return Bytes(w * n + w * n // d, host=OPTIMIZER_BYTES * n // d)
    if strategy == strategies.GEMINI:  # a chunk holds first the weights, then their gradients
        return Bytes((w + OPTIMIZER_BYTES) * n // d)
    return _gemini_offload(n, OPTIMIZER_BYTES, w, d)


def step_copies(strategy: str, num_parameters: int, precision: Precision) -> int:
    """fp32 gradients that our own optimizer step copies from bf16 ones; ZeRO and Gemini do so shard by shard."""
    return 4 * num_parameters if strategy in (strategies.PLAIN, strategies.DDP) and precision is Precision.BF16 else 0


def frozen_weights(strategy: str, weight_bytes: int, num_workers: int) -> Bytes:
    """Weights of a model that is only read: whole in each process, but sharded by Gemini."""
    if strategy == strategies.GEMINI:
        return Bytes(weight_bytes // num_workers)
    if strategy == strategies.GEMINI_OFFLOAD:
        return _gemini_offload(weight_bytes, 0, 1, num_workers)
    return Bytes(weight_bytes)


def _gemini_offload(count: int, optimizer_bytes: int, weight_bytes: int, num_workers: int) -> Bytes:
    """A single worker has nobody to gather from, so its weights stay on the device; several keep their shards on the host."""
    if num_workers == 1:
        return Bytes(weight_bytes * count, host=optimizer_bytes * count)
    return Bytes(0, host=(weight_bytes + optimizer_bytes) * count // num_workers)


def gathered(strategy: str, shape: Architecture, precision: Precision) -> int:
    """Buffers in which a strategy reduces gradients, or gathers weights, of one trained model."""
    w = precision.num_bytes
    if strategy == strategies.PLAIN:
        return 0
    if strategy == strategies.DDP:
        return 2 * min(DDP_BUCKET_BYTES, w * shape.num_parameters)
    if strategy in (strategies.GEMINI, strategies.GEMINI_OFFLOAD):
        return 2 * min(GEMINI_CHUNK_ELEMENTS, shape.num_parameters) * w + largest_layer(shape) * w
    return 2 * min(ZERO_BUCKET_ELEMENTS, shape.num_parameters) * w


def largest_layer(shape: Architecture) -> int:
    """Parameters of the biggest piece that is gathered at once: a decoder layer, or the embedding of a small model."""
    return max(shape.num_layer_parameters, shape.vocab_size * shape.embedding_size)


def activations(shape: Architecture, num_rows: int, num_tokens: int, precision: Precision, *, checkpointing: bool) -> int:
    """What the forward pass of a micro-batch keeps for the backward pass; rows of `num_tokens` each."""
    layer = layer_activations(shape, num_rows, num_tokens, precision)
    return checkpoints(shape, num_rows, num_tokens, precision) + layer if checkpointing else shape.num_layers * layer


def layer_activations(shape: Architecture, num_rows: int, num_tokens: int, precision: Precision) -> int:
    """What one layer keeps; also what a forward pass without gradients needs."""
    attention = 2 * (shape.num_heads + shape.num_kv_heads) * shape.head_size
    mlp = WIDTHS_OF_MLP[shape.is_gated] * shape.intermediate_size
    return num_rows * num_tokens * precision.num_bytes * (WIDTHS_OF_HIDDEN * shape.hidden_size + attention + mlp)


def checkpoints(shape: Architecture, num_rows: int, num_tokens: int, precision: Precision) -> int:
    """The inputs of all layers, which gradient checkpointing keeps."""
    return num_rows * num_tokens * shape.num_layers * precision.num_bytes * shape.hidden_size


def kv_cache(shape: Architecture, num_rows: int, num_tokens: int, precision: Precision) -> int:
    """Keys and values of a rollout batch at its full length."""
    return num_rows * num_tokens * precision.num_bytes * shape.kv_elements_per_token


def logits(shape: Architecture, num_positions: int) -> int:
    """Logits with their gradient, one chunk at a time (rule G9)."""
    chunk = max(1, LOGITS_CHUNK_BYTES // (4 * shape.vocab_size))
    return min(num_positions, chunk) * shape.vocab_size * LOGITS_BYTES_PER_ELEMENT


def sampling_logits(shape: Architecture, num_rows: int) -> int:
    """Logits of the last position of each row, from which a rollout samples."""
    return num_rows * shape.vocab_size * LOGITS_BYTES_PER_ELEMENT


def rollout_buffer(num_rows: int, num_tokens: int) -> int:
    """What a rollout hands to the update."""
    return num_rows * num_tokens * ROLLOUT_BYTES_PER_TOKEN


def adapter_parameters(shape: Architecture, rank: int, target_modules: Iterable[str] = ()) -> int:
    """Trainable parameters of a LoRA adapter; no target modules means every linear layer of the decoder layers."""
    wanted = set(target_modules)
    return shape.num_layers * rank * sum(
        inputs + outputs for name, (inputs, outputs) in shape.linears.items() if not wanted or {name, name.rsplit(".", 1)[-1]} & wanted
    )  # fmt: skip


def quantized_weights(shape: Architecture, method: str = "nf4", *, double_quant: bool = True) -> int:
    """Weights with the decoder's matrices quantized; embeddings, head, biases and norms stay bf16. Also the size of the artifact's files.

    nf4: 0.51587 bytes a weight with double quantization. int8: 1 byte a weight and an fp32 scale per output row.
    """
    linear = shape.num_linear_parameters
    rest = 2 * (shape.num_parameters - linear)
    if method == "nf4":
        return round(linear * NF4_BYTES[double_quant]) + rest
    scales = 4 * shape.num_layers * sum(outputs for _, outputs in shape.linears.values())
    return linear + scales + rest


def base_weights(shape: Architecture, precision: Precision, *, in_4bit: bool) -> int:
    """Weights of a whole model as they lie in memory before anything is trained."""
    return quantized_weights(shape) if in_4bit else precision.num_bytes * shape.num_parameters


def fixed(strategy: str, num_workers: int, *, on_gpu: bool) -> Bytes:
    """What a process takes before it holds a model."""
    process = CPU_PROCESS_BYTES if strategy == strategies.PLAIN else CPU_BOOSTER_BYTES
    if not on_gpu:
        return Bytes(process)
    return Bytes(CONTEXT_BYTES + (NCCL_BYTES if num_workers > 1 else 0), host=process)
