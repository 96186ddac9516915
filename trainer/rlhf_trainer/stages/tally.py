"""Sums over workers: every worker adds what it saw, and all get the same means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_trainer.strategy.world import World


class Tally:
    """Totals with counts, and maxima, by name."""

    def __init__(self) -> None:
        self._totals: dict[str, tuple[float, float]] = {}
        self._highest: dict[str, float] = {}

    def add(self, name: str, total: float | Tensor, count: float | Tensor = 1.0) -> None:
        """`total` over `count` items: the mean weighs every item alike, however they are spread over calls and workers."""
        before = self._totals.get(name, (0.0, 0.0))
        self._totals[name] = (before[0] + float(total), before[1] + float(count))

    def add_means(self, means: Mapping[str, float | Tensor], count: float | Tensor) -> None:
        """Means that were taken over the same `count` items."""
        for name, mean in means.items():
            self.add(name, float(mean) * float(count), count)

    def highest(self, name: str, value: float | Tensor) -> None:
        """Keep the largest value."""
        self._highest[name] = max(self._highest.get(name, float("-inf")), float(value))

    def over(self, world: World) -> dict[str, float]:
        """Means and maxima over all workers, which must all call it. Names without an item are left out."""
        totals: dict[str, tuple[float, float]] = {}
        highest: dict[str, float] = {}
        for part in world.gather({"totals": self._totals, "highest": self._highest}):
            for name, (total, count) in part["totals"].items():
                before = totals.get(name, (0.0, 0.0))
                totals[name] = (before[0] + total, before[1] + count)
            for name, value in part["highest"].items():
                highest[name] = max(highest.get(name, float("-inf")), value)
        return {name: total / count for name, (total, count) in totals.items() if count} | highest
