"""Tiny models of four architectures, made once a session: transformers takes ten seconds to import.

Their weights have a deviation of 0.3, so that a wrong position or mask moves logits by whole units instead of rounding errors.
"""

from functools import cache
from typing import Any

import torch

VOCAB = 97
STOP = 1
PAD = 0


@cache
def tiny(name: str) -> Any:
    """`llama`, `gpt2`, `qwen2` or `gemma3` (sliding window of 8 in two of three layers); fp32, evaluation mode."""
    import transformers as t

    size = {"vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "initializer_range": 0.3}
    wide = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "max_position_embeddings": 128}
    torch.manual_seed(0)
    if name == "gpt2":
        model = t.GPT2LMHeadModel(t.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **size))
    elif name == "llama":
        model = t.LlamaForCausalLM(t.LlamaConfig(num_hidden_layers=2, num_key_value_heads=4, **size, **wide))
    elif name == "qwen2":
        model = t.Qwen2ForCausalLM(t.Qwen2Config(num_hidden_layers=2, num_key_value_heads=2, **size, **wide))
    else:
        kinds = ["sliding_attention", "full_attention", "sliding_attention"]
        window = {"num_hidden_layers": 3, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 8, "layer_types": kinds}
        model = t.Gemma3ForCausalLM(t.Gemma3TextConfig(**window, **size, **wide))
    return model.eval()


def prompts(lengths: list[int], width: int | None = None, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-padded random prompts without special tokens: ids and attention mask."""
    width = width or max(lengths)
    ids = torch.randint(11, VOCAB, (len(lengths), width), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask
