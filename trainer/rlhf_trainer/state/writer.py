"""Writes checkpoints beside the training: tensors are copied at the step boundary, a thread writes the copies (rule C9).

One save is in flight at a time; the next one waits for it. What goes wrong in the thread is raised at the next step boundary.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_api.outcome import CheckpointRef
from rlhf_trainer.memory import free_host_bytes
from rlhf_trainer.run import Run
from rlhf_trainer.state import checkpoint
from rlhf_trainer.state.checkpoint import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a checkpoint will hold."""

    step: int
    sections: Mapping[str, Tensors]
    state: Mapping[str, Any]
    rng: list[dict[str, Any]]
    num_bytes: int
    """Of the tensors, as far as it is known before they are read."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that is complete."""

    ref: CheckpointRef
    seconds: float
    """From the first tensor that was read to the last byte on the disk, wherever it was written."""


class Writer:
    """Rank 0's hand on `checkpoints/`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._thread: threading.Thread | None = None
        self._saved: Saved | None = None
        self._error: BaseException | None = None

    def write(self, draft: Draft, *, is_urgent: bool) -> None:
        """Write a checkpoint: now when it is urgent or its copy does not fit into memory, else in the background.

        Raises:
            StorageError: the volume is full or failing (now, or since the last call).
        """
        self.wait()
        began = time.monotonic()
        if is_urgent or 2 * draft.num_bytes > free_host_bytes():
            self._saved = self._write(draft, began)
            return
        snapshot = Draft(
            step=draft.step,
            sections={name: _copied(tensors) for name, tensors in draft.sections.items()},
            state=copy.deepcopy(draft.state),
            rng=draft.rng,
            num_bytes=draft.num_bytes,
        )
        self._thread = threading.Thread(target=self._write_in_background, args=(snapshot, began), name="checkpoint", daemon=True)
        self._thread.start()

    def finished(self) -> Saved | None:
        """The checkpoint that was completed since the last call.

        Raises:
            StorageError: the save in the background failed.
        """
        if self._thread is not None and not self._thread.is_alive():
            self._thread = None
        if self._thread is None and self._error is not None:
            error, self._error = self._error, None
            raise error
        saved, self._saved = (self._saved, None) if self._thread is None else (None, self._saved)
        return saved

    def wait(self) -> None:
        """Until no save is in flight."""
        if self._thread is not None:
            self._thread.join()

    def _write_in_background(self, draft: Draft, began: float) -> None:
        try:
            self._saved = self._write(draft, began)
        except BaseException as error:  # handed to the training thread, which reports it
            self._error = error

    def _write(self, draft: Draft, began: float) -> Saved:
        ref = checkpoint.write(self._run, draft.step, draft.sections, draft.state, draft.rng, expected_bytes=draft.num_bytes)
        checkpoint.retain(self._run, self._run.config.checkpoint.keep)
        return Saved(ref, time.monotonic() - began)


def _copied(tensors: Tensors) -> list[tuple[str, Tensor]]:
    """Copies on the host; in pinned memory when they come from a GPU, which is several times faster."""
    copies = []
    for name, tensor in tensors:
        held = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
        copies.append((name, held.copy_(tensor.detach())))
    return copies
