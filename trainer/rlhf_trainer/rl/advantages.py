"""How much better a token was than expected."""

import torch
from torch import Tensor

from rlhf_trainer.rl.masks import check_same_shape, masked


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimates, not whitened, and value targets (Schulman et al. 2016, arXiv:1506.02438, eq. 16).

    Tensors are (b, r), fp32; `values[:, i]` is estimated before token i, the value after the last action is 0.
    Positions outside `mask` are skipped: they neither reset the recursion nor feed it, and come back as 0. So padding on
    either side, or between two turns, changes nothing.

    Raises:
        ValueError: the shapes differ. Broadcasting would hide a transposed batch.
    """
    check_same_shape(rewards=rewards, values=values, mask=mask)
    rewards, values, is_action = masked(rewards, mask), masked(values, mask), mask.bool()
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0]) if values.shape[1] else values.sum(dim=-1)
    for i in reversed(range(values.shape[1])):
        delta = rewards[:, i] + gamma * next_value - values[:, i]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, i] = torch.where(is_action[:, i], advantage, 0.0)
        next_advantage = torch.where(is_action[:, i], advantage, next_advantage)
        next_value = torch.where(is_action[:, i], values[:, i], next_value)
    return advantages, advantages + values
