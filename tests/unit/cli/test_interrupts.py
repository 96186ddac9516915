"""Ctrl-C once and twice. The signals are real; they are sent to this process."""

import os
import signal

import pytest

from rlhf_cli.interrupts import STOPPING, StopRequests


@pytest.mark.parametrize("number", STOPPING)
def test_the_first_signal_asks_and_the_second_insists(number: signal.Signals) -> None:
    calls: list[str] = []
    with StopRequests(lambda: calls.append("stop"), lambda: calls.append("kill")) as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert calls == ["stop"]
        os.kill(os.getpid(), number)
        assert calls == ["stop", "kill"]


def test_the_old_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in STOPPING]
    with StopRequests(lambda: None, lambda: None):
        assert [signal.getsignal(number) for number in STOPPING] != before
    assert [signal.getsignal(number) for number in STOPPING] == before
