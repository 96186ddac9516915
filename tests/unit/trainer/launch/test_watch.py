"""What the watch does beside the workers, with real child processes (rules L3, L7)."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_api.run_config import Deadlines
from rlhf_trainer.exchange import Exchange
from rlhf_trainer.launch_watch import Watch
from rlhf_trainer.run import StopFlag
from tests.support.eventually import eventually

WORKER = """
import faulthandler, signal, sys, time
from pathlib import Path
from rlhf_trainer.exchange import Exchange
exchange, ignores = Exchange(Path(sys.argv[1])), sys.argv[2] == "ignore"
signal.signal(signal.SIGTERM, lambda *_: None if ignores else sys.exit(75))
faulthandler.register(signal.SIGUSR1, file=exchange.stacks(0).open("w"))
while sys.argv[2] == "late" and not Path(sys.argv[1], "born").exists():
    time.sleep(0.02)
exchange.heartbeat(0).beat("training", 5)
def waits_for_a_peer():
    while True:
        time.sleep(0.05)
waits_for_a_peer()
"""


class Started:
    def __init__(self, directory: Path, behaviour: str, deadlines: Deadlines) -> None:
        with Exchange.create(1) as exchange:
            directory.mkdir(exist_ok=True)
            (directory / "pulses").write_bytes((exchange.directory / "pulses").read_bytes())
        self.directory, self.stop = directory, StopFlag()
        self.watch = Watch(Exchange(directory), 1, deadlines, self.stop)
        self.child = subprocess.Popen([sys.executable, "-c", WORKER, str(directory), behaviour])
        self.watch.begin()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    started: list[Started] = []

    def begin(behaviour: str, progress: int = 60, grace: int = 60) -> Started:
        deadlines = Deadlines(startup_seconds=60, progress_seconds=progress, shutdown_seconds=grace)
        started.append(Started(tmp_path / "exchange", behaviour, deadlines))
        return started[-1]

    yield begin
    for each in started:
        each.watch.close()
        each.child.kill()
        each.child.wait()


def test_a_stop_request_is_forwarded(start: object) -> None:
    run = start("obey")  # type: ignore[operator]
    run.stop.set()
    assert run.child.wait(timeout=30) == 75
    assert run.watch.stall is None


@pytest.mark.rule("L3")
def test_a_worker_that_ignores_it_is_killed_after_the_grace_period(start: object) -> None:
    run = start("ignore", grace=1)  # type: ignore[operator]
    run.stop.set()
    assert run.child.wait(timeout=30) == -signal.SIGKILL


@pytest.mark.rule("L7")
def test_a_silent_worker_is_dumped_and_killed(start: object, capfd: pytest.CaptureFixture[str]) -> None:
    run = start("obey", progress=5)  # type: ignore[operator]
    assert run.child.wait(timeout=30) == -signal.SIGKILL
    run.watch.close()
    stall = run.watch.stall
    assert stall is not None
    assert "waits_for_a_peer" in stall.story
    assert "state training, step 5" in stall.story
    assert (stall.local_rank, stall.pulse.step) == (0, 5)
    assert "waits_for_a_peer" in capfd.readouterr().err


@pytest.mark.rule("L7")
def test_a_worker_that_says_its_first_word_after_the_verdict_is_killed_too(start: object) -> None:
    """Its process id is not known before: left alone, the launcher would wait for it for ever."""
    run = start("late", progress=1)  # type: ignore[operator]
    eventually(lambda: run.watch.stall, 30, "the watchdog's verdict")
    (run.directory / "born").touch()
    assert run.child.wait(timeout=30) == -signal.SIGKILL
