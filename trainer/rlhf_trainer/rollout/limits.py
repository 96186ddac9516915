"""What bounds a generation: how many rows the key-value cache may hold, and how many tokens the model has positions for.

In: the configuration of a causal language model of transformers. Out: numbers for `GenerateConfig`. Rollouts and evaluations ask alike:
an evaluation with a limit of its own ran out of GPU memory where the rollout of the same model fits.
"""

from typing import Any

import torch

CACHE_BYTES = 4 << 30
"""Key-value cache of one generation (rule G8): prompts beyond it wait for a free row."""


def bytes_per_number(dtype: torch.dtype, device: torch.device) -> int:
    """Of the cache of a model. On a CPU bf16 weights generate through an fp32 copy (rule T9)."""
    return dtype.itemsize if device.type == "cuda" else torch.float32.itemsize


def rows_that_fit(model_config: Any, num_tokens: int, num_bytes: int = torch.float32.itemsize) -> int:
    """How many rows of `num_tokens` (prompt and answer) the cache holds. At least one: it has nothing to wait for."""
    config = model_config.get_text_config()  # Gemma 3 from 4b on keeps these numbers beside those of its images
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return max(1, CACHE_BYTES // int(2 * num_bytes * config.num_hidden_layers * heads * size * num_tokens))


def context_of(model_config: Any) -> int | None:
    """Tokens that the model has positions for; None when it names no limit (ALiBi). GPT-2's `n_positions` answers to this name too."""
    context: int | None = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    return context
