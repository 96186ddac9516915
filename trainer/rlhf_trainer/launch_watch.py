"""What happens beside the workers: a stop request is forwarded, the grace period enforced, silence ended (rules L3 and L7).

One daemon thread looks a few times a second. It signals only processes that are still children of this launcher.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rlhf_api.run_config import Deadlines
from rlhf_trainer.exchange import Exchange
from rlhf_trainer.report.heartbeat import Pulse
from rlhf_trainer.run import StopFlag

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2
_DUMP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Stall:
    """A worker that finished nothing for too long."""

    story: str
    """For how long, in which state, and where its main thread stood."""
    local_rank: int
    pulse: Pulse


class Watch:
    """Watches the local workers from `begin()` to `close()`."""

    def __init__(self, exchange: Exchange, num_workers: int, deadlines: Deadlines, stop: StopFlag) -> None:
        self._thread = threading.Thread(target=self._look_until_over, name="watch", daemon=True)
        self._exchange, self._num_workers, self._deadlines, self._stop = exchange, num_workers, deadlines, stop
        self._pulses = exchange.pulses(num_workers)
        self._is_over = threading.Event()
        self._signalled: set[int] = set()
        self._began_seconds = self._asked_seconds = 0.0
        self.stall: Stall | None = None
        """Why the watchdog ended the workers; None = it did not."""

    def begin(self) -> None:
        """Start to watch: the workers are about to start."""
        self._began_seconds = time.monotonic()
        self._thread.start()

    def close(self) -> None:
        """Stop watching. The workers have ended."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * _DUMP_SECONDS)

    def _look_until_over(self) -> None:
        while not self._is_over.wait(_LOOK_SECONDS):
            now = time.monotonic()
            if self._stop.is_set:
                self._forward_stop(now)
            elif self.stall is not None:
                self._kill()  # again: a worker may have been too young to be known when the others were killed
            elif silent := self._silent(now):
                self._end_stalled(*silent, now)

    def _forward_stop(self, now: float) -> None:
        """SIGTERM to each worker once; SIGKILL to all after the grace period. A worker that starts late is signalled late."""
        self._asked_seconds = self._asked_seconds or now
        is_over = now - self._asked_seconds >= self._deadlines.shutdown_seconds
        if is_over:
            self._kill()
            return
        for pulse in self._pulses.read():
            if pulse.pid and pulse.pid not in self._signalled:
                self._signalled.add(pulse.pid)
                _send(pulse.pid, signal.SIGTERM)

    def _silent(self, now: float) -> tuple[int, Pulse] | None:
        """The first worker that finished nothing for too long; one that never said a word counts from `begin`."""
        for local_rank, pulse in enumerate(self._pulses.read()):
            if now - max(pulse.time_seconds, self._began_seconds) >= self._deadlines.progress_seconds:
                return local_rank, pulse
        return None

    def _end_stalled(self, local_rank: int, pulse: Pulse, now: float) -> None:
        seconds = now - max(pulse.time_seconds, self._began_seconds)
        story = f"local worker {local_rank} finished nothing for {seconds:.0f} s (state {pulse.state or 'starting'}, step {pulse.step})"
        log.error("%s: dumping all threads, then ending the workers", story)
        stacks = self._dump()
        self.stall = Stall(f"{story}\n{_innermost(stacks.get(local_rank, ''))}", local_rank, pulse)
        self._kill()

    def _kill(self) -> None:
        for pulse in self._pulses.read():
            _send(pulse.pid, signal.SIGKILL)

    def _dump(self) -> dict[int, str]:
        """Stacks of all threads of all workers. faulthandler answers SIGUSR1 even when Python itself hangs in C."""
        for pulse in self._pulses.read():
            _send(pulse.pid, signal.SIGUSR1)
        stacks = {rank: _read_when_complete(self._exchange.stacks(rank)) for rank in range(self._num_workers)}
        for rank, text in stacks.items():
            for line in text.splitlines():
                print(f"[{rank}] {line}", file=sys.stderr)
        return stacks


def _send(pid: int, number: signal.Signals) -> None:
    """Signal a worker, unless it is gone: its process id may have been given to a stranger."""
    if pid and _parent_of(pid) == os.getpid():
        os.kill(pid, number)


def _parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _read_when_complete(path: Path) -> str:
    """A file's text once it has stopped growing, or what there is after the deadline."""
    deadline, previous = time.monotonic() + _DUMP_SECONDS, -1
    pause = threading.Event()
    while time.monotonic() < deadline:
        size = path.stat().st_size if path.is_file() else 0
        if size and size == previous:
            break
        previous = size
        pause.wait(0.1)
    return path.read_text(errors="replace") if path.is_file() else ""


def _innermost(stacks: str) -> str:
    """The innermost frames of the main thread, which faulthandler prints last."""
    main = stacks.rpartition("hread 0x")[2]
    frames = [line.strip() for line in main.splitlines()[1:] if line.strip().startswith("File")]
    return "\n".join(frames[:6])
