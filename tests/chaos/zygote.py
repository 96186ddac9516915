"""Starts workers of stages in a second instead of ten: this process has imported torch and transformers, and forks.

A forked worker is a process like any other: it runs `rlhf_trainer.worker.main` on a run.json, takes signals, is killed by `kill -9`, and ends
with the exit codes of the contract. Two of them form a gang over gloo.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SECONDS = 600.0
"""A worker that takes longer hangs: it is killed, and its code is that of SIGKILL."""


def warm(*, colossal: bool) -> None:
    """Import what workers would import. No thread may be started: a fork would lose it."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "HF_DATASETS_OFFLINE": "1"}
    import torch
    from transformers import AutoModelForCausalLM, LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401

    from rlhf_trainer.stages import ppo, reward, sft  # noqa: F401

    torch.set_num_threads(1)
    if colossal:
        import colossalai.booster.plugin  # noqa: F401


@dataclass(frozen=True, slots=True)
class Ended:
    """How a gang of workers ended: exit codes by rank, -s for signal s, and what they said."""

    codes: tuple[int, ...]
    log: str


def run(run_file: Path, workspace: Path, *, world_size: int = 1, prepare: Callable[[int], None] = lambda _: None) -> Ended:
    """Run all workers of an attempt to their end. `prepare(rank)` is called in each before the stage begins."""
    port = _free_port()
    logs = [run_file.with_suffix(f".rank-{rank}.log") for rank in range(world_size)]
    pids = [_fork(run_file, workspace, rank, world_size, port, prepare, log) for rank, log in enumerate(logs)]
    codes = _wait(pids)
    return Ended(codes, "\n".join(log.read_text(errors="replace")[-4000:] for log in logs))


def in_child(work: Callable[[], object], log: Path) -> Ended:
    """Run a function in a forked process of its own."""
    pid = os.fork()
    if pid == 0:
        _become(log, work)
    return Ended(_wait([pid]), log.read_text(errors="replace")[-4000:])


def must(work: Callable[[], object], log: Path) -> None:
    """Run a function in a forked process, which must succeed. This process itself never trains: on a GPU it could not fork afterwards."""
    ended = in_child(work, log)
    assert ended.codes == (0,), ended.log


def _fork(run_file: Path, workspace: Path, rank: int, world_size: int, port: int, prepare: Callable[[int], None], log: Path) -> int:
    def work() -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        from rlhf_trainer import worker

        prepare(rank)
        arguments = ["--run-file", str(run_file), "--workspace", str(workspace), "--secrets", str(workspace / "secrets")]
        worker._leave(worker.main([*arguments, "--progress-port", "0"]))

    pid = os.fork()
    if pid == 0:
        _become(log, work)
    return pid


def _become(log: Path, work: Callable[[], object]) -> None:
    """The child: its output goes to its log, and it never returns into the parent's code."""
    code = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        work()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(pids: list[int]) -> tuple[int, ...]:
    """Codes in the order of `pids`. When one ends badly, its peers get a moment and are then killed, as a launcher would do."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + SECONDS
    while len(codes) < len(pids):
        for pid in [pid for pid in pids if pid not in codes]:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                codes[pid] = os.waitstatus_to_exitcode(status)
                if codes[pid] < 0:
                    deadline = min(deadline, time.monotonic() + 10)
        if time.monotonic() > deadline:
            for pid in [pid for pid in pids if pid not in codes]:
                os.kill(pid, signal.SIGKILL)
        if len(codes) < len(pids):
            time.sleep(0.01)  # a poll, as the elastic agent's
    return tuple(codes[pid] for pid in pids)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
