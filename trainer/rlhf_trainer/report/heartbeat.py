"""The pulse of a worker: a 64-byte slot of shared memory that the launcher's watchdog reads (rule L7).

A worker writes its process id, what it does, its step and the time; it never blocks and never fails because of it. The clock is
CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

SLOT_BYTES = 64
_LAYOUT = struct.Struct("<qdq16s")


@dataclass(frozen=True, slots=True)
class Pulse:
    """The last thing that a worker finished."""

    state: str
    step: int
    time_seconds: float
    """On the monotonic clock; 0 = the worker has not begun."""
    pid: int = 0


class Heartbeat:
    """One worker's slot. `beat` says: a piece of work was finished just now."""

    def __init__(self, slots: mmap.mmap | None, index: int) -> None:
        self._slots = slots
        self._offset = index * SLOT_BYTES

    @classmethod
    def unwatched(cls) -> Heartbeat:
        """A heartbeat that nobody reads: for tests and for stages run by hand."""
        return cls(None, 0)

    @classmethod
    def of_worker(cls, path: Path, index: int) -> Heartbeat:
        """The slot of local worker `index` in the launcher's file."""
        return cls(_map(path), index)

    def beat(self, state: str, step: int) -> None:
        """Note that work was finished. `state` is a `state` of the progress document, `step` where the stage stands."""
        if self._slots is not None:
            _LAYOUT.pack_into(self._slots, self._offset, step, time.monotonic(), os.getpid(), state.encode()[:16])


def create_slots(path: Path, num_workers: int) -> None:
    """Make the file with one empty slot for each local worker."""
    path.write_bytes(bytes(SLOT_BYTES * num_workers))


class Pulses:
    """The launcher's view of all local workers."""

    def __init__(self, path: Path, num_workers: int) -> None:
        self._slots = _map(path)
        self._num_workers = num_workers

    def read(self) -> list[Pulse]:
        """The pulse of every local worker, by local rank."""
        return [self._read(index) for index in range(self._num_workers)]

    def _read(self, index: int) -> Pulse:
        step, time_seconds, pid, state = _LAYOUT.unpack_from(self._slots, index * SLOT_BYTES)
        return Pulse(state.rstrip(b"\0").decode(), step, time_seconds, pid)


def _map(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)
