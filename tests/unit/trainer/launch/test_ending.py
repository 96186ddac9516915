"""Whose failure it was, and what the pod says last (rules L2, L5)."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from rlhf_api.outcome import TerminationMessage
from rlhf_trainer import launch, launch_ending
from rlhf_trainer.errors import StageError
from rlhf_trainer.exchange import Exchange, LastWords
from rlhf_trainer.launch_options import Place, parse
from rlhf_trainer.launch_watch import Stall
from rlhf_trainer.report.heartbeat import Pulse, create_slots
from rlhf_trainer.run import StopFlag


def ended(
    tmp_path: Path, codes: dict[int, int], *, said: dict[int, int] | None = None, stop: bool = False, oom_kills: int = 0, node: int = 0
) -> LastWords:
    """How a pod ended whose workers all finished step 7."""
    exchange, place = Exchange(tmp_path), a_place(node, len(codes))
    create_slots(tmp_path / "pulses", len(codes))
    for local_rank in codes:
        exchange.heartbeat(local_rank).beat("training", 7)
    for rank, code in (said or {}).items():
        exchange.write(rank, LastWords(exit_code=code, message=f"worker {rank}", rank=place.first_rank + rank, step=8))
    return launch_ending.of_workers(codes, exchange, place, was_asked_to_stop=stop, oom_kills=oom_kills)


def a_place(node_rank: int, num_local: int) -> Place:
    return Place(num_nodes=4, node_rank=node_rank, num_local=num_local, master_address="localhost", master_port=29500)


@pytest.mark.parametrize(("codes", "said", "code", "rank"), [
    pytest.param({0: 0, 1: 0}, {0: 0, 1: 0}, 0, 0, id="all succeeded: the first worker speaks"),
    pytest.param({0: 73, 1: 76}, {0: 73, 1: 76}, 76, 1, id="a lost peer never hides the cause, though it spoke first"),
    pytest.param({0: 73, 1: -9}, {0: 73}, 137, 1, id="a killed worker is the cause of a lost peer"),
    pytest.param({0: 70, 1: 76}, {1: 76, 0: 70}, 76, 1, id="the first failure by time"),
    pytest.param({0: 75, 1: 75}, {0: 75, 1: 75}, 75, 0, id="all stopped on request"),
    pytest.param({0: 75, 1: 74}, {0: 75, 1: 74}, 74, 1, id="a failed save among stopped workers"),
    pytest.param({0: 75, 1: 73}, {1: 73, 0: 75}, 75, 0, id="a peer lost after the stop"),
    pytest.param({0: 73, 1: 73}, {0: 73, 1: 73}, 73, 0, id="all lost a peer of another node"),
    pytest.param({0: -15, 1: 70}, {1: 70}, 70, 1, id="peers of a failed worker are ended with SIGTERM"),
    pytest.param({0: 2}, {}, 2, 0, id="a code without a report arrives unchanged"),
    pytest.param({0: 71}, {0: 70}, 71, 0, id="a report that does not match the code is not believed"),
])  # fmt: skip
@pytest.mark.rule("L2")
def test_who_is_to_blame(tmp_path: Path, codes: dict[int, int], said: dict[int, int], code: int, rank: int) -> None:
    ending = ended(tmp_path, codes, said=said)
    assert (ending.exit_code, ending.rank) == (code, rank)


@pytest.mark.parametrize(("codes", "said", "rank", "step"), [
    pytest.param({0: 70, 1: 0}, {0: 70, 1: 0}, 4, 8, id="a report speaks for itself"),
    pytest.param({0: 0, 1: -9}, {0: 0}, 5, 7, id="of a killed worker the pulse is known"),
])  # fmt: skip
@pytest.mark.rule("L5")
def test_the_rank_is_that_of_the_whole_gang_and_the_step_the_last_finished(
    tmp_path: Path, codes: dict[int, int], said: dict[int, int], rank: int, step: int
) -> None:
    ending = ended(tmp_path, codes, said=said, node=2)
    assert (ending.rank, ending.step) == (rank, step)


@pytest.mark.rule("L5")
def test_a_stall_names_the_silent_worker() -> None:
    ending = launch_ending.of_stall(Stall("local worker 1 finished nothing", 1, Pulse("training", 5, 9.0)), a_place(3, 2))
    assert (ending.exit_code, ending.rank, ending.step, ending.message) == (78, 7, 5, "local worker 1 finished nothing")


def test_a_peer_that_the_launcher_lost_is_not_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the gang gathers, torch's store is the first to notice that node 0 is gone."""

    class DistNetworkError(RuntimeError):
        """torch's, by name."""

    def gone(*_: object) -> None:
        raise DistNetworkError("failed to recv, got 0 bytes")

    monkeypatch.setattr(launch, "_run", gone)
    assert launch._run_safely(parse([]), StopFlag()).exit_code == 73


def test_killed_for_memory_needs_the_kernels_word(tmp_path: Path) -> None:
    assert ended(tmp_path, {0: -signal.SIGKILL}, oom_kills=1).exit_code == 72
    assert ended(tmp_path, {0: -signal.SIGKILL}).exit_code == 137
    assert ended(tmp_path, {0: -signal.SIGSEGV}, oom_kills=1).exit_code == 139


def test_signals_after_a_stop_request_are_preemption(tmp_path: Path) -> None:
    assert ended(tmp_path, {0: -signal.SIGTERM}, stop=True).exit_code == 75
    assert "grace period" in ended(tmp_path, {0: -signal.SIGKILL}, stop=True).message
    assert ended(tmp_path, {0: -signal.SIGTERM}).exit_code == 143


@pytest.mark.rule("L5")
def test_message_opens_with_the_host_and_fits(tmp_path: Path) -> None:
    ending = LastWords(exit_code=70, message="错误 " * 5000, hint="h" * 5000, rank=3, step=9, metrics={"loss": 1.0})
    content = launch_ending.message_of(ending)
    assert len(content) <= 4096
    message = TerminationMessage.parse(content.decode())
    assert message is not None
    assert (message.exit_code, message.rank, message.step, message.outcome) == (70, 3, 9, "InternalError")
    assert message.message.startswith(f"{os.uname().nodename}: ")


def test_every_error_has_its_own_code() -> None:
    codes = [error.exit_code for error in StageError.__subclasses__()]
    assert len(codes) == len(set(codes)) == 13


def test_message_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "termination-log"
    target.write_text("x" * 4096)
    launch_ending.write_message(target, b"{}")
    assert target.read_bytes() == b"{}"
    assert list(tmp_path.iterdir()) == [target]


def test_a_mounted_file_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "termination-log"
    target.write_text("x" * 99)

    def busy(self: Path, _: Path) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "replace", busy)
    launch_ending.write_message(target, b"{}")
    assert target.read_bytes() == b"{}"


def test_a_lost_message_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    launch_ending.write_message(tmp_path / "no" / "directory", b'{"exitCode":70}')
    assert '"exitCode":70' in caplog.text


@pytest.mark.parametrize(("name", "content", "count"), [
    ("memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n", 2),
    ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n", 5),
    ("nothing", "", 0),
])  # fmt: skip
def test_kernel_counters_of_both_cgroup_versions(tmp_path: Path, name: str, content: str, count: int) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    assert launch_ending.count_oom_kills(tmp_path) == count


def test_half_a_report_is_none(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    exchange.write(0, LastWords(exit_code=70))
    text = (tmp_path / "report-0.json").read_text()
    json.loads(text)
    (tmp_path / "report-0.json").write_text(text[:-5])
    assert exchange.read(0) is None
