"""Colossal-AI's C++ CPU Adam in torch, for hosts without a compiler (rule H3). No Colossal-AI here: it is tested on its own."""

from __future__ import annotations

import math

from torch import Tensor


class AdamKernel:
    """The kernel's interface: Adam with bias correction, decoupled or L2 decay, and a loss scale."""

    def __init__(self, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, adamw_mode: bool) -> None:
        self._is_adamw = adamw_mode

    def step(
        self, step: int, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, bias_correction: bool,
        param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, div_scale: float,
    ) -> None:  # fmt: skip
        """One update in place. `div_scale` > 0 divides the gradient first; the other arguments are Adam's own.

        eps is added outside of the root (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1): inside, small gradients would step less.
        """
        grad = grad.float() / div_scale if div_scale > 0 else grad.float()
        if weight_decay and self._is_adamw:
            param.mul_(1 - lr * weight_decay)
        elif weight_decay:
            grad = grad + weight_decay * param
        exp_avg.lerp_(grad, 1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        first, second = (1 - beta1**step, 1 - beta2**step) if bias_correction else (1.0, 1.0)
        param.addcdiv_(exp_avg, (exp_avg_sq.sqrt() / math.sqrt(second)).add_(eps), value=-lr / first)
