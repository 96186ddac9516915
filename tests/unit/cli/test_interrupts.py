"""Ctrl-C once and twice. The signals are real; they are sent to this process."""

import os
import signal
from collections.abc import Iterator

import pytest

from rlhf_cli.interrupts import STOPPING, StopRequests


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Runners may ignore SIGHUP: a closed terminal must count here."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("number", STOPPING)
def test_the_first_signal_asks_and_the_second_insists(number: signal.Signals, second: signal.Signals) -> None:
    calls: list[str] = []
    with StopRequests(lambda: calls.append("stop"), lambda: calls.append("kill")) as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert calls == [], "a handler must not print"
        assert stop()
        assert stop()
        assert calls == ["stop"]
        os.kill(os.getpid(), second)
        assert calls == ["stop", "kill"]


def test_the_old_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in STOPPING]
    with StopRequests(lambda: None, lambda: None):
        assert [signal.getsignal(number) for number in STOPPING] != before
    assert [signal.getsignal(number) for number in STOPPING] == before


@pytest.mark.parametrize("number", STOPPING)
def test_a_hangup_never_insists(number: signal.Signals) -> None:
    calls: list[str] = []
    with StopRequests(lambda: calls.append("stop"), lambda: calls.append("kill")):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGHUP)
    assert calls == []


def test_under_nohup_a_closed_terminal_is_no_wish() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequests(lambda: None, lambda: None) as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_in_the_background_of_a_script_an_interrupt_is_heeded() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequests(lambda: None, lambda: None) as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop()
    finally:
        signal.signal(signal.SIGINT, before)
