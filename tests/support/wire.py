"""A real operator process's inside against the in-process API server: real kopf, real client, one event loop, seconds."""

import asyncio
import copy
import functools
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from rlhf_api import names
from rlhf_operator.shell.kube import NotFound, Object
from rlhf_operator.shell.process import OperatorProcess
from rlhf_operator.shell.settings import Options
from tests.support.api_server import ApiServer
from tests.support.rig import PROFILE, one_stage

T = TypeVar("T")


class Wire:
    """One API server, and the operators that were started against it."""

    def __init__(self, directory: Path) -> None:
        self.server = ApiServer()
        self.directory = directory
        self.operators: dict[asyncio.Task[int], OperatorProcess] = {}
        self.processes: list[asyncio.subprocess.Process] = []

    async def start_operator(self, **options: Any) -> asyncio.Task[int]:
        """Start an operator; returns its task, which ends with its exit code."""
        kubeconfig = self.server.kubeconfig(self.directory / "kubeconfig", sorted(self.server.tokens)[0])
        process = OperatorProcess(Options(kubeconfig=kubeconfig, port=0, **{"leader_election": False, **options}))
        task = asyncio.create_task(process.run(), name="operator")
        self.operators[task] = process
        return task

    async def start_process(self, *options: str) -> asyncio.subprocess.Process:
        """`python -m rlhf_operator run`, as a user starts it; returns when it answers for its health."""
        kubeconfig = self.server.kubeconfig(self.directory / "kubeconfig", sorted(self.server.tokens)[0])
        command = [sys.executable, "-m", "rlhf_operator", "run", "--kubeconfig", str(kubeconfig), "--port", "0", *options]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        self.processes.append(process)
        assert process.stderr is not None
        async with asyncio.timeout(60):
            assert b"health and metrics" in await process.stderr.readline()
        return process

    async def until_watching(self) -> None:
        """Return when the operator has opened its three watches."""
        await eventually(lambda: {"RLHFJob", "Job", names.KIND_PROFILE} <= set(self.server.watches.values()), "open watches")

    async def stop(self, task: asyncio.Task[int]) -> int:
        """SIGTERM."""
        self.operators[task]._stop.set()
        async with asyncio.timeout(30):
            return await task

    def add_profile(self, **changes: Any) -> None:
        """The profile of the jobs."""
        self.server.store.create(names.KIND_PROFILE, "", {"metadata": {"name": "default"}, "spec": {**PROFILE, **changes}})

    def add_job(self, name: str = "chat", namespace: str = "team-a", **spec: Any) -> Object:
        """`kubectl apply` of a job with one stage."""
        body = {"metadata": {"name": name}, "spec": {"profile": "default", **copy.deepcopy(one_stage(**spec))}}
        return self.server.store.create(names.KIND_JOB, namespace, body)

    def find(self, kind: str, name: str, namespace: str = "team-a") -> Object | None:
        """An object, if it is there."""
        try:
            return self.server.store.get(kind, namespace, name)
        except NotFound:
            return None

    def status(self, name: str = "chat", namespace: str = "team-a") -> Mapping[str, Any]:
        """The status of a job; empty before the first write."""
        body = self.find(names.KIND_JOB, name, namespace)
        return body.get("status", {}) if body else {}

    def condition(self, kind: str, name: str = "chat") -> str:
        """`Status/Reason` of a condition."""
        found = [c for c in self.status(name).get("conditions", ()) if c["type"] == kind]
        return f"{found[0]['status']}/{found[0]['reason']}" if found else ""

    def set_job_status(self, name: str, **status: Any) -> None:
        """What the Job controller writes."""
        self.server.store.update_status("Job", "team-a", name, status)


@asynccontextmanager
async def a_wire(directory: Path) -> AsyncIterator[Wire]:
    """A wire that is taken down at the end, whatever happened."""
    wire = Wire(directory)
    await wire.server.start()
    try:
        yield wire
    finally:
        for task in list(wire.operators):
            if not task.done():
                await wire.stop(task)
        for process in wire.processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
        await wire.server.stop()


async def eventually(condition: Callable[[], T], what: str = "the condition", deadline_seconds: float = 15.0) -> T:
    """The first true value that the condition returns; the loop goes on meanwhile."""
    end = asyncio.get_running_loop().time() + deadline_seconds
    while True:
        value = condition()
        if value:
            return value
        if asyncio.get_running_loop().time() > end:
            raise AssertionError(f"{what} did not come true within {deadline_seconds} s; last value: {value!r}")
        await asyncio.sleep(0.01)


def on_the_wire(scenario: Callable[[Wire], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """A test of an async scenario, with a wire of its own."""

    @functools.wraps(scenario)
    def test(tmp_path: Path) -> None:
        async def run() -> None:
            async with a_wire(tmp_path) as wire:
                await scenario(wire)

        asyncio.run(run())

    del test.__wrapped__  # pytest would look for a fixture `wire`
    return test
