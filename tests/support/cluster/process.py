"""One program of the cluster: started with a log file, ended for sure, also when the test run dies."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_TERMINATION_SECONDS = 5.0


class Program:
    """A running program and its log. It lives in its own session, so Ctrl-C reaches only the test run, which then ends it in order.

    Args:
        outlives_us: False lets the kernel kill it when the starting thread's process dies; True is for a cluster that stays up.
    """

    def __init__(
        self, command: Sequence[str | Path], log: Path, *, environment: Mapping[str, str] | None = None, outlives_us: bool = False
    ) -> None:
        self.name = Path(command[0]).name
        self.log = log
        parent = os.getpid()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                start_new_session=True,
                preexec_fn=None if outlives_us else lambda: _die_with(parent),
            )
        self.pid = self._process.pid

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Its exit code; None while it runs, negative for a signal."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.is_running():
            self._process.send_signal(number)

    def stop(self, *, grace_seconds: float = _TERMINATION_SECONDS) -> None:
        """SIGTERM, then SIGKILL after the grace; 0 kills at once. Returns when the program is gone."""
        self.signal(signal.SIGTERM if grace_seconds else signal.SIGKILL)
        try:
            self._process.wait(grace_seconds or None)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_until(self, is_ready: Callable[[], bool], deadline_seconds: float) -> None:
        """Wait for a sign of life.

        Raises:
            RuntimeError: it ended, or was not ready in time; the message carries the end of its log.
        """
        end = time.monotonic() + deadline_seconds
        while not is_ready():
            if not self.is_running():
                raise RuntimeError(f"{self.name} ended with {self.exit_code}:\n{self.tail()}")
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name} was not ready within {deadline_seconds:g} s:\n{self.tail()}")
            time.sleep(0.05)

    def tail(self, num_characters: int = 3000) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-num_characters:]


def _die_with(parent: int) -> None:
    """In the child, before exec: SIGKILL when the parent goes, even if it went a moment ago."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
