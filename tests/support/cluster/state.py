"""A control plane that stays up between commands: which processes belong to it, so that `down` ends those and no others."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from tests.support.eventually import eventually


def write(path: Path, pids: Mapping[str, int]) -> None:
    """Remember these processes, each with its start time: a number alone may belong to another process later."""
    found = {name: {"pid": pid, "started": _start_time(pid)} for name, pid in pids.items()}
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")


def living(path: Path) -> dict[str, int]:
    """The remembered processes that still run."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: entry["pid"] for name, entry in found.items() if _start_time(entry["pid"]) == entry["started"]}


def end(path: Path) -> list[str]:
    """SIGKILL every remembered process and wait until they are gone. Returns their names."""
    ended = living(path)
    for pid in ended.values():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not living(path), what="the cluster's processes are gone")
    return list(ended)


def _start_time(pid: int) -> int | None:
    """Clock ticks since boot at which a process started; None when there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])
