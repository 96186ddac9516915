"""The real cluster in the shape that the cases of Job semantics want; the actions of their pods are played by the scripted kubelet."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_api import names
from tests.support.cluster import plays
from tests.support.cluster.plays import Play
from tests.support.cluster.rest import Object, Refused
from tests.support.cluster.world import World
from tests.support.eventually import eventually

DEADLINE_SECONDS = 60.0
_JOB_NAME = "batch.kubernetes.io/job-name"


def play_of(pod: Object) -> Play:
    """The action that a pod carries in its annotation, by its index. Pods without one do well."""
    metadata = pod["metadata"]
    run = json.loads(metadata.get("annotations", {}).get(names.ANNOTATION_RUN, "{}"))
    action = run.get(metadata["labels"].get(names.LABEL_COMPLETION_INDEX, "0"), {})
    if not isinstance(action, dict):
        return plays.succeeds()
    waits = action.get("hang") or ("until" in action and not os.path.exists(action["until"]))
    if waits:
        return plays.runs(is_deaf=bool(action.get("deaf")))
    return plays.exits(action.get("exit", 0), action.get("message"))


class ClusterBackend:
    """Jobs in a namespace of a real control plane, watched by polling."""

    def __init__(self, world: World, directory: Path) -> None:
        self._world = world
        self._rest = world.rest
        self._gate = directory / "gate"

    def start(self, name: str, actions: Sequence[Mapping[str, Any]], *, gpus: int = 0, grace: int = 30, **spec: Any) -> None:
        """Create an Indexed Job as the operator writes them, with one pod for each action."""
        run = json.dumps({str(index): dict(action) for index, action in enumerate(actions)})
        resources = {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {}
        container = {"name": names.CONTAINER, "image": "played", "resources": resources}
        spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
        pod = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": grace,
            "containers": [container],
            "tolerations": _TOLERATIONS,
            "topologySpreadConstraints": [{**spread, "labelSelector": {"matchLabels": {_JOB_NAME: name}}}],
        }
        template = {"metadata": {"annotations": {names.ANNOTATION_RUN: run}}, "spec": pod}
        fixed = {"completionMode": "Indexed", "backoffLimit": 0, "podReplacementPolicy": "TerminatingOrFailed"}
        body = {"completions": len(actions), "parallelism": len(actions), **fixed, **spec, "template": template}
        self._rest.create(self._world.batch(), {"metadata": {"name": name}, "spec": body})

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait; a failure shows what there is."""
        try:
            return eventually(condition, DEADLINE_SECONDS, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.dump()}") from error

    def job(self, name: str) -> Object:
        """The Job; its status is empty at first."""
        return {"status": {}, **self._rest.get(self._world.batch(name))}

    def exists(self, name: str) -> bool:
        """Whether the Job is there."""
        return self._world.exists(self._world.batch(name))

    def conditions(self, name: str) -> dict[str, str]:
        """Reasons of the Job's conditions that are True."""
        return {c["type"]: c["reason"] for c in self.job(name)["status"].get("conditions", []) if c["status"] == "True"}

    def pods(self, name: str) -> list[Object]:
        """The Job's pods by index."""
        found = self._rest.items(self._world.core("pods"), labelSelector=f"{_JOB_NAME}={name}")
        return sorted(found, key=lambda pod: int(pod["metadata"]["labels"][names.LABEL_COMPLETION_INDEX]))

    def all_run(self, name: str) -> bool:
        """Every pod runs."""
        job = self.job(name)
        return bool(job["status"].get("ready", 0) == job["spec"]["completions"])

    def exit_code(self, pod: Object) -> int | None:
        """Exit code of a pod's container."""
        ended = self._ended(pod)
        return None if ended is None else int(ended["exitCode"])

    def message(self, pod: Object) -> str:
        """Termination message of a pod."""
        ended = self._ended(pod)
        return "" if ended is None else str(ended["message"])

    def gate(self) -> str:
        """A file that actions may wait for."""
        return str(self._gate)

    def open_gate(self) -> None:
        """Make it."""
        self._gate.touch()
        self._world.kubelet.look_again()

    def delete_pod(self, pod: Object, grace: int | None = None) -> None:
        """kubectl delete pod; grace 0 is --force."""
        self._rest.delete(self._path(pod), None if grace is None else {"gracePeriodSeconds": grace})

    def delete_job(self, name: str, propagation: str) -> None:
        """Delete the Job."""
        self._rest.delete(self._world.batch(name), {"propagationPolicy": propagation})

    def evict(self, pod: Object) -> None:
        """The eviction API."""
        self._world.evict(pod)

    def lose_node(self, pod: Object) -> None:
        """The node of a pod stops answering; its peers have to be elsewhere, as the scheduler spreads them."""
        self._world.kubelet.lose_node(self._rest.get(self._path(pod))["spec"]["nodeName"])

    def return_node(self, pod: Object) -> None:
        """It is back."""
        self._world.kubelet.return_node(pod["spec"]["nodeName"])

    def run_out_of_memory(self, pod: Object) -> None:
        """The kernel kills the container."""
        self._on(plays.runs_out_of_memory(), pod["metadata"]["labels"][_JOB_NAME])

    def hold(self, name: str, reason: str) -> None:
        """Pods of this Job cannot start."""
        self._on(plays.waits(reason), name)

    def repair(self, name: str) -> None:
        """Now they can."""
        self._on(plays.succeeds(), name)

    def suspend(self, name: str, value: bool) -> None:
        """A queue writes spec.suspend."""
        self._rest.merge(self._world.batch(name), {"spec": {"suspend": value}})

    def change_template(self, name: str) -> str:
        """Try to change the pod template; what the API says to it."""
        try:
            self._rest.merge(self._world.batch(name), {"spec": {"template": {"spec": {"hostNetwork": True}}}})
        except Refused as refused:
            return refused.message
        return ""

    def dump(self) -> str:
        """Everything, for a failure message."""
        found = [*self._rest.items(self._world.batch()), *self._rest.items(self._world.core("pods"))]
        return json.dumps([{obj["metadata"]["name"]: obj.get("status")} for obj in found], indent=1)

    def _on(self, play: Play, name: str) -> None:
        self._world.kubelet.on(play, namespace=self._world.namespace, **{_JOB_NAME: name})

    def _path(self, pod: Object) -> str:
        return self._world.core("pods", pod["metadata"]["name"])

    def _ended(self, pod: Object) -> Object | None:
        for container in self._rest.get(self._path(pod))["status"].get("containerStatuses", []):
            if "terminated" in container["state"]:
                return dict(container["state"]["terminated"])
        return None


_TOLERATIONS = [
    {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
    for state in ("not-ready", "unreachable")
]
