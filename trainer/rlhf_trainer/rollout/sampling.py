"""From the logits of a step to one token a row and its log-probability, for all rows at once.

Sampling inverts the cumulative distribution at one uniform number a row. The alternatives cost more: Gumbel noise needs
one number for each vocabulary entry, `torch.multinomial` takes one generator for the whole batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_trainer.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateConfig:
    """How answers are drawn."""

    max_new_tokens: int
    """Longest answer in tokens, stop token included."""
    stop_ids: tuple[int, ...]
    """Tokens that end an answer: the template's end of turn and the end of text. The first one is part of the answer."""
    pad_id: int
    """Fills answers after their stop token. Never read by the model, so it may equal a stop id."""
    temperature: float = 1.0
    """Divides the logits. The update must divide by the same number (rule P5)."""
    top_k: int = 0
    """Keep this many tokens; 0: all."""
    top_p: float = 1.0
    """Keep the most probable tokens that together reach this; 1: all."""
    greedy: bool = False
    """Take the most probable token. Seeds are not read then."""
    max_rows: int | None = None
    """Rows generated at once; the others wait and take the place of rows that are done. None: all rows."""
    context: int | None = None
    """Tokens that prompt and answer have together at most: a table of learned positions has no entry behind its end. None: no limit."""
    compact: bool = True
    """Take finished rows out of the batch. False only to measure or to test what it saves."""

    def __post_init__(self) -> None:
        if not self.stop_ids:
            raise ConfigError(
                "stop_ids: [] must name at least one token: no answer would ever end", "add an end token to the chat template"
            )
        for name, value, is_valid, rule in (
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature, self.temperature > 0, "above 0; use greedy for 0"),
            ("top_k", self.top_k, self.top_k >= 0, "0 (off) or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
            ("max_rows", self.max_rows, self.max_rows is None or self.max_rows >= 1, "at least 1, or None"),
            ("context", self.context, self.context is None or self.context >= 1, "at least 1, or None"),
        ):
            if not is_valid:
                raise ValueError(f"{name}: {value!r} must be {rule}")


def choose(logits_bv: Tensor, uniforms_b: Tensor | None, cfg: GenerateConfig) -> tuple[Tensor, Tensor]:
    """One token a row and its log-probability under the distribution it was drawn from, fp32 (rule G3).

    That is the softmax of logits / temperature, truncated by top-k and top-p where they are on. Greedy tokens carry the
    log-probability of the same distribution.
    """
    probs_bv = torch.softmax(truncate(logits_bv.float() / cfg.temperature, cfg.top_k, cfg.top_p), dim=-1)
    tokens_b1 = logits_bv.argmax(dim=-1, keepdim=True) if uniforms_b is None else invert(probs_bv, uniforms_b)
    return tokens_b1.squeeze(-1), probs_bv.gather(-1, tokens_b1).squeeze(-1).log()


def truncate(logits_bv: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits with -inf outside the top k, then outside the smallest set that reaches top_p (Holtzman et al. 2020).

    Ties at the k-th place stay. The most probable token always stays.
    """
    if 0 < top_k < logits_bv.shape[-1]:
        kth = logits_bv.topk(top_k, dim=-1).values[..., -1:]
        logits_bv = logits_bv.masked_fill(logits_bv < kth, float("-inf"))
    if top_p < 1:
        sorted_logits, order = logits_bv.sort(dim=-1, descending=True)
        probs = sorted_logits.softmax(dim=-1)
        is_beyond = probs.cumsum(dim=-1) - probs >= top_p  # what comes before a token reaches top_p without it
        is_beyond[..., 0] = False
        logits_bv = logits_bv.masked_fill(torch.zeros_like(is_beyond).scatter(-1, order, is_beyond), float("-inf"))
    return logits_bv


def invert(probs_bv: Tensor, uniforms_b: Tensor) -> Tensor:
    """The entry whose share of [0, 1) holds the uniform number, (b, 1). Entries of probability 0 have no share.

    The running sum is fp64: in fp32 the tail of a large vocabulary would drown in its rounding. u < 1 has at most 53 bits, so
    u * total rounds to less than the total and an entry always exists.
    """
    cumulative_bv = probs_bv.double().cumsum(dim=-1)
    return torch.searchsorted(cumulative_bv, uniforms_b.unsqueeze(-1) * cumulative_bv[:, -1:], right=True)
