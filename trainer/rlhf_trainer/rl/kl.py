"""How far the policy is from the reference, and how hard the penalty pulls it back."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from rlhf_trainer.rl.masks import check_same_shape, in_fp32

ESTIMATORS = ("k1", "k2", "k3")


def estimate(logp: Tensor, ref_logp: Tensor, kind: str) -> Tensor:
    """KL(policy ‖ reference) of each sampled token, in nats (Schulman 2020, "Approximating KL Divergence").

    With x = logp - ref_logp: k1 = x (unbiased, may be negative), k2 = x²/2 (biased, low variance), k3 = exp(-x) - 1 + x
    (unbiased, never negative). Their means agree only over samples of the policy itself.

    Raises:
        ValueError: shapes differ, or the kind is unknown.
    """
    check_same_shape(logp=logp, ref_logp=ref_logp)
    x = in_fp32(logp) - in_fp32(ref_logp)
    if kind == "k1":
        return x
    if kind == "k2":
        return 0.5 * x.square()
    if kind == "k3":
        return torch.expm1(-x) + x  # expm1: exp(-x) - 1 loses every digit near 0, where a healthy policy is
    raise ValueError(f"kind: {kind!r} must be one of {', '.join(ESTIMATORS)}")


class FixedKL:
    """A coefficient that stays: the controller of a job without `kl.target`."""

    def __init__(self, coef: float) -> None:
        self.coef = coef

    def update(self, kl: float, num_samples: int) -> float:
        """The unchanged coefficient."""
        return self.coef

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"coef": self.coef}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from `state()`."""
        self.coef = float(state["coef"])


class AdaptiveKL(FixedKL):
    """A coefficient that steers the KL of an answer to `target` (Ziegler et al. 2019, arXiv:1909.08593, section 2.2).

    coef *= 1 + clip(kl / target - 1, ±0.2) * num_samples / horizon. Its value is state: a resume that starts again at
    the first coefficient would let the policy jump.

    Args:
        target: wanted KL in nats per answer.
        horizon: answers over which the controller reacts.
    """

    def __init__(self, coef: float, target: float, horizon: float) -> None:
        if target <= 0 or horizon <= 0:
            raise ValueError(f"target and horizon must be positive, got {target!r} and {horizon!r}")
        super().__init__(coef)
        self.target, self.horizon = target, horizon

    def update(self, kl: float, num_samples: int) -> float:
        """The coefficient after a rollout of `num_samples` answers whose mean KL was `kl`.

        Raises:
            ValueError: `kl` is not finite; it would poison every later coefficient.
        """
        kl = float(kl)
        if not math.isfinite(kl):
            raise ValueError(f"kl: {kl!r} must be finite")
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        self.coef *= 1.0 + error * num_samples / self.horizon
        return self.coef
