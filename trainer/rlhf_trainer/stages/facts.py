"""Measurements that belong to the whole stage: they must survive a resume, because the moment they were taken does not come back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Facts:
    """Named numbers, part of the loop's state. The base model, for example, is measured before the first step only."""

    def __init__(self, metrics: Mapping[str, float] | None = None) -> None:
        self.metrics: dict[str, float] = dict(metrics or {})

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take over newer values."""
        self.metrics |= metrics

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"metrics": self.metrics}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.metrics = dict(state["metrics"])
