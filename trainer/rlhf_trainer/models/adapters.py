"""LoRA through peft (Hu et al. 2021, arXiv:2106.09685): small trainable matrices beside frozen weights.

Adapters are injected into the model in place: its class, its forward and its names stay, so generation and strategies need to know
nothing of them. What leaves a stage is the merged model and, beside it, the adapter in peft's own layout. peft is imported inside the
functions: a stage without LoRA never loads it (rule S1).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlhf_trainer.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rlhf_api.job import Lora

ADAPTER = "default"
"""peft's own name of a single adapter: part of every parameter's name inside, of none outside."""


def add_adapter(hf: PreTrainedModel, lora: Lora, *, seed: int, task_type: str = "CAUSAL_LM", dropout: float | None = None) -> None:
    """Freeze the model and add a fresh adapter, which changes nothing yet (B is zero). A `score` head stays trainable.

    `dropout` replaces the configured one: rewards and PPO use 0 (rules R4, P6).

    Raises:
        ConfigError: a target module does not exist.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = sorted(lora.target_modules or linear_layers(hf))
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout if dropout is None else dropout,
        target_modules=targets,
        task_type=task_type,
        base_model_name_or_path=None,
    )
    hf.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the same adapter on every worker and after every restart
        try:
            inject_adapter_in_model(config, hf, ADAPTER)
        except ValueError as error:
            raise ConfigError(
                f"spec.model.lora.targetModules: {targets!r} must name modules of the model: {error}",
                hint=f"leave it out, or choose from {', '.join(sorted(linear_layers(hf)))}",
            ) from error
    for name, parameter in hf.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()  # updates of 1e-5 vanish in bf16 weights
        elif name.startswith("score."):
            parameter.requires_grad_(True)
    hf.rlhf_adapter_config = config  # the exporter writes it beside the weights


def linear_layers(hf: PreTrainedModel) -> set[str]:
    """Short names (`q_proj`, `c_attn`, …) of every linear layer but the output heads."""
    heads = {id(hf.get_output_embeddings()), id(getattr(hf, "score", None))}
    kinds = ("Linear", "Conv1D", "Linear4bit", "Linear8bitLt")
    return {name.rpartition(".")[2] for name, module in hf.named_modules() if type(module).__name__ in kinds and id(module) not in heads}


def has_adapter(model: nn.Module) -> bool:
    """True when `add_adapter` was called on the model, or on one inside it."""
    return any(True for _ in _layers(model))


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The model as it was before training: the reference of PPO without a second copy (rule P9)."""
    layers = [module for _, module in _layers(model)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merged_tensors(hf: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All weights under the names of the model without adapters, one at a time: W + (alpha / r) B A, added in fp32.

    The model itself does not change: merging in place and back would leave rounding in the frozen weights.
    """
    layers = dict(_layers(hf))
    for name, tensor in hf.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        layer_name, _, part = owner.rpartition(".")
        if ".lora_" in name:
            continue
        if part != "base_layer":
            yield name, tensor
        elif leaf == "weight":
            yield f"{layer_name}.weight", _merged(layers[layer_name], tensor)
        elif leaf == "bias":
            yield f"{layer_name}.bias", tensor


def adapter_tensors(hf: nn.Module, head_scale: float = 1.0) -> Iterator[tuple[str, Tensor]]:
    """The adapter under the names of peft's files: `PeftModel.from_pretrained(base, directory)` reads them."""
    for name, parameter in hf.named_parameters():
        if ".lora_" in name:
            yield f"base_model.model.{name.replace(f'.{ADAPTER}', '')}", parameter.detach()
        elif name.startswith("score."):
            yield f"base_model.model.{name}", parameter.detach().float() * head_scale


def write_adapter(hf: nn.Module, directory: Path, *, head_scale: float = 1.0) -> None:
    """Put the adapter at `directory` in peft's layout. `head_scale` multiplies a score head on its way out (rule R5)."""
    from safetensors.torch import save_file

    config: dict[str, Any] = getattr(hf, "rlhf_adapter_config").to_dict()  # noqa: B009 - nn.Module types attributes as Tensor | Module
    config |= {"inference_mode": True, "target_modules": sorted(config["target_modules"])}
    directory.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in adapter_tensors(hf, head_scale)}, directory / "adapter_model.safetensors"
    )
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True, default=str) + "\n", "utf-8")


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    # by attribute, not by class: asking peft for the class would import it in every stage
    return ((name, module) for name, module in model.named_modules() if hasattr(module, "lora_A") and hasattr(module, "enable_adapters"))


def _merged(layer: Any, weight: Tensor) -> Tensor:
    full = weight
    if type(weight).__name__ == "Params4bit" or weight.dtype == torch.uint8:
        import bitsandbytes.functional as bnb

        full = bnb.dequantize_4bit(layer.base_layer.weight.data, layer.base_layer.weight.quant_state)
    dtype = full.dtype
    merged: Tensor = (full.float() + layer.get_delta_weight(ADAPTER).float()).to(dtype)
    return merged
