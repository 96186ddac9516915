"""Ctrl-C while a job runs: the first one asks the job to stop after a checkpoint, the second one stops waiting for it.

SIGTERM and SIGHUP (a closed terminal) count as the first Ctrl-C, so that a logout loses no step. Under `nohup` SIGHUP stays ignored.
"""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequests:
    """Context manager that turns signals into an answer for `LocalSession.run(should_stop=…)`.

    `on_first` runs where the answer is asked for, so it may print. `on_second` runs inside a signal handler: it may set flags and signal
    processes, and nothing else. A handler that prints would wait for ever if it came while this thread holds the console's lock and the
    thread that draws the table holds the table's.
    """

    def __init__(self, on_first: Callable[[], None], on_second: Callable[[], None]) -> None:
        self._on_first, self._on_second = on_first, on_second
        self._old: dict[signal.Signals, object] = {}
        self.was_asked = self._was_told = False

    def __call__(self) -> bool:
        if self.was_asked and not self._was_told:
            self._was_told = True
            self._on_first()
        return self.was_asked

    def __enter__(self) -> Self:
        self._old = {number: signal.signal(number, self._handle) for number in STOPPING if not _is_ignored_hangup(number)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.was_asked:
            self.was_asked = True
        elif number != signal.SIGHUP:
            # One closed terminal hangs up twice: the shell passes its SIGHUP on, and as it ends the kernel sends another.
            self._on_second()


def _is_ignored_hangup(number: signal.Signals) -> bool:
    """True under `nohup`: the job shall outlive its terminal.

    An ignored SIGINT is heeded all the same: every `&` of a script ignores it, and `kill -INT` has to save a checkpoint there too.
    """
    return number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
