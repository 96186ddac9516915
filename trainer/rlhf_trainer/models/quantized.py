"""Weights in 4 and 8 bits through bitsandbytes: how they are made, what they must weigh, how far they are from the originals.

Works on a CPU too: bitsandbytes has CPU kernels for both formats (measured, rule O5). It is imported inside the functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlhf_trainer.models import load

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCK_WEIGHTS = 64
"""NF4: weights that share a scale."""
BLOCK_SCALES = 256
"""NF4 with double quantization: scales that share a scale of their own."""
TABLE_BYTES = 16 * 4 + 256 * 4 + 170
"""NF4: what bitsandbytes stores beside every weight: two code books, and a description of the format as JSON (measured)."""
SINGLE_TABLE_BYTES = 16 * 4 + 100
"""The same without double quantization."""
QUANTIZED_KINDS = ("Linear4bit", "Linear8bitLt")


def quantization_config(method: str, *, double_quant: bool) -> Any:
    """How transformers has to load a model so that it is quantized: `nf4` or `int8`."""
    from transformers import BitsAndBytesConfig

    if method == "nf4":
        return load.nf4_config(torch.bfloat16, double_quant=double_quant)
    return BitsAndBytesConfig(load_in_8bit=True)


def load_quantized(path: Path, config: Any) -> PreTrainedModel:
    """The language model at `path` with its linear layers quantized, the rest in bf16.

    Raises:
        InputError: the directory holds no such model.
    """
    return load.load_model(path, torch.bfloat16, quantization_config=config)


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every quantized layer with its name."""
    return ((name, module) for name, module in model.named_modules() if type(module).__name__ in QUANTIZED_KINDS)


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All tensors as a file holds them: packed weights, scales, code books, and what was not quantized."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}


def stored_bytes(directory: Path) -> int:
    """Bytes of the weights in a model directory, without the headers of the files: a small model's header would hide its size."""
    total = 0
    for file in directory.glob("*.safetensors"):
        with file.open("rb") as opened:
            total += file.stat().st_size - 8 - int.from_bytes(opened.read(8), "little")
    return total


def expected_bytes(model: nn.Module, method: str, *, double_quant: bool) -> int:
    """What the weights of a quantized model must weigh by the definition of the format (trainer.md section 7, rule O5).

    nf4: half a byte a weight, a scale for every 64 weights (one byte each and fp32 for every 256 of them with double quantization, else
    fp32), code books for each layer. int8: one byte a weight, an fp32 scale for each output row. The rest: as loaded.
    """
    layers = dict(quantized_layers(model))
    owned = {f"{name}.{part}" for name in layers for part in ("weight", "SCB", "weight_format")}
    total, seen = 0, set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        is_packed = name in owned or ".weight." in name
        if not is_packed and id(tensor) not in seen:  # a tied head is stored once
            seen.add(id(tensor))
            total += tensor.numel() * tensor.element_size()
    for layer in layers.values():
        num_weights = layer.in_features * layer.out_features
        total += _nf4_bytes(num_weights, double_quant=double_quant) if method == "nf4" else num_weights + 4 * layer.out_features
    return total


def error_of(original: nn.Module, quantized: nn.Module) -> float:
    """Relative RMS error of the dequantized weights, all layers together (rule O6). A Gaussian weight gives 0.092 (nf4), 0.008 (int8)."""
    originals = dict(original.named_modules())
    squares = norm = 0.0
    for name, layer in quantized_layers(quantized):
        weight = originals[name].weight.detach().float().cpu()
        squares += float((dequantized(layer).float().cpu() - weight).square().sum())
        norm += float(weight.square().sum())
    return math.sqrt(squares / norm) if norm else 0.0


def dequantized(layer: Any) -> Tensor:
    """The weight (out, in) that a quantized layer stands for."""
    if type(layer).__name__ == "Linear4bit":
        import bitsandbytes.functional as bnb

        full: Tensor = bnb.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return full
    scales = layer.state.SCB if layer.state.SCB is not None else layer.weight.SCB
    result: Tensor = layer.weight.data.float() * scales.float().view(-1, 1) / 127
    return result


def _nf4_bytes(num_weights: int, *, double_quant: bool) -> int:
    num_scales = -(-num_weights // BLOCK_WEIGHTS)
    if not double_quant:
        return -(-num_weights // 2) + 4 * num_scales + SINGLE_TABLE_BYTES
    return -(-num_weights // 2) + num_scales + 4 * -(-num_scales // BLOCK_SCALES) + TABLE_BYTES
