"""Advantages on one scale, computed over the whole rollout of all workers, so one GPU and eight take the same step."""

import torch
import torch.distributed as dist
from torch import Tensor

from rlhf_trainer.rl.masks import check_same_shape, in_fp32


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True, group: object | None = None) -> Tensor:
    """`(x - mean) * rsqrt(var + 1e-8)` over the mask on all ranks of `group`; 0 outside the mask.

    The variance is unbiased. `group=None` means all ranks when a process group exists, else this process alone: every
    rank must call it. `shift_mean=False` adds the mean back. Fewer than two elements: centred only, finite.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(x=x, mask=mask)
    kept = torch.where(mask.bool(), x.double(), 0.0)  # fp64 sums: the result must not depend on how rows are split over ranks
    count, total = sum_over_ranks(torch.stack([mask.bool().sum().double(), kept.sum()]), group)
    mean = total / count.clamp(min=1)
    centred = torch.where(mask.bool(), kept - mean, 0.0)
    squares = sum_over_ranks(centred.square().sum(), group)
    scale = torch.where(count > 1, torch.rsqrt(squares / (count - 1).clamp(min=1) + 1e-8), 1.0)
    white = centred * scale if shift_mean else centred * scale + mean
    return torch.where(mask.bool(), white, 0.0).to(in_fp32(x).dtype)


def sum_over_ranks(x: Tensor, group: object | None) -> Tensor:
    """Sum of `x` over the ranks of `group`; without a process group, `x`. Not differentiable: statistics only."""
    if not (dist.is_available() and dist.is_initialized()):
        return x
    total = x.detach().clone()
    dist.all_reduce(total, group=group)
    return total
