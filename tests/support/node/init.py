"""Process 1 of the node: private mounts, the node's programs, and an orderly end. Run as a file, with a plan as its only argument.

The node has its own process, mount and network namespaces, so its end takes every pod, mount and device with it, whatever went wrong.
SIGTERM ends the programs in turn and removes the containers, so that containerd's next start finds images and nothing else.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

_PATIENCE_SECONDS = 20.0
_POLL_SECONDS = 0.05


def main(plan_file: str) -> int:
    """Start everything, wait for SIGTERM, end everything."""
    plan: dict[str, Any] = json.loads(Path(plan_file).read_text(encoding="utf-8"))
    stops: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stops.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    Path(plan["pid_file"]).write_text(os.readlink("/proc/self"), encoding="utf-8")  # seen from outside: /proc is still the machine's
    _mount(plan)
    running: dict[str, int] = {}
    for name, command in plan["programs"].items():
        running[name] = _start(command, plan)
        _wait_for(lambda: bool(stops) or Path(plan["socket"]).exists())  # the kubelet ends when it finds no containerd
    while not stops:
        _reap()
        time.sleep(_POLL_SECONDS)
    _end(running, plan)
    return 0


def _mount(plan: dict[str, Any]) -> None:
    for command in (
        ["mount", "--make-rshared", "/"],  # volumes are mounted by the kubelet and must be seen by containerd
        ["mount", "-t", "proc", "proc", "/proc"],
        ["mount", "-t", "tmpfs", "tmpfs", "/run"],
        *(["mount", "--bind", source, target] for target, source in plan["binds"].items()),
    ):
        subprocess.run(command, check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="utf-8")


def _start(command: list[str], plan: dict[str, Any]) -> int:
    with (Path(plan["logs"]) / f"{Path(command[0]).name}.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "PATH": plan["path"]}, start_new_session=True
        )
    return process.pid


def _reap() -> set[int]:
    """Collect children that have ended, also those that others left behind: that is what process 1 is for."""
    ended: set[int] = set()
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.add(pid)


def _end(running: dict[str, int], plan: dict[str, Any]) -> None:
    """Last started, first ended. containerd is the first: it must still be there to remove the containers."""
    for name in reversed(list(running)):
        if name == "containerd":
            _remove_containers(plan["ctr"])
        _terminate(running[name])


def _terminate(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    _wait_for(lambda: not Path(f"/proc/{pid}").exists())


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while not condition() and time.monotonic() < end:
        _reap()
        time.sleep(_POLL_SECONDS)


def _remove_containers(ctr: list[str]) -> None:
    for task in _listed([*ctr, "tasks", "list", "-q"]):
        _quietly([*ctr, "tasks", "delete", "--force", task])
    for container in _listed([*ctr, "containers", "list", "-q"]):
        _quietly([*ctr, "containers", "delete", container])


def _listed(command: list[str]) -> list[str]:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout.split()


def _quietly(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
