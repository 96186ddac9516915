"""Language-model heads a chunk of positions at a time (rule G9; the role AutoChunk played in the original).

The logits of a whole batch are the largest tensor of a step. Here they exist for one chunk only, in the forward pass and,
recomputed, in the backward pass: about chunk x vocabulary x 10 bytes instead of the same over all positions.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]
"""Hidden states (n, h) -> logits (n, v): `model.get_output_embeddings()`, or any callable around it."""

CHUNK_BYTES = 64 * 2**20
"""Fp32 logits of one chunk by default. Smaller chunks save little: weights and activations dominate by then."""


def map_chunks(
    function: Callable[[Tensor, Tensor], Tensor], hidden_nh: Tensor, ids_n: Tensor, head: Head | Tensor, chunk_tokens: int | None
) -> Tensor:
    """`function(logits_nv, ids_n)`, applied a chunk at a time and concatenated. Any chunk size gives the same values.

    Args:
        function: logits in fp32 and their ids to a tensor whose first dimension is n.
        head: a callable, or its weight (v, h).
        chunk_tokens: positions in a chunk; None: as many as fit into `CHUNK_BYTES`.

    Raises:
        ValueError: `chunk_tokens` is below 1.
    """
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"chunk_tokens: {chunk_tokens!r} must be at least 1")

    def on_chunk(hidden: Tensor, ids: Tensor) -> Tensor:
        logits = nn.functional.linear(hidden, head) if isinstance(head, Tensor) else head(hidden)
        return function(logits if logits.dtype == torch.float64 else logits.float(), ids)

    size = chunk_tokens or default_chunk_tokens(head, hidden_nh)
    parts = [_run(on_chunk, hidden, ids) for hidden, ids in _split(hidden_nh, ids_n, size)]
    return torch.cat(parts)


def default_chunk_tokens(head: Head | Tensor, hidden_nh: Tensor) -> int:
    """Positions whose fp32 logits fill `CHUNK_BYTES`. A head that hides its weight is asked for one row of logits."""
    weight = head if isinstance(head, Tensor) else getattr(head, "weight", None)
    if isinstance(weight, Tensor):
        num_entries = weight.shape[0]
    else:
        with torch.no_grad():
            num_entries = head(hidden_nh[:1]).shape[-1]  # type: ignore[operator]
    return max(1, CHUNK_BYTES // (4 * max(num_entries, 1)))


def _split(hidden_nh: Tensor, ids_n: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    # an empty batch still makes one empty chunk: its result has the right type and a gradient of zeros
    for start in range(0, max(hidden_nh.shape[0], 1), size):
        yield hidden_nh[start : start + size], ids_n[start : start + size]


def _run(on_chunk: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, ids: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return on_chunk(hidden, ids)
    # No random numbers in a head: saving their state for every chunk would cost more than the chunk.
    result: Tensor = checkpoint(on_chunk, hidden, ids, use_reentrant=False, preserve_rng_state=False)
    return result
