"""A job outlives what shows it: the terminal closes, the reader of a pipe goes, an encoding lacks a letter. In real processes."""

import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rlhf_operator.local.discard import discard
from rlhf_operator.local.processes import LocalRuntime
from rlhf_operator.local.session import LocalSession
from rlhf_operator.local.workdir import Workdir
from tests.support import fake_trainer
from tests.support.cli import HELLO
from tests.support.eventually import eventually

PROGRAM = f"""\
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.default_int_handler)  # runners start tests in the background, where a shell ignores it
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if os.isatty(0):
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from rlhf_operator.local.processes import LocalRuntime
LocalRuntime.__init__.__defaults__ = ((sys.executable, "-S", {fake_trainer.__file__!r}),)
from rlhf_cli.main import run
run()
"""
SECONDS = 60
Start = Callable[..., subprocess.Popen[str]]
SAVED = "stopped (sft has a checkpoint at step 7); go on with: rlhf resume hello\n"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with nothing but a job file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("TERM", "xterm")
    Path("hello.yaml").write_text(HELLO)
    return tmp_path


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal 100 columns wide. The test closes the first one; this closes the second."""
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    termios.tcsetwinsize(slave, (24, 100))
    yield master, slave
    os.close(slave)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """`start(stdout=…)`: a job whose stage waits until it is asked to stop. Nothing is left of it, also when the test fails."""
    monkeypatch.setenv("FAKE_TRAINER", '{"sft": {"wait": true}}')
    started: list[subprocess.Popen[str]] = []

    def run(**streams: Any) -> subprocess.Popen[str]:
        started.append(subprocess.Popen(rlhf("run", "hello.yaml"), text=True, start_new_session=True, **streams))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()
    discard(Workdir(Path(".rlhf/hello").resolve()), LocalRuntime())


def rlhf(*arguments: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *arguments]


def phase() -> str:
    return str(LocalSession.open(Path(".rlhf/hello")).job()["status"]["stages"][1]["phase"])


def is_waiting() -> bool:
    """The fake trainer of sft has begun to wait."""
    log = Path(".rlhf/hello/logs/sft-r1/pod-0.log")
    return log.is_file() and "attempt 1" in log.read_text()


def test_a_closed_terminal_saves_a_checkpoint(terminal: tuple[int, int], start: Start) -> None:
    master, slave = terminal
    with Path("said").open("wb") as said:
        process = start(stdin=slave, stdout=slave, stderr=said)
    watch(master)
    os.close(master)
    assert process.wait(SECONDS) == 130
    assert phase() == "Suspended"
    assert Path("said").read_text() == SAVED


def test_a_closed_terminal_that_has_standard_error_too(terminal: tuple[int, int], start: Start) -> None:
    master, slave = terminal
    process = start(stdin=slave, stdout=slave, stderr=slave)
    watch(master)
    os.close(master)
    assert process.wait(SECONDS) == 130
    assert phase() == "Suspended"


def watch(master: int) -> None:
    """Read what is drawn, as a terminal does, until the trainer waits and the table has shown it."""
    drawn = bytearray()

    def has_shown() -> bool:
        with suppress(BlockingIOError):  # nothing new
            drawn.extend(os.read(master, 65536))
        return is_waiting() and b"sft" in drawn

    eventually(has_shown, SECONDS)


def test_ctrl_c_saves_a_checkpoint_when_it_also_ends_the_reader(start: Start) -> None:
    reader, writer = os.pipe()
    with Path("said").open("wb") as said:
        process = start(stdin=subprocess.DEVNULL, stdout=writer, stderr=said)
    os.close(writer)
    eventually(is_waiting, SECONDS)
    os.close(reader)
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 130
    assert phase() == "Suspended"
    assert Path("said").read_text() == SAVED


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_job_is_complete_although_nobody_reads(output: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(rlhf("run", "hello.yaml", "-o", output), stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert phase() == "Succeeded"


def test_a_job_runs_with_both_streams_closed() -> None:
    command = 'exec "$@" >&- 2>&-'
    assert subprocess.run(["sh", "-c", command, "sh", *rlhf("run", "hello.yaml")], check=False).returncode == 0
    assert phase() == "Succeeded"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_letters_that_the_encoding_lacks_change_no_exit_code(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    for arguments in (("run", "hello.yaml"), ("get", "hello"), ("get",), ("plan", "hello.yaml")):
        done = subprocess.run(rlhf(*arguments), capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b""), arguments
