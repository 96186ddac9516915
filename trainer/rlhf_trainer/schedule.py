"""Learning rates by optimizer step (rule F3): warm-up, then cosine, linear or constant; clamped after the end, never restarted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """`rate(step)` is what optimizer step number `step` (from 0) uses."""

    peak: float
    total_steps: int
    """Optimizer steps of the whole stage, all epochs included."""
    warmup_fraction: float = 0.0
    kind: Literal["cosine", "linear", "constant"] = "constant"
    min_fraction: float = 0.0
    """Final learning rate as a part of the peak. `constant` ignores it."""

    @property
    def warmup_steps(self) -> int:
        return math.ceil(self.total_steps * self.warmup_fraction)

    def rate(self, step: int) -> float:
        """The learning rate of a step. The last step of the plan gets exactly the smallest rate, and so do all after it."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        return self.peak * self._fraction(step)

    def _fraction(self, step: int) -> float:
        if self.kind == "constant":
            return 1.0
        last = max(self.total_steps - 1, self.warmup_steps)
        if step >= last:
            return self.min_fraction
        done = (step - self.warmup_steps) / (last - self.warmup_steps)
        left = 1 - done if self.kind == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.min_fraction + (1 - self.min_fraction) * left
