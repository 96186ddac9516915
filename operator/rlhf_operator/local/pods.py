"""The kubelet of the embedded cluster: runs each Pod of the store as local processes and reports what becomes of it.

Pods come in from `store.py` (created by `jobs.py`); status, exit codes and termination messages go back there. A deleted pod gets
SIGTERM, its grace period, then SIGKILL. There is one node, `local`; GPUs are handed out by number and a pod that finds none waits.
"""

import asyncio
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rlhf_api import names
from rlhf_operator.local import pod_status
from rlhf_operator.local.processes import PodProcess, Running, Runtime, environment_of, launcher_arguments
from rlhf_operator.local.store import Store
from rlhf_operator.shell.kube import NotFound, Object

NODE = "local"
LOST_NODE = "local-lost"
"""Where a test's lost pods are: no Node of that name exists."""
MAX_MESSAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Node:
    """The machine as a node: where pods keep their files, which directories are their claims, which GPUs it has."""

    directory: Path
    """Gets `pods/<name>/` (run.json, termination message) and `logs/<stage>-r<N>/pod-<index>.log`."""
    claims: Mapping[str, Path]
    """Directory of every claim by its name."""
    gpus: Sequence[str] = ()
    gpu_resource: str = "nvidia.com/gpu"


@dataclass(slots=True)
class _Started:
    process: Running | None = None
    gpus: tuple[str, ...] = ()
    progress_port: int = 0
    is_ending: bool = False
    is_killed: bool = False
    is_lost: bool = False
    is_out_of_memory: bool = False
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Kubelet:
    """Runs the pods. `sync` is called whenever something changed; it needs a running event loop."""

    store: Store
    clock: Callable[[], datetime]
    runtime: Runtime
    node: Node
    held: dict[str, str] = field(default_factory=dict)
    """Name of a Job → reason its pods wait for (ErrImagePull, CreateContainerConfigError, Unschedulable): set by tests."""
    _pods: dict[str, _Started] = field(default_factory=dict)
    _ports: dict[str, int] = field(default_factory=dict)

    def sync(self) -> None:
        """Start what waits, end what is deleted."""
        for pod in self._everything():
            if pod["status"]["phase"] in ("Succeeded", "Failed"):
                if "deletionTimestamp" in pod["metadata"]:
                    self._remove(pod)
            elif "deletionTimestamp" in pod["metadata"]:
                self._end(pod)
            elif pod["metadata"]["uid"] not in self._pods:
                self._place(pod)

    def adopt(self) -> list[str]:
        """After a restart: end what an earlier process left running. Its pods count as lost; their names are returned."""
        lost = []
        for pod in self._everything():
            was_running = pod["status"]["phase"] == "Running"
            if pod["status"]["phase"] in ("Succeeded", "Failed") or not (self.runtime.end_leftovers(pod["metadata"]["uid"]) or was_running):
                continue
            message = "the pod ran without supervision after rlhf had ended, and was ended when the job was resumed"
            self._disrupt(pod, "TerminationByKubelet", message)
            self._report_end(pod, 137)
            lost.append(pod["metadata"]["name"])
        return lost

    def progress_port(self, pod_uid: str) -> int | None:
        """Where a pod serves its progress on 127.0.0.1."""
        started = self._pods.get(pod_uid)
        return started.progress_port if started and started.process else None

    def kill_all(self) -> None:
        """End every process at once, without a checkpoint."""
        for started in self._pods.values():
            started.is_killed = True
            self._kill(started)

    async def close(self) -> None:
        """End every process, and return when that is done: nothing outlives the kubelet."""
        self.kill_all()
        tasks = [started.task for started in self._pods.values() if started.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    def is_busy(self) -> bool:
        """True while a started pod has not ended."""
        return any(started.task is not None and not started.task.done() for started in self._pods.values())

    # ---- faults: used by tests only
    def evict(self, name: str, reason: str = "EvictionByEvictionAPI") -> None:
        """What the eviction API does: the condition, then a graceful deletion."""
        pod = self._find(name)
        self._disrupt(pod, reason, "evicted by a test")
        self.store.delete("Pod", pod["metadata"]["namespace"], name)

    def lose_node(self, name: str) -> None:
        """The pod's node stops answering: the pod is marked and deleted, and nothing more is heard of it. It goes on running."""
        pod = self._find(name)
        self._pods[pod["metadata"]["uid"]].is_lost = True
        pod["spec"]["nodeName"] = LOST_NODE
        pod = self.store.update("Pod", pod["metadata"]["namespace"], pod)
        self._disrupt(pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
        self.store.delete("Pod", pod["metadata"]["namespace"], name)

    def return_node(self, name: str) -> None:
        """The lost node is back: the next `sync` ends the pod, which then leaves."""
        self._pods[self._find(name)["metadata"]["uid"]].is_lost = False

    def run_out_of_memory(self, name: str) -> None:
        """The kernel kills the container for memory."""
        started = self._pods[self._find(name)["metadata"]["uid"]]
        started.is_out_of_memory = True
        assert started.process is not None
        started.process.kill()

    # ---- life of a pod
    def _place(self, pod: Object) -> None:
        reason = self.held.get(_job_name(pod), "")
        gpus = self._free_gpus(pod)
        if gpus is None or reason == "Unschedulable":
            self._write(pod, pod_status.unplaced(pod, self.store.now(), self.node.gpu_resource))
            return
        pod["spec"]["nodeName"] = NODE
        pod = self.store.update("Pod", pod["metadata"]["namespace"], pod)
        if reason:
            self._write(pod, pod_status.waiting(pod, self.store.now(), reason))
            return
        started = _Started(gpus=gpus, progress_port=_free_port({other.progress_port for other in self._pods.values()}))
        self._pods[pod["metadata"]["uid"]] = started
        started.task = asyncio.create_task(self._run(pod, started), name=f"pod {pod['metadata']['name']}")

    async def _run(self, pod: Object, started: _Started) -> None:
        """Start, wait, report. An error here would hang the job, so it becomes the pod's failure."""
        try:
            started.process = await self.runtime.start(self._process_of(pod, started))
            code = await self._exit_code(pod, started, started.process)
        except Exception as error:  # the outermost place of a pod: nobody awaits its task before the job is over
            self._report_end(pod, 128, _end_broken(started, error))
            return
        if started.is_lost:
            return  # the node does not answer: nobody learns of this end
        self._report_end(pod, code)

    async def _exit_code(self, pod: Object, started: _Started, process: Running) -> int:
        self._write(pod, pod_status.running(pod, self.store.now()))
        if started.is_killed:  # asked while the process was being created
            process.kill()
        elif started.is_ending:
            process.terminate()
        return await process.wait()

    def _end(self, pod: Object) -> None:
        started = self._pods.get(pod["metadata"]["uid"])
        if started is None:
            self._report_end(pod, 137)  # it never ran
        elif started.is_lost:
            return
        elif started.task is not None and started.task.done():
            self._report_end(pod, 137)  # ended while its node was lost
        elif not started.is_ending:
            started.is_ending = True
            if started.process is not None:
                started.process.terminate()
            grace = pod["metadata"].get("deletionGracePeriodSeconds", 0)
            asyncio.get_running_loop().call_later(grace, self._kill, started)

    def _kill(self, started: _Started) -> None:
        if started.process is not None and started.task is not None and not started.task.done():
            started.process.kill()

    def _process_of(self, pod: Object, started: _Started) -> PodProcess:
        files = self.node.directory / "pods" / pod["metadata"]["name"]
        files.mkdir(parents=True, exist_ok=True)
        (files / "run.json").write_text(pod["metadata"].get("annotations", {}).get(names.ANNOTATION_RUN, "{}"), encoding="utf-8")
        secrets = self.node.directory / "secrets"
        secrets.mkdir(exist_ok=True)
        port = self._ports.setdefault(_job_name(pod), 0) or _free_port()
        self._ports[_job_name(pod)] = port
        mounted = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["spec"]["volumes"]
            if "persistentVolumeClaim" in volume
        }
        workspace = self.node.claims[mounted.pop("work")]
        workspace.mkdir(parents=True, exist_ok=True)
        claims = {claim: self.node.claims[claim] for claim in mounted.values()}
        return PodProcess(
            uid=pod["metadata"]["uid"],
            arguments=launcher_arguments(files, workspace, secrets, claims, started.progress_port),
            environment=environment_of(pod, port, started.gpus),
            directory=files,
            log=log_file(self.node.directory, pod),
        )

    def _free_gpus(self, pod: Object) -> tuple[str, ...] | None:
        """The GPUs a pod gets; None when too few are free."""
        limits = pod["spec"]["containers"][0].get("resources", {}).get("limits", {})
        wanted = int(limits.get(self.node.gpu_resource, "0"))
        taken = {gpu for started in self._pods.values() if started.task and not started.task.done() for gpu in started.gpus}
        free = [gpu for gpu in self.node.gpus if gpu not in taken]
        return tuple(free[:wanted]) if wanted <= len(free) else None

    # ---- reports
    def _report_end(self, pod: Object, code: int, message: str = "") -> None:
        uid = pod["metadata"]["uid"]
        try:
            pod = self.store.get("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])
        except NotFound:
            return
        if pod["metadata"]["uid"] != uid:
            return
        started = self._pods.get(uid)
        is_out_of_memory = started is not None and started.is_out_of_memory
        words = message or self._message(pod)
        self._write(pod, pod_status.ended(pod, self.store.now(), code, words, is_out_of_memory=is_out_of_memory))
        if "deletionTimestamp" in pod["metadata"]:
            self._remove(pod)

    def _remove(self, pod: Object) -> None:
        try:
            self.store.delete("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"], grace=0)
        except NotFound:
            return

    def _disrupt(self, pod: Object, reason: str, message: str) -> None:
        self._write(pod, pod_status.disrupted(pod, self.store.now(), reason, message))

    def _message(self, pod: Object) -> str:
        path = self.node.directory / "pods" / pod["metadata"]["name"] / "termination-log"
        return path.read_bytes()[:MAX_MESSAGE_BYTES].decode(errors="replace") if path.exists() else ""

    def _write(self, pod: Object, status: Object) -> None:
        self.store.update_status("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"], status)

    def _find(self, name: str) -> Object:
        return next(pod for pod in self._everything() if pod["metadata"]["name"] == name)

    def _everything(self) -> list[Object]:
        return [pod for namespace in self.store.namespaces("Pod") for pod in self.store.find("Pod", namespace)]


def _end_broken(started: _Started, error: Exception) -> str:
    """End what was started of a pod that cannot be run, and say why in words. A bare KeyError says only the key: its type is told too."""
    words = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    if started.process is None:
        return f"cannot start the pod's process: {words}"
    started.process.kill()
    return f"lost the pod's process: {words}"


def log_file(directory: Path, pod: Object) -> Path:
    """Where the output of a pod goes."""
    labels = pod["metadata"]["labels"]
    attempt = f"{labels.get(names.LABEL_STAGE, 'none')}-r{labels.get(names.LABEL_ATTEMPT, '0')}"
    return directory / "logs" / attempt / f"pod-{labels[names.LABEL_COMPLETION_INDEX]}.log"


def _job_name(pod: Object) -> str:
    return str(pod["metadata"]["labels"].get("batch.kubernetes.io/job-name", pod["metadata"]["name"]))


def _free_port(promised: Collection[int] = ()) -> int:
    """A port nobody listens on now. Somebody may take it before the pod does: then the attempt ends with 73 and the next has others."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in promised:
            return port
