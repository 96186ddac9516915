"""How an attempt ended on this node: whose failure it was, the pod's exit code, and its last words (rules L2 and L5)."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rlhf_api.outcome import CheckpointRef, ExitCode, TerminationMessage, outcome_of
from rlhf_trainer.errors import StageError
from rlhf_trainer.exchange import Exchange, LastWords
from rlhf_trainer.launch_options import Place
from rlhf_trainer.launch_watch import Stall

log = logging.getLogger(__name__)

_CGROUP = Path("/sys/fs/cgroup")
_ENDED_ON_REQUEST = {
    -signal.SIGTERM: "stopped on request before the first step",
    -signal.SIGKILL: "asked to stop, but not done within the grace period: what came after the last checkpoint is lost",
}


def of_workers(codes: Mapping[int, int], exchange: Exchange, place: Place, *, was_asked_to_stop: bool, oom_kills: int) -> LastWords:
    """The ending of the worker to blame, or of the first worker when all succeeded. `codes` are by local rank."""
    pulses = exchange.pulses(place.num_local).read()
    endings: dict[int, LastWords] = {}
    for local_rank, code in codes.items():
        words = exchange.read(local_rank)
        if words is None or words.exit_code != code:
            words = _without_report(local_rank, code, was_asked_to_stop, oom_kills)
            words = replace(words, rank=place.first_rank + local_rank, step=pulses[local_rank].step)
        endings[local_rank] = words
    failures = [ending for ending in endings.values() if ending.exit_code != 0]
    if failures:
        return min(failures, key=_blame)
    return endings[0]


def of_error(error: StageError) -> LastWords:
    """The ending of a launcher that could not even start its workers."""
    return LastWords(exit_code=int(error.exit_code), message=error.message, hint=error.hint)


def of_stall(stall: Stall, place: Place) -> LastWords:
    """The ending of workers that the watchdog ended: the silent one is named."""
    return LastWords(exit_code=int(ExitCode.STALLED), message=stall.story, rank=place.first_rank + stall.local_rank, step=stall.pulse.step)


def message_of(ending: LastWords) -> bytes:
    """The termination message: at most 4096 bytes, and its text opens with the host."""
    message = TerminationMessage(
        outcome=outcome_of(ending.exit_code),
        exit_code=ending.exit_code,
        message=f"{socket.gethostname()}: {ending.message}" if ending.exit_code else ending.message,
        hint=ending.hint,
        rank=ending.rank,
        step=ending.step,
        checkpoint=CheckpointRef.from_wire(ending.checkpoint) if ending.checkpoint else None,
        resumed_from=CheckpointRef.from_wire(ending.resumed_from) if ending.resumed_from else None,
        output_digest=ending.output_digest,
        metrics=dict(ending.metrics),
    )
    return message.encode()


def write_message(path: Path, content: bytes) -> None:
    """Leave the termination message. By rename, or, where the file is a mount as in a pod, by one write. Never an exception."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        try:
            path.write_bytes(content)
        except OSError as error:
            log.error("%s: the termination message is lost: %s: %s", path, error.strerror, content.decode())


def count_oom_kills(cgroup: Path = _CGROUP) -> int:
    """How often the kernel killed for memory in this cgroup, version 2 or 1. 0 when it cannot be read."""
    for path in (cgroup / "memory.events", cgroup / "memory" / "memory.oom_control"):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0


def _without_report(local_rank: int, code: int, was_asked_to_stop: bool, oom_kills: int) -> LastWords:
    who = f"local worker {local_rank}"
    if code >= 0:
        return LastWords(exit_code=code, message=f"{who} exited with code {code} and left no report")
    if was_asked_to_stop and code in _ENDED_ON_REQUEST:
        return LastWords(exit_code=int(ExitCode.PREEMPTED), message=_ENDED_ON_REQUEST[code])
    if code == -signal.SIGKILL and oom_kills:
        return LastWords(exit_code=int(ExitCode.HOST_OUT_OF_MEMORY), message=f"{who} was killed for memory")
    return LastWords(exit_code=128 - code, message=f"{who} was ended by {signal.Signals(-code).name}")


def _blame(ending: LastWords) -> tuple[int, float]:
    """Smallest = first to blame. A lost peer and a forwarded SIGTERM are consequences: they never hide a local cause."""
    if ending.exit_code in (ExitCode.COMMUNICATION, 128 + signal.SIGTERM):
        return 2, ending.time_seconds
    return int(ending.exit_code == ExitCode.PREEMPTED), ending.time_seconds
