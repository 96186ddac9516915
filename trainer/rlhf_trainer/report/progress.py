"""The progress document: how far a stage is, and when it will be done. Pure bookkeeping; `server.py` serves it.

Times are of a monotonic clock that the caller reads, so that tests need none.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

from rlhf_api.outcome import ProgressDocument
from rlhf_api.run_config import RunConfig
from rlhf_trainer.run import Latest

State = Literal["loading", "rollout", "training", "evaluating", "saving", "finishing"]
_WINDOW_STEPS = 50


class Progress:
    """What the operator will read. All changes come from the stage's own thread; `document` may be called from another."""

    def __init__(self, config: RunConfig, latest: Latest) -> None:
        self._config, self._latest = config, latest
        self._finished: deque[tuple[float, int]] = deque(maxlen=_WINDOW_STEPS)
        self.state: State = "loading"
        self.total_steps: int | None = config.plan.total_steps
        self.updated = datetime.now(UTC)

    def enter(self, state: State, now: datetime) -> None:
        self.state, self.updated = state, now

    def finish_step(self, step: int, metrics: Mapping[str, float], now: datetime, clock_seconds: float) -> None:
        """A step is done: `eta_seconds` follows from the pace of the last fifty."""
        self._latest.step, self.updated = step, now
        self._finished.append((clock_seconds, step))
        self.add_metrics(metrics)

    @property
    def step(self) -> int:
        return self._latest.step

    def add_metrics(self, metrics: Mapping[str, float]) -> None:
        """Newest value of each metric. What is not finite is left out: the document is JSON."""
        self._latest.metrics = {**self._latest.metrics} | {name: float(value) for name, value in metrics.items() if math.isfinite(value)}

    @property
    def percent(self) -> float:
        if not self.total_steps:
            return 0.0
        return round(min(100.0, 100 * self._latest.step / self.total_steps), 2)

    @property
    def eta_seconds(self) -> float | None:
        """Seconds left at the recent pace; unknown before the second step or without a total."""
        if self.total_steps is None or len(self._finished) < 2:
            return None
        (first_seconds, first_step), (last_seconds, last_step) = self._finished[0], self._finished[-1]
        if last_step <= first_step:
            return None
        pace = (last_seconds - first_seconds) / (last_step - first_step)
        return round(max(0, self.total_steps - self._latest.step) * pace, 1)

    def document(self) -> ProgressDocument:
        """The document as of now."""
        config = self._config
        return ProgressDocument(
            version=1,
            job_uid=config.job.uid,
            stage=config.stage.name,
            attempt=config.attempt,
            state=self.state,
            step=self._latest.step,
            total_steps=self.total_steps,
            percent=self.percent,
            eta_seconds=self.eta_seconds,
            update_time=self.updated,
            metrics=dict(self._latest.metrics),
            checkpoint=self._latest.checkpoint,
            resumed_from=self._latest.resumed_from,
        )
