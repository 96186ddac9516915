"""The health of one stage as it runs: keeps the window of metrics, and tells which verdicts are new. Part of every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rlhf_api.run_config import RunConfig
from rlhf_api.stages import PPO
from rlhf_trainer.report import health


class Health:
    """Judges after each step."""

    def __init__(self, config: RunConfig) -> None:
        self._stage = config.stage.type
        self._kl_target = config.config.kl.target if isinstance(config.config, PPO) else None
        self._window = health.Window()
        self._known: dict[str, health.Level] = {}
        self.is_judging = self._stage.is_training

    @property
    def level(self) -> health.Level:
        return max(self._known.values(), default=health.Level.OK)

    def look(self, metrics: Mapping[str, float]) -> list[health.Verdict]:
        """Add a step. Returns the verdicts that are new or have become worse."""
        if not self.is_judging:
            return []
        self._window = self._window.add(dict(metrics))
        verdicts = health.judge(self._stage, self._window, self._kl_target)
        new = [verdict for verdict in verdicts if verdict.level > self._known.get(verdict.metric, health.Level.OK)]
        self._known = {verdict.metric: verdict.level for verdict in verdicts}
        return new

    def state(self) -> dict[str, Any]:
        """The window as JSON. What is not finite is left out: JSON has no word for it, and it was judged already."""
        first = {name: [value for value in values if math.isfinite(value)] for name, values in self._window.first.items()}
        recent = [{name: value for name, value in step.items() if math.isfinite(value)} for step in self._window.recent]
        return {"first": first, "recent": recent, "known": {metric: int(level) for metric, level in self._known.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put a saved window back."""
        self._window = health.Window(state["first"], tuple(state["recent"]))
        self._known = {metric: health.Level(level) for metric, level in state["known"].items()}
