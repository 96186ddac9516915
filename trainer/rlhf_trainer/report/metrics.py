"""Append-only JSON lines: `metrics.jsonl`, `samples.jsonl`, `events.jsonl`. One flat object a line, flushed at once.

A new attempt goes on where its checkpoint stands: it takes over the lines of the earlier attempt up to that step, and nothing after it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

MAX_NAME = 64
"""Characters of a metric's name: the termination message, 4096 bytes in all, has room for a dozen of them."""


def metric_name(text: str) -> str:
    """The text as a part of a Prometheus name: one illegal character spoils the answer for all metrics.

    web-2024.v1 -> web_2024_v1
    """
    return re.sub(r"[^a-zA-Z0-9_]", "_", text)[:MAX_NAME]


class JsonLines:
    """One file of lines. Opened at the first line, so that a stage without metrics leaves no empty file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one object. NaN and infinities become null: JSON has none."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(json.dumps({key: _plain(value) for key, value in line.items()}, ensure_ascii=False) + "\n")
        self._file.flush()

    def take_over(self, earlier: Path, step: int) -> None:
        """Start this file as the earlier one up to and including `step`. A line that a crash cut in half is left out."""
        if not earlier.is_file():
            return
        with earlier.open(encoding="utf-8", errors="replace") as lines:
            kept = [line for line in lines if _step_of(line) <= step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.close()
        self.path.write_text("".join(kept), encoding="utf-8")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
