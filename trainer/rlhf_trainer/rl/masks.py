"""What every function of this room does with a mask: garbage outside it must reach neither a value nor a gradient.

`mask` is 1 on the response positions that count. Masked positions are replaced *before* any arithmetic: they may hold
anything, and 0 * inf is NaN in the backward pass.
"""

import torch
from torch import Tensor


def in_fp32(x: Tensor) -> Tensor:
    """`x` in fp32 at least: half precision cannot carry a sum of log-probabilities (rule P20)."""
    return x if x.dtype == torch.float64 else x.float()


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """`x` in fp32 with zeros outside the mask, whatever stood there."""
    return torch.where(mask.bool(), in_fp32(x), 0.0)


def mean(x: Tensor, mask: Tensor, aggregate: str, num_global: int | float | Tensor | None) -> Tensor:
    """Mean of `x` over the mask: over all tokens, or over rows after each row's own mean.

    Args:
        aggregate: `token` or `sequence`. Rows with an empty mask do not count.
        num_global: tokens (rows) of the global minibatch: the divisor when it is spread over micro-batches or workers.
            None: the count in these tensors. Nothing counted gives 0, not NaN.

    Raises:
        ValueError: `aggregate` is neither word.
    """
    if aggregate not in ("token", "sequence"):
        raise ValueError(f"aggregate: {aggregate!r} must be 'token' or 'sequence'")
    kept = masked(x, mask)
    if aggregate == "token":
        return kept.sum() / _at_least_one(mask.bool().sum() if num_global is None else num_global)
    lengths_b = mask.bool().sum(dim=-1)
    row_means_b = kept.sum(dim=-1) / lengths_b.clamp(min=1)
    return row_means_b.sum() / _at_least_one((lengths_b > 0).sum() if num_global is None else num_global)


def check_same_shape(**tensors: Tensor) -> None:
    """Refuse tensors of different shapes: broadcasting would hide a transposed batch.

    Raises:
        ValueError: names the shapes.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"shapes must be equal, got {shapes}")


def _at_least_one(count: int | float | Tensor) -> int | float | Tensor:
    return count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)
