"""Models that the project makes itself: `builtin://models/<name>`, written as a Hugging Face directory without torch.

`tiny-llama` is a Llama with 0.95 M random weights: it learns the sample tasks on two CPU cores in a minute (rule B3).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from rlhf_trainer.data.builtin import make, tokenizer

PRESETS = ("tiny-llama",)
HIDDEN, LAYERS, HEADS, MLP = 128, 4, 4, 384

_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": tokenizer.VOCAB_SIZE,
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "head_dim": HIDDEN // HEADS,
    "hidden_act": "silu",
    "max_position_embeddings": tokenizer.MODEL_MAX_LENGTH,
    # Llama's 0.02 is made for hidden sizes of thousands: at 128 this one learned the tasks in half the steps (docs/lab-notes.md)
    "initializer_range": 0.06,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": tokenizer.BOS_ID,
    "eos_token_id": tokenizer.EOS_ID,
    "pad_token_id": tokenizer.PAD_ID,
    "dtype": "float32",
}


def write_preset(name: str, seed: int, directory: Path) -> None:
    """Write config, generation config, tokenizer and random weights into an existing directory.

    The same seed gives the same bytes. The tokenizer does not depend on the seed.

    Raises:
        KeyError: there is no such preset.
    """
    if name not in PRESETS:
        raise KeyError(name)
    _write_json(directory / "config.json", _CONFIG)
    stops = {"bos_token_id": tokenizer.BOS_ID, "eos_token_id": tokenizer.EOS_ID, "pad_token_id": tokenizer.PAD_ID}
    _write_json(directory / "generation_config.json", stops)
    tokenizer.write(tokenizer.train(_training_texts()), directory)
    rng = np.random.Generator(np.random.Philox(key=seed))
    save_file(dict(_weights(rng)), directory / "model.safetensors", metadata={"format": "pt"})


def _training_texts() -> Iterator[str]:
    train, _ = make.split()
    for row in make.sft_rows(train):
        yield from (row["instruction"], row["output"])


def _weights(rng: np.random.Generator) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    yield "model.embed_tokens.weight", _normal(rng, tokenizer.VOCAB_SIZE, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{prefix}.self_attn.{name}.weight", _normal(rng, HIDDEN, HIDDEN)
        yield f"{prefix}.mlp.gate_proj.weight", _normal(rng, MLP, HIDDEN)
        yield f"{prefix}.mlp.up_proj.weight", _normal(rng, MLP, HIDDEN)
        yield f"{prefix}.mlp.down_proj.weight", _normal(rng, HIDDEN, MLP)
        yield f"{prefix}.input_layernorm.weight", np.ones(HIDDEN, np.float32)
        yield f"{prefix}.post_attention_layernorm.weight", np.ones(HIDDEN, np.float32)
    yield "model.norm.weight", np.ones(HIDDEN, np.float32)


def _normal(rng: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.float32]:
    """N(0, initializer_range) by Box and Muller from the raw words: numpy may change its own normals between versions."""
    count = rows * columns
    words = rng.bit_generator.random_raw(2 * count).astype(np.float64) / 2.0**64
    radius = np.sqrt(-2 * np.log1p(-words[:count]))
    normal = radius * np.cos(2 * math.pi * words[count:])
    weights: npt.NDArray[np.float32] = (normal * _CONFIG["initializer_range"]).astype(np.float32)
    return weights.reshape(rows, columns)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
