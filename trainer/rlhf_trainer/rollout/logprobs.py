"""Log-probabilities and entropy of given tokens, the head applied a chunk of positions at a time (rule G9)."""

import torch
from torch import Tensor

from rlhf_trainer.rl.chunks import Head, map_chunks
from rlhf_trainer.rl.masks import check_same_shape


def token_logprobs(hidden: Tensor, head: Head | Tensor, ids: Tensor, temperature: float = 1.0, chunk_tokens: int | None = None) -> Tensor:
    """Log-probability of each token of `ids` under softmax(head(hidden) / temperature), in fp32, with its gradient.

    `hidden` is (…, h) at the positions *before* the tokens, `ids` (…). The same temperature as in sampling (rule P5).

    Raises:
        ValueError: `hidden` and `ids` differ in their positions, or `chunk_tokens` is below 1.
    """
    check_same_shape(ids=ids, positions=hidden[..., 0])

    def of_chunk(logits_nv: Tensor, ids_n: Tensor) -> Tensor:
        return torch.log_softmax(logits_nv / temperature, dim=-1).gather(-1, ids_n.long().unsqueeze(-1)).squeeze(-1)

    return map_chunks(of_chunk, hidden.flatten(0, -2), ids.flatten(), head, chunk_tokens).view(ids.shape)


def token_entropy(hidden: Tensor, head: Head | Tensor, temperature: float = 1.0, chunk_tokens: int | None = None) -> Tensor:
    """Entropy in nats of the next-token distribution at each position of `hidden` (…, h), fp32."""

    def of_chunk(logits_nv: Tensor, _: Tensor) -> Tensor:
        log_probs_nv = torch.log_softmax(logits_nv / temperature, dim=-1)
        return -(log_probs_nv.exp() * log_probs_nv).sum(dim=-1)

    shape = hidden.shape[:-1]
    flat = hidden.flatten(0, -2)
    return map_chunks(of_chunk, flat, flat.new_zeros(flat.shape[0], dtype=torch.int64), head, chunk_tokens).view(shape)
