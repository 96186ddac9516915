"""The planner's parameter counts against the transformers classes, built on the meta device: no weights, no memory."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlhf_api.planning.architectures import KNOWN, Architecture, Family


def config_of(shape: Architecture) -> Any:
    import transformers as t

    shared = {"vocab_size": shape.vocab_size, "max_position_embeddings": shape.context}
    if shape.family is Family.GPT2:
        return t.GPT2Config(
            vocab_size=shape.vocab_size,
            n_embd=shape.hidden_size,
            n_layer=shape.num_layers,
            n_head=shape.num_heads,
            n_positions=shape.context,
        )
    layers = {"hidden_size": shape.hidden_size, "num_hidden_layers": shape.num_layers, "num_attention_heads": shape.num_heads}
    if shape.family is Family.OPT:
        is_odd = shape.embedding_size != shape.hidden_size  # OPT-350m: another embedding width, and norms after the layers
        return t.OPTConfig(
            **shared, **layers, ffn_dim=shape.intermediate_size, word_embed_proj_dim=shape.embedding_size, do_layer_norm_before=not is_odd
        )
    cls: Callable[..., Any] = {Family.LLAMA: t.LlamaConfig, Family.QWEN2: t.Qwen2Config, Family.GEMMA3: t.Gemma3TextConfig}[shape.family]
    return cls(
        **shared, **layers, intermediate_size=shape.intermediate_size, num_key_value_heads=shape.num_kv_heads, head_dim=shape.head_size,
        tie_word_embeddings=shape.has_tied_head,
    )  # fmt: skip


def count(shape: Architecture) -> int:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(shape))
    return sum(parameter.numel() for parameter in model.parameters())


COUNTED = [
    "tiny-llama", "gpt2-s", "gpt2-xl", "opt-125m", "opt-350m", "opt-13b", "llama-7b", "llama-3-8b", "qwen2.5-0.5b", "qwen2.5-7b", "gemma-3-270m",
]  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_a_known_shape_has_the_parameters_of_its_class(name: str) -> None:
    assert count(KNOWN[name]) == KNOWN[name].num_parameters


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("llama-7b", {"has_tied_head": True}),
        ("qwen2.5-7b", {"family": Family.LLAMA}),
        ("gemma-3-270m", {"head_size": 160}),
        ("opt-350m", {"embedding_size": 1024}),
        ("gpt2-s", {"context": 1026}),
    ],
)
def test_a_wrong_shape_does_not(name: str, wrong: dict[str, Any]) -> None:
    assert replace(KNOWN[name], **wrong).num_parameters != count(KNOWN[name])
