"""Ctrl-C while a job runs: the first one asks the job to stop after a checkpoint, the second one stops waiting for it.

SIGTERM and SIGHUP (a closed terminal) count as the first Ctrl-C, so that a logout loses no step.
"""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequests:
    """Context manager that turns signals into an answer for `LocalSession.run(should_stop=…)`.

    Both callbacks run inside a signal handler: they may set flags, signal processes and print, and nothing else.
    """

    def __init__(self, on_first: Callable[[], None], on_second: Callable[[], None]) -> None:
        self._on_first, self._on_second = on_first, on_second
        self._old: dict[signal.Signals, object] = {}
        self.was_asked = False

    def __call__(self) -> bool:
        return self.was_asked

    def __enter__(self) -> Self:
        self._old = {number: signal.signal(number, self._handle) for number in STOPPING}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.was_asked:
            self._on_second()
        else:
            self.was_asked = True
            self._on_first()
