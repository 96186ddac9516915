"""What a stage tells the world while it runs: progress, metrics, samples and events. Rank 0 writes; other ranks only keep their pulse.

The files in the attempt's directory (`metrics.jsonl`, `samples.jsonl`, `events.jsonl`) are for people and `rlhf plot`; the progress
document is served from memory to the operator. No torch here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from rlhf_api.outcome import CheckpointRef
from rlhf_trainer.report.metrics import JsonLines
from rlhf_trainer.report.monitor import Health
from rlhf_trainer.report.progress import Progress, State
from rlhf_trainer.report.server import ProgressServer
from rlhf_trainer.run import Run

log = logging.getLogger(__name__)
MAX_NAMED_ROWS = 1024
"""Rows of a step that an event names at most: a global batch may have a million."""


class Reporter:
    """One per worker, open for the whole stage: `with Reporter(run) as reporter`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._metrics = JsonLines(run.directory / "metrics.jsonl")
        self._samples = JsonLines(run.directory / "samples.jsonl")
        self._events = JsonLines(run.directory / "events.jsonl")
        self.progress = Progress(run.config, run.latest)
        self.health = Health(run.config)
        self._server = self._serve()
        run.heartbeat.beat("loading", 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for lines in (self._metrics, self._samples, self._events):
            lines.close()

    def plan(self, total_steps: int) -> None:
        """Tell how many steps the stage will take, once it knows."""
        self.progress.total_steps = total_steps

    def enter(self, state: State) -> None:
        """The stage does something else now. No sign of progress to the watchdog: only finished work is."""
        self.progress.enter(state, datetime.now(UTC))

    def alive(self) -> None:
        """A piece of work inside a step was finished (a batch generated, a shard written): the watchdog starts anew."""
        self._run.heartbeat.beat(self.progress.state, self.progress.step)

    def step(self, step: int, metrics: Mapping[str, float], row_ids: Sequence[str] = ()) -> None:
        """A step on these data rows was finished: one line in `metrics.jsonl`, new numbers in the progress document, a heartbeat."""
        metrics = self._judged(metrics, row_ids)
        self.progress.finish_step(step, metrics, datetime.now(UTC), time.monotonic())
        self._run.heartbeat.beat(self.progress.state, step)
        if self._run.is_first:
            self._metrics.append({"step": step, "time": round(time.time(), 3), **metrics})

    def update(self, metrics: Mapping[str, float], *, is_judged: bool = True) -> None:
        """Headline numbers that do not belong to a step: evaluations. They are in the progress document and in `metrics.jsonl`.

        Those of a model that the stage did not train are not judged: they say nothing about its health.
        """
        metrics = self._judged(metrics) if is_judged else metrics
        self.progress.add_metrics(metrics)
        self.alive()
        if self._run.is_first:
            self._metrics.append({"step": self.progress.step, "time": round(time.time(), 3), **metrics})

    def samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Answers to fixed prompts, so that steps compare."""
        if self._run.is_first:
            for row in rows:
                self._samples.append({"step": step, **row})

    def event(self, reason: str, message: str, **details: Any) -> None:
        """Something that a reader of the attempt should know: a skipped checkpoint, a health verdict."""
        if self._run.is_first:
            log.warning("%s: %s", reason, message)
            line = {"step": self.progress.step, "time": round(time.time(), 3), "reason": reason, "message": message}
            self._events.append(line | details)

    def saved(self, checkpoint: CheckpointRef) -> None:
        """The newest complete checkpoint; until the first of this attempt, the one it resumed from."""
        self._run.latest.checkpoint = checkpoint

    def resume(self, found: CheckpointRef, earlier: Path) -> None:
        """Go on from a checkpoint. `earlier` is the directory of the attempt that saved it: its lines are taken over."""
        latest, step = self._run.latest, found.step
        latest.step, latest.checkpoint, latest.resumed_from = step, found, found
        self.alive()
        if self._run.is_first and earlier != self._run.directory:
            self._metrics.take_over(earlier / "metrics.jsonl", step)
            self._samples.take_over(earlier / "samples.jsonl", step)

    def _judged(self, metrics: Mapping[str, float], row_ids: Sequence[str] = ()) -> Mapping[str, float]:
        """The metrics with the health of the stage; a verdict that is new is an event, about a gradient with the rows behind it."""
        for verdict in self.health.look(metrics):
            rows = {"rows": list(row_ids)[:MAX_NAMED_ROWS]} if verdict.metric == "grad_norm" else {}
            self.event(f"Health{verdict.level.name.capitalize()}", f"{verdict.reason}: {verdict.action}", metric=verdict.metric, **rows)
        return {**metrics, "health": float(self.health.level)} if self.health.is_judging else metrics

    def _serve(self) -> ProgressServer | None:
        run = self._run
        if not run.is_first or not run.progress_port:
            return None
        host = run.progress_host
        try:
            return ProgressServer(host, run.progress_port, self.progress.document)
        except OSError as error:
            log.warning("progress is not served: port %s on %s: %s", run.progress_port, host, error.strerror)
            return None
