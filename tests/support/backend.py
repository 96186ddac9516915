"""A cluster as the conformance cases of Job semantics see it. Here: the embedded backend with real processes.

The cases use only what this class offers, so that another class of the same shape can run them against a real cluster.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlhf_api import names
from rlhf_operator.local.jobs import JobRunner
from rlhf_operator.local.pods import Kubelet, Node
from rlhf_operator.local.processes import LocalRuntime
from rlhf_operator.local.store import Store
from rlhf_operator.shell.kube import Invalid, Object

NAMESPACE = "team-a"
DEADLINE_SECONDS = 30.0
TINY_POD = Path(__file__).with_name("tiny_pod.py")


class LocalBackend:
    """Store, Job runner and kubelet, moved by `until`."""

    def __init__(self, directory: Path, *, gpus: Sequence[str] = ()) -> None:
        self.directory = directory
        self.store = Store(lambda: datetime.now(UTC))
        self.runner = JobRunner(self.store, lambda: datetime.now(UTC))
        runtime = LocalRuntime((sys.executable, "-S", str(TINY_POD), "-"))
        self.kubelet = Kubelet(self.store, lambda: datetime.now(UTC), runtime, Node(directory, {"data": directory / "volume"}, gpus))
        self.loop = asyncio.new_event_loop()

    def close(self) -> None:
        """End everything."""
        self.loop.run_until_complete(self.kubelet.close())
        self.loop.close()

    def start(self, name: str, actions: Sequence[Mapping[str, Any]], *, gpus: int = 0, grace: int = 30, **spec: Any) -> None:
        """Create an Indexed Job as the operator writes them, with one pod for each action."""
        limits = {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {}
        rank = {"fieldRef": {"fieldPath": f"metadata.labels['{names.LABEL_COMPLETION_INDEX}']"}}
        container = {
            "name": names.CONTAINER,
            "image": "local",
            "env": [{"name": names.ENV_NUM_NODES, "value": str(len(actions))}, {"name": names.ENV_NODE_RANK, "valueFrom": rank}],
            "resources": limits,
        }
        run = json.dumps({str(index): dict(action) for index, action in enumerate(actions)})
        template = {
            "metadata": {"labels": {names.LABEL_STAGE: name, names.LABEL_ATTEMPT: "1"}, "annotations": {names.ANNOTATION_RUN: run}},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": grace,
                "containers": [container],
                "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": "data"}}],
            },
        }
        fixed = {"completionMode": "Indexed", "backoffLimit": 0, "podReplacementPolicy": "TerminatingOrFailed"}
        body = {"completions": len(actions), "parallelism": len(actions), **fixed, **spec, "template": template}
        self.store.create("Job", NAMESPACE, {"metadata": {"name": name}, "spec": body})

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Let the cluster move until the condition holds; returns what it returned."""
        return self.loop.run_until_complete(self._until(condition, what))

    async def _until(self, condition: Callable[[], Any], what: str) -> Any:
        end = self.loop.time() + DEADLINE_SECONDS
        while True:
            self.runner.sync()
            self.kubelet.sync()
            self.runner.sync()
            value = condition()
            if value:
                return value
            assert self.loop.time() < end, f"{what}: did not come true; {self.dump()}"
            try:
                async with asyncio.timeout(0.05):
                    await self.store.wait_for_change(self.store.version)
            except TimeoutError:
                pass

    def job(self, name: str) -> Object:
        """The Job."""
        return self.store.get("Job", NAMESPACE, name)

    def exists(self, name: str) -> bool:
        """Whether the Job is there."""
        return any(job["metadata"]["name"] == name for job in self.store.find("Job", NAMESPACE))

    def conditions(self, name: str) -> dict[str, str]:
        """Reasons of the Job's conditions that are True."""
        return {c["type"]: c["reason"] for c in self.job(name).get("status", {}).get("conditions", []) if c["status"] == "True"}

    def pods(self, name: str) -> list[Object]:
        """The Job's pods by index."""
        found = self.store.find("Pod", NAMESPACE, f"batch.kubernetes.io/job-name={name}")
        return sorted(found, key=lambda pod: int(pod["metadata"]["labels"][names.LABEL_COMPLETION_INDEX]))

    def all_run(self, name: str) -> bool:
        """Every pod runs, and has come as far as to handle signals."""
        completions = self.job(name)["spec"]["completions"]
        is_ready = self.job(name).get("status", {}).get("ready", 0) == completions
        return is_ready and all("arguments" in self.log(name, index) for index in range(completions))

    def exit_code(self, pod: Object) -> int | None:
        """Exit code of a pod's container."""
        for container in self.store.get("Pod", NAMESPACE, pod["metadata"]["name"])["status"].get("containerStatuses", []):
            if "terminated" in container["state"]:
                return int(container["state"]["terminated"]["exitCode"])
        return None

    def message(self, pod: Object) -> str:
        """Termination message of a pod."""
        containers = self.store.get("Pod", NAMESPACE, pod["metadata"]["name"])["status"]["containerStatuses"]
        return str(containers[0]["state"]["terminated"]["message"])

    def log(self, name: str, index: int = 0) -> str:
        """Output of a pod."""
        path = self.directory / "logs" / f"{name}-r1" / f"pod-{index}.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def delete_pod(self, pod: Object, grace: int | None = None) -> None:
        """kubectl delete pod; grace 0 is --force."""
        self.store.delete("Pod", NAMESPACE, pod["metadata"]["name"], grace=grace)

    def delete_job(self, name: str, propagation: str) -> None:
        """Delete the Job."""
        self.store.delete("Job", NAMESPACE, name, propagation=propagation)

    def gate(self) -> str:
        """A file that actions may wait for."""
        return str(self.directory / "gate")

    def open_gate(self) -> None:
        """Make it."""
        Path(self.gate()).touch()

    def evict(self, pod: Object) -> None:
        """The eviction API."""
        self.kubelet.evict(pod["metadata"]["name"])

    def lose_node(self, pod: Object) -> None:
        """The node of a pod stops answering."""
        self.kubelet.lose_node(pod["metadata"]["name"])

    def return_node(self, pod: Object) -> None:
        """It is back."""
        self.kubelet.return_node(pod["metadata"]["name"])

    def run_out_of_memory(self, pod: Object) -> None:
        """The kernel kills the pod's processes."""
        self.kubelet.run_out_of_memory(pod["metadata"]["name"])

    def hold(self, name: str, reason: str) -> None:
        """Pods of this Job cannot start."""
        self.kubelet.held[name] = reason

    def repair(self, name: str) -> None:
        """Now they can."""
        self.kubelet.held.pop(name)

    def change_template(self, name: str) -> str:
        """Try to change the pod template; what the API says to it."""
        job = self.job(name)
        job["spec"]["template"]["spec"]["restartPolicy"] = "Always"
        try:
            self.store.update("Job", NAMESPACE, job)
        except Invalid as refused:
            return refused.message
        return ""

    def suspend(self, name: str, value: bool) -> None:
        """A queue writes spec.suspend."""
        job = self.job(name)
        job["spec"]["suspend"] = value
        self.store.update("Job", NAMESPACE, job)

    def dump(self) -> str:
        """Everything, for a failure message."""
        return json.dumps([obj.get("status") for kind in ("Job", "Pod") for obj in self.store.find(kind, NAMESPACE)], indent=1)
