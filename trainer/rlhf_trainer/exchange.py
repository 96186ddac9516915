"""The directory in which the launcher and its workers meet: pulses, last words and stack dumps. Lives as long as the launcher.

pulses             a 64-byte slot of shared memory for each worker     worker -> watchdog
report-<k>.json    how worker k ended, in its own words                worker -> termination message
stacks-<k>.txt     every thread of worker k, on SIGUSR1                worker -> log, termination message
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlhf_trainer.report.heartbeat import Heartbeat, Pulses, create_slots


@dataclass(frozen=True, slots=True, kw_only=True)
class LastWords:
    """How one worker ended. Absent when it was killed."""

    exit_code: int
    message: str = ""
    hint: str | None = None
    rank: int = 0
    step: int | None = None
    checkpoint: dict[str, Any] | None = None
    resumed_from: dict[str, Any] | None = None
    output_digest: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    time_seconds: float = 0.0
    """On the monotonic clock: the first failure is the one to blame."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Paths and formats of the meeting place. `local_rank` counts the workers of this pod."""

    directory: Path

    @classmethod
    @contextmanager
    def create(cls, num_workers: int) -> Iterator[Exchange]:
        """A fresh meeting place, removed at the end."""
        with TemporaryDirectory(prefix="rlhf-launch-") as directory:
            exchange = cls(Path(directory))
            create_slots(exchange._pulses, num_workers)
            yield exchange

    def heartbeat(self, local_rank: int) -> Heartbeat:
        return Heartbeat.of_worker(self._pulses, local_rank)

    def pulses(self, num_workers: int) -> Pulses:
        return Pulses(self._pulses, num_workers)

    def stacks(self, local_rank: int) -> Path:
        return self.directory / f"stacks-{local_rank}.txt"

    def write(self, local_rank: int, words: LastWords) -> None:
        """Leave the last words. The launcher reads them after the worker's end, so a plain write will do."""
        content = {name: getattr(words, name) for name in LastWords.__slots__}
        content["metrics"] = dict(words.metrics)
        content["time_seconds"] = time.monotonic()
        self._report(local_rank).write_text(json.dumps(content), encoding="utf-8")

    def read(self, local_rank: int) -> LastWords | None:
        """The last words of a worker, or None when it left none, or half of them."""
        try:
            return LastWords(**json.loads(self._report(local_rank).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def _pulses(self) -> Path:
        return self.directory / "pulses"

    def _report(self, local_rank: int) -> Path:
        return self.directory / f"report-{local_rank}.json"
