"""The embedded cluster in motion: store, Job runner, kubelet and reconciler around one job, driven by one loop.

A `Workdir` comes in; the job's objects change in it until it is over, suspended or refused. The loop reconciles, then waits for a
change, the requeue time or the next progress: nothing between two stages waits for a clock.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlhf_api import names
from rlhf_api.status import JobStatus, StagePhase
from rlhf_operator.core.model import Settings, open_attempt
from rlhf_operator.core.status import is_over
from rlhf_operator.local.faults import Faults
from rlhf_operator.local.jobs import JobRunner
from rlhf_operator.local.memory import MemoryApi
from rlhf_operator.local.pods import NODE, Kubelet, Node
from rlhf_operator.local.processes import Runtime
from rlhf_operator.local.progress import ProgressReader, Target
from rlhf_operator.local.recorder import LocalRecorder
from rlhf_operator.local.store import Store
from rlhf_operator.local.workdir import Workdir
from rlhf_operator.shell.crash import crash_here
from rlhf_operator.shell.kube import AlreadyExists, Object
from rlhf_operator.shell.reconciler import Reconciler

TICK_SECONDS = 0.1
"""How soon a wish to stop is noticed."""
PROGRESS_SECONDS = 1.0
SETTINGS = Settings(progress_write_seconds=PROGRESS_SECONDS / 2, uid_write_seconds=0.0, is_one_machine=True)
_WAKES = frozenset({"Job", "PersistentVolumeClaim", "Secret", names.KIND_PROFILE})


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class LocalCluster:
    """Everything that moves one job on this machine."""

    def __init__(
        self, workdir: Workdir, runtime: Runtime, claims: Mapping[str, Path], gpus: tuple[str, ...], faults: Faults | None = None
    ) -> None:
        self.workdir = workdir
        self.store = Store(utc_now, workdir.state)
        self.api = MemoryApi(self.store, faults)
        self.runner = JobRunner(self.store, utc_now, admits_queued=True)
        job = workdir.read_job()
        self.key = (job["metadata"]["namespace"], job["metadata"]["name"])
        own = names.claim_name(self.key[1], job["metadata"]["uid"])
        self.kubelet = Kubelet(self.store, utc_now, runtime, Node(workdir.path, {**claims, own: workdir.volume}, gpus))
        self.reconciler = Reconciler(self.api, clock=utc_now, recorder=LocalRecorder(self.store), settings=SETTINGS, crash_here=crash_here)
        self._progress = ProgressReader(utc_now)
        self._is_dirty = True

    async def run(self, on_change: Callable[[Object], None], on_tick: Callable[["LocalCluster"], None]) -> Object:
        """Drive the job until it is over, suspended or refused, and no pod is left. `on_tick` may change the spec."""
        self._add_node()
        self.kubelet.adopt()
        poller = asyncio.create_task(self._poll(), name="progress")
        try:
            await self._drive(on_change, on_tick)
            await self._settle()
        finally:
            poller.cancel()
            await self.kubelet.close()
        return self.job()

    def job(self) -> Object:
        """The RLHFJob now."""
        body = self.store.get(names.KIND_JOB, *self.key)
        body["metadata"].pop("managedFields", None)
        return body

    def change_spec(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Edit the job's spec, as a user does with kubectl."""
        body = self.store.get(names.KIND_JOB, *self.key)
        change(body["spec"])
        self.store.update(names.KIND_JOB, self.key[0], body)
        self._is_dirty = True

    async def _drive(self, on_change: Callable[[Object], None], on_tick: Callable[["LocalCluster"], None]) -> None:
        next_look, told, seen = 0.0, "", self.store.version
        while True:
            on_tick(self)
            self._pump()
            if self._is_dirty or time.monotonic() >= next_look:
                self._is_dirty = False
                requeue = await self.reconciler.reconcile(self.key)
                next_look = time.monotonic() + (requeue if requeue is not None else float("inf"))
            job = self.job()
            if job["metadata"]["resourceVersion"] != told:
                told = job["metadata"]["resourceVersion"]
                on_change(job)
            self._note_changes(seen)
            seen = self.store.version
            if self._is_dirty:
                continue
            if is_at_rest(job):
                return
            await self._wait(seen, min(TICK_SECONDS, max(0.0, next_look - time.monotonic())))

    async def _settle(self) -> None:
        """Pods that are still ending are waited for: nothing of a job outlives `rlhf run`."""
        while self.kubelet.is_busy():
            self._pump()
            await self._wait(self.store.version, TICK_SECONDS)
        self._pump()

    def _pump(self) -> None:
        """Let the controllers act until nothing changes any more."""
        version = -1
        while version != self.store.version:
            version = self.store.version
            self.runner.sync()
            self.kubelet.sync()

    def _note_changes(self, version: int) -> None:
        """What wakes the operator in a cluster wakes it here; its own status writes do not."""
        if any(event.object["kind"] in _WAKES for event in self.store.events_since(version)):
            self._is_dirty = True

    async def _wait(self, version: int, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.store.wait_for_change(version)
        except TimeoutError:
            return

    async def _poll(self) -> None:
        """Ask pod 0 of every running attempt, once a second."""
        while True:
            job = self.job()
            for target in self._targets(job):
                reading = await self._progress.read(job["metadata"]["uid"], target)
                self.reconciler.report_progress(self.key, target.stage, reading)
                self._is_dirty = self._is_dirty or reading is not None
            await asyncio.sleep(PROGRESS_SECONDS)

    def _targets(self, job: Object) -> list[Target]:
        found = []
        for stage in JobStatus.from_wire(job.get("status", {})).stages:
            attempt = open_attempt(stage)
            if attempt is None or stage.phase is not StagePhase.RUNNING:
                continue
            selector = f"{names.LABEL_STAGE}={stage.name},{names.LABEL_ATTEMPT}={attempt.attempt},{names.LABEL_COMPLETION_INDEX}=0"
            ports = [self.kubelet.progress_port(pod["metadata"]["uid"]) for pod in self.store.find("Pod", self.key[0], selector)]
            found += [Target(stage.name, attempt.attempt, port) for port in ports if port]
        return found

    def _add_node(self) -> None:
        try:
            self.store.create("Node", "", {"metadata": {"name": NODE}})
        except AlreadyExists:
            return
        self.store.update_status("Node", "", NODE, {"conditions": [{"type": "Ready", "status": "True"}]})


def is_at_rest(job: Object) -> bool:
    """The job is over, suspended, or refused with nothing running: only somebody's change moves it on."""
    status = JobStatus.from_wire(job.get("status", {}))
    conditions = {condition.type: condition.status == "True" for condition in status.conditions}
    if status.observed_generation != job["metadata"]["generation"]:
        return False
    if is_over(status) or conditions.get(names.CONDITION_SUSPENDED, False):
        return True
    return not conditions.get(names.CONDITION_ACCEPTED, True) and not any(map(open_attempt, status.stages))
