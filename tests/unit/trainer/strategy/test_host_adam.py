"""The host's Adam kernel is torch's AdamW (rule H3)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlhf_trainer.strategy.host_adam import AdamKernel

RATE, BETA1, BETA2, EPS = 1e-2, 0.9, 0.95, 1e-3  # a large eps, so that its place matters


def difference(step: Callable[..., None], weight_decay: float, div_scale: float = -1.0) -> float:
    """Largest difference to torch's AdamW over fifty steps."""
    torch.manual_seed(0)
    mine = torch.randn(40)
    reference = torch.nn.Parameter(mine.clone())
    adam = torch.optim.AdamW([reference], lr=RATE, betas=(BETA1, BETA2), eps=EPS, weight_decay=weight_decay)
    first, second = torch.zeros(40), torch.zeros(40)
    worst = 0.0
    for number in range(1, 51):
        gradient = torch.randn(40) * 10 ** -(number % 5)
        reference.grad = gradient.clone()
        adam.step()
        scaled = gradient * div_scale if div_scale > 0 else gradient
        step(number, RATE, BETA1, BETA2, EPS, weight_decay, True, mine, scaled, first, second, div_scale)
        worst = max(worst, float((mine - reference.detach()).abs().max()))
    return worst


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.rule("H3", source="torch: AdamW")
def test_equals_torch_over_fifty_steps(weight_decay: float) -> None:
    assert difference(AdamKernel(RATE, BETA1, BETA2, EPS, weight_decay, True).step, weight_decay) < 1e-6


def test_divides_the_gradient_by_the_scale() -> None:
    assert difference(AdamKernel(RATE, BETA1, BETA2, EPS, 0.0, True).step, 0.0, div_scale=64.0) < 1e-6


def test_without_adamw_mode_decay_is_part_of_the_gradient() -> None:
    weight, reference = torch.ones(3), torch.nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([reference], lr=RATE, betas=(BETA1, BETA2), eps=EPS, weight_decay=0.1)
    reference.grad = torch.full((3,), 0.5)
    adam.step()
    AdamKernel(RATE, BETA1, BETA2, EPS, 0.1, False).step(
        1, RATE, BETA1, BETA2, EPS, 0.1, True, weight, torch.full((3,), 0.5), torch.zeros(3), torch.zeros(3), -1
    )
    assert torch.allclose(weight, reference.detach(), atol=1e-7)


@pytest.mark.mutant("H3", of="eps inside the root")
def test_check_catches_eps_inside_the_root() -> None:
    def mutant(
        step: int, lr: float, b1: float, b2: float, eps: float, wd: float, _: bool, p: Tensor, g: Tensor, m: Tensor, v: Tensor, __: float
    ) -> None:
        m.lerp_(g, 1 - b1)
        v.mul_(b2).addcmul_(g, g, value=1 - b2)
        p.addcdiv_(m, (v / (1 - b2**step) + eps).sqrt(), value=-lr / (1 - b1**step))

    assert difference(mutant, 0.0) > 1e-4
