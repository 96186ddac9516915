"""Wait for a condition with a deadline. Tests never sleep for a fixed time: too short fails on a busy machine, too long wastes it."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02


def eventually(condition: Callable[[], T], deadline_seconds: float = 10.0, what: str = "the condition") -> T:
    """The first true value that the condition returns.

    Raises:
        AssertionError: it was still false at the deadline; the message carries the last value.
    """
    end = time.monotonic() + deadline_seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {deadline_seconds} s; last value: {value!r}")
        time.sleep(POLL_SECONDS)
