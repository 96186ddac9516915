"""One pod as a group of local processes: started, asked to stop, killed, and found again after `rlhf` itself was killed.

A container ends with its first process and takes all others along. Process groups cannot imitate that, because torch starts each
worker in a session of its own; so every process of a pod carries the pod's uid in its environment, and /proc is searched for it.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rlhf_api import names

POD_UID = "RLHF_POD_UID"
"""Environment variable that marks a process as part of a pod. No pod of a cluster has it."""
LAUNCHER = (sys.executable, "-m", "rlhf_trainer.launch")
_LEFTOVER_GRACE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class PodProcess:
    """What to start: everything of a pod that a process can see."""

    uid: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    log: Path


class Running(Protocol):
    """A started pod."""

    async def wait(self) -> int:
        """Exit code of the first process; 128 + n when signal n ended it. All other processes of the pod are gone then."""
        ...

    def terminate(self) -> None:
        """Ask the first process to stop, as the kubelet does before the grace period."""
        ...

    def kill(self) -> None:
        """End every process of the pod."""
        ...


class Runtime(Protocol):
    """Starts pods. Tests give a scripted one."""

    async def start(self, pod: PodProcess) -> Running:
        """Start the pod's first process."""
        ...

    def end_leftovers(self, pod_uid: str) -> bool:
        """End what an earlier `rlhf` left running of a pod. True when there was something."""
        ...


class LocalRuntime:
    """Real processes. `command` replaces the trainer's launcher in tests; the launcher's arguments follow it."""

    def __init__(self, command: Sequence[str] = LAUNCHER) -> None:
        self._command = tuple(command)

    async def start(self, pod: PodProcess) -> Running:
        """Start the launcher in a session of its own, with its output in the pod's log file."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PET_", "RLHF_"))}
        pod.log.parent.mkdir(parents=True, exist_ok=True)
        with pod.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                *pod.arguments,
                env={**inherited, **pod.environment, POD_UID: pod.uid},
                cwd=pod.directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal reaches rlhf, which suspends the job; not the pods
            )
        return _LocalProcess(pod.uid, process)

    def end_leftovers(self, pod_uid: str) -> bool:
        """SIGTERM, so that a checkpoint is saved when that is quick, then SIGKILL."""
        found = _members(pod_uid)
        _signal(found, signal.SIGTERM)
        deadline = time.monotonic() + _LEFTOVER_GRACE_SECONDS
        while _members(pod_uid) and time.monotonic() < deadline:
            time.sleep(0.02)
        _kill_all(pod_uid)
        return bool(found)


class _LocalProcess:
    def __init__(self, pod_uid: str, process: asyncio.subprocess.Process) -> None:
        self._pod_uid = pod_uid
        self._process = process

    async def wait(self) -> int:
        code = await self._process.wait()
        _kill_all(self._pod_uid)
        return code if code >= 0 else 128 - code

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)
        _kill_all(self._pod_uid)

    def _send(self, number: signal.Signals) -> None:
        """Not through Popen, which looks first and so may take the exit code away from asyncio (CPython issue 87744)."""
        if self._process.returncode is None:
            _signal([self._process.pid], number)


def launcher_arguments(files: Path, workspace: Path, secrets: Path, claims: Mapping[str, Path], progress_port: int) -> list[str]:
    """Arguments that replace the container's paths (trainer.md L9)."""
    arguments = ["--run-file", str(files / "run.json"), "--secrets", str(secrets), "--workspace", str(workspace)]
    for name, directory in sorted(claims.items()):
        arguments += ["--claim", f"{name}={directory}"]
    return [*arguments, "--termination-log", str(files / "termination-log"), "--progress-port", str(progress_port)]


def environment_of(pod: Mapping[str, object], master_port: int, gpus: Sequence[str]) -> dict[str, str]:
    """The trainer container's environment: fields resolved, host names and ports replaced by local ones."""
    spec, metadata = pod["spec"], pod["metadata"]
    assert isinstance(spec, dict)
    assert isinstance(metadata, dict)
    environment = {}
    for variable in spec["containers"][0].get("env", []):
        source = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        label = source.removeprefix("metadata.labels['").removesuffix("']")
        environment[variable["name"]] = metadata["labels"][label] if source else variable["value"]
    environment[names.ENV_MASTER_ADDRESS] = "127.0.0.1"
    environment[names.ENV_MASTER_PORT] = str(master_port)
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return environment


def _members(pod_uid: str) -> list[int]:
    """Living processes of a pod; zombies have no environment left and do not count."""
    wanted = f"{POD_UID}={pod_uid}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with suppress(OSError):  # it ended meanwhile, or belongs to somebody else
            if wanted in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                found.append(int(entry))
    return found


def _signal(processes: Sequence[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def _kill_all(pod_uid: str) -> None:
    """Repeated, because a process may fork between the search and the signal."""
    deadline = time.monotonic() + 2.0
    while (found := _members(pod_uid)) and time.monotonic() < deadline:
        _signal(found, signal.SIGKILL)
        time.sleep(0.005)
