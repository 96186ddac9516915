"""The launcher with real processes: exit codes, signals, the watchdog, the gang, last words (rules L1 to L9)."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rlhf_api.run_config import run_sha256
from tests.support.eventually import eventually
from tests.support.runs import run_wire

REPOSITORY = Path(__file__).parents[2]


@dataclass
class Launcher:
    """Starts launchers of fake stages, and leaves none behind."""

    directory: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(
        self, behaviour: str, *, workers: int = 1, nodes: int = 1, node: int = 0, port: int = 0, kind: str = "Prepare", **changes: Any
    ) -> subprocess.Popen[str]:
        gang = run_wire()["gang"] | {"nodes": nodes, "processesPerNode": workers, "worldSize": nodes * workers}
        # A Prepare worker loads no torch: most of what a launcher does is the same for all stages.
        stage: dict[str, Any] = {"stage": {"name": "sft", "type": kind}, "gang": gang}
        stage |= {"config": {"models": [], "datasets": []}} if kind == "Prepare" else {}
        content = json.dumps(run_wire(**stage | changes)).encode()
        run_file = self.directory / "run.json"
        run_file.write_bytes(content)
        # The session is offline already (conftest.py): the launcher has to say so itself.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
            "FAKE_STAGE": behaviour, "PET_NNODES": str(nodes), "PET_NPROC_PER_NODE": str(workers), "PET_NODE_RANK": str(node),
            "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port), "RLHF_RUN_SHA256": run_sha256(content),
            "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        arguments = [sys.executable, "-m", "tests.support.fake_launch", "--run-file", run_file, "--workspace", self.directory / "volume"]
        arguments += ["--termination-log", self.directory / f"last-words-{node}", "--progress-port", "0"]
        process = subprocess.Popen(list(map(str, arguments)), cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def run(self, behaviour: str, **arguments: Any) -> tuple[int, dict[str, Any]]:
        code = self.start(behaviour, **arguments).wait(timeout=200)
        return code, self.last_words()

    def last_words(self, node: int = 0) -> dict[str, Any]:
        words: dict[str, Any] = json.loads((self.directory / f"last-words-{node}").read_bytes())
        return words

    @property
    def attempt(self) -> Path:
        return self.directory / "volume" / "uid-1" / "stages" / "sft" / "r1"

    def wait_until_running(self, num_workers: int = 1) -> None:
        eventually(lambda: all((self.attempt / f"running-{rank}").exists() for rank in range(num_workers)), 120)


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path)
    yield launcher
    for process in launcher.started:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


@pytest.mark.parametrize(("behaviour", "code", "outcome"), [
    pytest.param("error:ConfigError", 64, "ConfigInvalid", id="settings"),
    pytest.param("error:DataError", 65, "DataInvalid", id="data"),
    pytest.param("error:InputError", 66, "InputInvalid", id="inputs"),
    pytest.param("error:GPUOutOfMemory", 71, "GPUOutOfMemory", id="GPU memory"),
    pytest.param("error:CommunicationError", 73, "Communication", id="a lost peer"),
    pytest.param("error:Diverged", 76, "Diverged", id="NaN"),
    pytest.param("error:GateFailed", 77, "GateFailed", id="a missed gate"),
    pytest.param("builtin:ENOSPC", 74, "Storage", id="a full volume"),
    pytest.param("builtin:MemoryError", 72, "HostOutOfMemory", id="host memory"),
    pytest.param("builtin:ValueError", 70, "InternalError", id="a defect"),
    pytest.param("exit:2", 2, "AppError", id="a code that nobody chose arrives unchanged"),
    pytest.param("signal:SIGKILL", 137, "HostOutOfMemory", id="killed"),
    pytest.param("signal:SIGSEGV", 139, "AppError", id="crashed"),
])  # fmt: skip
@pytest.mark.rule("L5")
def test_exit_code_and_last_words(launcher: Launcher, behaviour: str, code: int, outcome: str) -> None:
    assert launcher.run(behaviour) == (code, launcher.last_words())
    words = launcher.last_words()
    assert (words["outcome"], words["exitCode"]) == (outcome, code)
    assert words["message"].startswith(socket.gethostname())


def test_success_hands_on_digest_step_and_metrics(launcher: Launcher) -> None:
    code, words = launcher.run("succeed")
    assert code == 0
    assert words["outputDigest"] == "sha256:" + "0" * 64
    assert (words["step"], words["metrics"]) == (3, {"loss": 0.5})


@pytest.mark.rule("L8")
def test_single_worker_needs_no_torch_in_the_launcher() -> None:
    script = "import sys, rlhf_trainer.launch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.rule("S3")
def test_workers_are_offline(launcher: Launcher) -> None:
    assert launcher.run("environment", kind="SFT")[0] == 0
    assert (launcher.attempt / "environment").read_text().splitlines() == ["HF_HUB_OFFLINE=1", "OMP_NUM_THREADS=1"]


def test_a_changed_run_file_is_refused(launcher: Launcher) -> None:
    process = launcher.start("succeed")
    process.wait(timeout=60)
    environment = os.environ | {"RLHF_RUN_SHA256": "0" * 64, "PET_NPROC_PER_NODE": "1"}
    again = subprocess.run([*map(str, process.args)], cwd=REPOSITORY, env=environment, check=False, capture_output=True)  # type: ignore[union-attr]
    assert again.returncode == 64
    assert "RLHF_RUN_SHA256" in launcher.last_words()["message"]


def test_unwritable_volume_is_a_storage_error(launcher: Launcher) -> None:
    launcher.attempt.parent.mkdir(parents=True)
    launcher.attempt.write_text("a file where the attempt's directory should be")
    assert launcher.run("succeed")[0] == 74


def test_sigterm_lets_a_slow_save_finish(launcher: Launcher) -> None:
    process = launcher.start("stop:3")
    launcher.wait_until_running()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert (launcher.attempt / "saved-0").exists()
    assert launcher.last_words()["outcome"] == "Preempted"


def test_grace_period_ends_a_save_that_is_too_slow(launcher: Launcher) -> None:
    deadlines = {"startupSeconds": 60, "progressSeconds": 60, "shutdownSeconds": 1}
    process = launcher.start("stop:600", deadlines=deadlines)
    launcher.wait_until_running()
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert time.monotonic() - began < 30
    assert "grace period" in launcher.last_words()["message"]


@pytest.mark.rule("L7")
def test_silent_worker_is_dumped_and_ended(launcher: Launcher) -> None:
    process = launcher.start("hang:0", deadlines={"startupSeconds": 60, "progressSeconds": 10, "shutdownSeconds": 5})
    _, errors = process.communicate(timeout=60)
    words = launcher.last_words()
    assert process.returncode == words["exitCode"] == 78
    assert "finished nothing" in words["message"]
    assert "fake_worker.py" in words["message"]  # where it hangs
    assert "[0] Thread" in errors or "[0] Current thread" in errors


def test_worker_dies_with_a_killed_launcher(launcher: Launcher) -> None:
    process = launcher.start("stop:0")
    launcher.wait_until_running()
    children = _children(process.pid)
    assert len(children) == 1
    process.kill()
    process.wait()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() and _is_alive(pid) for pid in children), 10)


def test_gang_of_two_on_one_node_meets(launcher: Launcher) -> None:
    code, words = launcher.run("meet", workers=2, kind="SFT")
    assert (code, words["step"]) == (0, 2)


@pytest.mark.parametrize(("behaviour", "code"), [
    pytest.param("exit:2", 2, id="a code that nobody chose"),
    pytest.param("signal:SIGKILL", 137, id="killed"),
])  # fmt: skip
@pytest.mark.rule("L1")
def test_exit_codes_of_a_gang_arrive_unchanged(launcher: Launcher, behaviour: str, code: int) -> None:
    assert launcher.run(behaviour, workers=2)[0] == code


@pytest.mark.mutant("L1", of="plain torchrun")
def test_torchrun_hides_what_a_worker_said(launcher: Launcher) -> None:
    """The check of the test above, on what most trainers start their workers with."""
    launcher.run("exit:2")  # writes run.json
    arguments = ["--run-file", launcher.directory / "run.json", "--workspace", launcher.directory / "volume"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "tests.support.fake_worker"]
    environment = os.environ | {"FAKE_STAGE": "exit:2", "GLOO_SOCKET_IFNAME": "lo"}
    ended = subprocess.run([*command, *map(str, arguments)], cwd=REPOSITORY, env=environment, check=False, capture_output=True)
    assert ended.returncode == 1
    assert b"exitcode  : 2" in ended.stderr


@pytest.mark.rule("L7")
def test_a_hung_rank_of_a_gang_is_named_with_its_stack(launcher: Launcher) -> None:
    deadlines = {"startupSeconds": 120, "progressSeconds": 15, "shutdownSeconds": 5}
    code, words = launcher.run("hang:1", workers=2, deadlines=deadlines)
    assert code == words["exitCode"] == 78
    assert "local worker 1 finished nothing" in words["message"]
    assert "fake_worker.py" in words["message"]
    assert "in hang" in words["message"]


@pytest.mark.rule("L2")
def test_a_lost_peer_does_not_hide_the_local_cause(launcher: Launcher) -> None:
    code, words = launcher.run("fail:1", workers=2, kind="SFT")
    assert (code, words["rank"]) == (76, 1)


@pytest.mark.rule("L3")
def test_sigterm_to_a_gang_lets_the_first_worker_finish_its_save(launcher: Launcher) -> None:
    """The second worker leaves at once: torch's agent then closes the others, and would not wait for a save of three seconds."""
    process = launcher.start("stop:3", workers=2)
    launcher.wait_until_running(2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert (launcher.attempt / "saved-0").exists()
    assert (launcher.attempt / "saved-1").exists()


@pytest.mark.rule("L3")
def test_sigterm_ends_a_worker_that_waits_for_its_peers_at_once(launcher: Launcher) -> None:
    deadlines = {"startupSeconds": 600, "progressSeconds": 600, "shutdownSeconds": 600}
    process = launcher.start("alone", workers=2, kind="SFT", deadlines=deadlines)
    eventually((launcher.directory / "volume" / "meeting").exists, 120)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert "before the first step" in launcher.last_words()["message"]


def test_two_nodes_meet(launcher: Launcher) -> None:
    port = _free_port()
    nodes = [launcher.start("meet", nodes=2, node=node, port=port, kind="SFT") for node in (0, 1)]
    assert [node.wait(timeout=200) for node in nodes] == [0, 0]
    assert launcher.last_words(0)["outputDigest"].startswith("sha256:")
    assert "outputDigest" not in launcher.last_words(1)


@pytest.mark.rule("L2")
def test_a_node_that_lost_its_peer_says_so_and_the_other_one_why(launcher: Launcher) -> None:
    port = _free_port()
    nodes = [launcher.start("fail:1", nodes=2, node=node, port=port, kind="SFT") for node in (0, 1)]
    assert [node.wait(timeout=200) for node in nodes] == [73, 76]
    assert launcher.last_words(0)["outcome"] == "Communication"


@pytest.mark.rule("L6")
def test_missing_node_is_named(launcher: Launcher) -> None:
    deadlines = {"startupSeconds": 3, "progressSeconds": 60, "shutdownSeconds": 5}
    code, words = launcher.run("meet", nodes=3, port=_free_port(), deadlines=deadlines)
    assert code == 73
    assert "missing node ranks 1,2 of 3" in words["message"]


def test_unknown_master_is_retried_until_the_deadline(launcher: Launcher) -> None:
    deadlines = {"startupSeconds": 3, "progressSeconds": 60, "shutdownSeconds": 5}
    code = launcher.start("meet", nodes=2, node=1, port=_free_port(), deadlines=deadlines).wait(timeout=60)
    assert code == 73
    assert "PET_MASTER_ADDR" in launcher.last_words(1)["message"]


def _free_port() -> int:
    """Below the ports that the kernel gives away by itself: the nodes take it only after seconds of imports."""
    while True:
        port = random.randint(20000, 32000)
        with socket.socket() as server, suppress(OSError):
            server.bind(("127.0.0.1", port))
            return port


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
