"""Moments in the life of a stage at which something may go wrong, counted and written down; at one of them it does.

Kinds: `step` (before and after every optimizer step and its bookkeeping), `save` (before, inside and after every file of a checkpoint),
`retain` (while old ones are removed), `epoch` (when the rows begin anew), `export` (around the output). The count of an undisturbed run says
how many there are; a campaign draws from them. Runs in the worker, before its stage begins.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ACTIONS = ("none", "kill", "term", "full", "nan")
FULL_BYTES = 20_000
"""No file may grow beyond this once the disk is "full": the kernel refuses the write itself (EFBIG). A shard has three times that."""


@dataclass(slots=True)
class Points:
    """Counts moments; does `action` at the `at`-th one (from 1) of the kinds that are counted."""

    directory: Path
    """Gets `points` (one kind a line) and `windows.jsonl` (which rows were used)."""
    action: str = "none"
    at: int = 0
    has_happened: bool = False
    _count: Any = field(default_factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reach(self, kind: str) -> None:
        """This moment has come."""
        with self._lock:
            number = next(self._count)
            _append(self.directory / "points", kind)
        if number == self.at:
            self._act()

    def _act(self) -> None:
        self.has_happened = True
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.action == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.action == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))

    def install(self) -> None:
        """Put the moments into the trainer of this process."""
        from rlhf_trainer.data.order import Cursor
        from rlhf_trainer.loop import Loop
        from rlhf_trainer.models import export
        from rlhf_trainer.state import checkpoint, manifest

        self.directory.mkdir(parents=True, exist_ok=True)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file that is too large is an error of the write then
        self._around(Loop, "update", "step")
        self._around(Loop, "finish_step", "step")
        self._around(checkpoint, "retain", "retain")
        self._around(checkpoint.shutil, "rmtree", "retain")
        self._around(checkpoint, "_write_json", "save")
        self._around(manifest, "write_atomically", "save")
        self._around(os, "fsync", "save")
        self._around(export, "write_weights", "export")
        self._halve_shards(checkpoint)
        self._note_windows(Cursor)
        self._note_resume(Loop)
        if self.action == "nan":
            self._poison(Loop)

    def _around(self, owner: Any, name: str, kind: str) -> None:
        ours: Callable[..., Any] = getattr(owner, name)

        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            self.reach(kind)
            result = ours(*arguments, **keywords)
            self.reach(kind)
            return result

        setattr(owner, name, wrapped)

    def _halve_shards(self, checkpoint: Any) -> None:
        """A shard is on the disk by half when this moment comes."""
        ours = checkpoint._write_shard

        def wrapped(directory: Path, number: int, shard: Any) -> None:
            ours(directory, number, shard)
            path = directory / f"{number:05d}.safetensors"
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
            self.reach("save")
            path.write_bytes(content)
            self.reach("save")

        checkpoint._write_shard = wrapped

    def _note_windows(self, cursor_class: Any) -> None:
        """Which rows each cursor handed out, in order; cursors are numbered as they first speak."""
        ours, numbers = cursor_class.next, {}

        def wrapped(cursor: Any) -> Any:
            if cursor.consumed == cursor.num_rows:
                self.reach("epoch")
            window = ours(cursor)
            number = numbers.setdefault(id(cursor), len(numbers))
            if window is not None:
                _append(self.directory / "windows.jsonl", json.dumps([number, window[0], window[1].tolist()]))
            return window

        cursor_class.next = wrapped

    def _note_resume(self, loop_class: Any) -> None:
        ours = loop_class.resume

        def wrapped(loop: Any) -> Any:
            found = ours(loop)
            (self.directory / "resumed").write_text(str(loop.step))
            return found

        loop_class.resume = wrapped

    def _poison(self, loop_class: Any) -> None:
        """From the moment on, every loss is not a number."""
        ours = loop_class.update

        def wrapped(loop: Any, trained: Any, batches: Any, loss_of: Callable[[Any], Any], **keywords: Any) -> Any:
            return ours(loop, trained, batches, lambda batch: loss_of(batch) * (float("nan") if self.has_happened else 1.0), **keywords)

        loop_class.update = wrapped


def _append(path: Path, line: str) -> None:
    """One line in one write: a kill leaves a whole line or none."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)
