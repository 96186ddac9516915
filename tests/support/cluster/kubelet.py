"""Nodes without machines: the scheduler binds pods to them, and a script says what each pod's container does.

Level-triggered, as a kubelet is: every pod is compared with its play whenever either changes, so a test may change a play while the pod runs
(`on`). It writes what a kubelet writes: node leases, pod status, and the last delete of a pod that was asked to go.
"""

import http.client
import ipaddress
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from rlhf_api import names
from tests.support.cluster import plays
from tests.support.cluster.control_plane import ControlPlane
from tests.support.cluster.plays import Object, Play
from tests.support.cluster.podwatch import PodWatch
from tests.support.cluster.rest import JSON, STRATEGIC_PATCH, Refused, Rest

LEASE_SECONDS = 2.0
_RETRY_SECONDS = 0.3
_FIRST_ADDRESS = ipaddress.ip_address("127.1.0.1")
CAPACITY = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", "pods": "4000", "nvidia.com/gpu": "8"}

Script = Callable[[Object], Play]


def everything_succeeds(pod: Object) -> Play:
    """The script of a kubelet that was given none."""
    return plays.succeeds()


@dataclass(slots=True)
class _Container:
    """What this kubelet remembers of a pod that it started."""

    started: float


@dataclass(frozen=True, slots=True)
class _Rule:
    play: Play
    namespace: str
    wanted: Mapping[str, str]

    def matches(self, pod: Object) -> bool:
        labels = pod["metadata"].get("labels", {})
        return self.namespace in ("", pod["metadata"]["namespace"]) and all(
            labels.get(label) == value for label, value in self.wanted.items()
        )


class ScriptedKubelet:
    """Plays all pods of its nodes in a thread of its own. Use it as a context manager.

    Args:
        nodes: how many nodes to register, `node-0` and so on.
        script: the play of a pod that no rule (`on`) is about.
    """

    def __init__(
        self, plane: ControlPlane, *, nodes: int = 2, script: Script = everything_succeeds, capacity: Mapping[str, str] | None = None
    ) -> None:
        self._rest: Rest = plane.rest()
        self._watch = PodWatch(plane.rest())
        self._script = script
        self._capacity = {**CAPACITY, **(capacity or {})}
        self.nodes = tuple(f"node-{index}" for index in range(nodes))
        self._rules: list[_Rule] = []
        self._lost: frozenset[str] = frozenset()
        self._containers: dict[str, _Container] = {}
        self._addresses: dict[str, str] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scripted-kubelet", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Register the nodes, then play what is bound to them."""
        for name in self.nodes:
            self._register(name)
        self._renew_leases()
        self._watch.start()
        self._thread.start()

    def stop(self) -> None:
        """Play no more. Nodes and pods stay as they are."""
        self._closed.set()
        self._watch.stop()
        self._thread.join()
        self._rest.close()

    # ---- what a test says
    def on(
        self, play: Play, *, namespace: str = "", job: str = "", stage: str = "", attempt: int = 0, index: int | None = None, **labels: str
    ) -> None:
        """From now on, pods that these labels describe do this. Of several rules the newest counts."""
        wanted = {
            names.LABEL_JOB: job,
            names.LABEL_STAGE: stage,
            names.LABEL_ATTEMPT: str(attempt or ""),
            names.LABEL_COMPLETION_INDEX: "" if index is None else str(index),
            **labels,
        }
        self._rules = [*self._rules, _Rule(play, namespace, {label: value for label, value in wanted.items() if value})]
        self._watch.poke()

    def lose_node(self, name: str) -> None:
        """A node stops answering: no lease, no reports, and its pods go on unseen."""
        self._lost |= {name}

    def return_node(self, name: str) -> None:
        """A lost node is back."""
        self._lost -= {name}
        self._renew_leases()
        self._watch.poke()

    def look_again(self) -> None:
        """What a script reads has changed."""
        self._watch.poke()

    def address_of(self, uid: str) -> str:
        """The loopback address that a pod's status shows; a test may listen there."""
        number = len(self._addresses)
        return self._addresses.setdefault(uid, str(_FIRST_ADDRESS + number))

    # ---- the loop
    def _run(self) -> None:
        leases_due = time.monotonic() + LEASE_SECONDS
        wait = 0.0
        while not self._closed.is_set():
            self._watch.wait(min(wait, max(0.0, leases_due - time.monotonic())))
            if time.monotonic() >= leases_due:
                self._ignoring_absence(self._renew_leases)
                leases_due = time.monotonic() + LEASE_SECONDS
            wait = self._sync()

    def _sync(self) -> float:
        """One look at every pod. Returns the seconds until one of them wants the next."""
        waits = [LEASE_SECONDS]
        for pod in self._watch.pods():
            node = pod["spec"].get("nodeName", "")
            if node in self.nodes and node not in self._lost:
                try:
                    waits.append(self._step(pod))
                except Refused as refused:
                    if refused.code not in (404, 409):
                        waits.append(_RETRY_SECONDS)
                except (OSError, http.client.HTTPException):
                    waits.append(_RETRY_SECONDS)
        return max(0.0, min(waits))

    def _step(self, pod: Object) -> float:
        """Bring one pod a step further. Returns the seconds until its next step by itself."""
        uid, phase = pod["metadata"]["uid"], pod.get("status", {}).get("phase")
        is_leaving = "deletionTimestamp" in pod["metadata"]
        if phase in ("Succeeded", "Failed"):
            return self._remove(pod) if is_leaving else LEASE_SECONDS
        container = self._containers.get(uid)
        play = self._play_of(pod)
        if is_leaving:
            return self._terminate(pod, play, container)
        if container is None:
            return self._begin(pod, play)
        if phase == "Running" and not plays.is_ready(pod):  # the node was thought lost: a kubelet says that its pods are well
            self._report(pod, plays.running_status(self.address_of(uid)))
        if play.exit_code is None:
            return LEASE_SECONDS
        left = container.started + play.seconds - time.monotonic()
        if left <= 0:
            self._report(pod, plays.ended_status(pod, play, play.exit_code))
        return left if left > 0 else LEASE_SECONDS

    def _begin(self, pod: Object, play: Play) -> float:
        if play.waiting:
            if _waiting_reason(pod) != play.waiting:
                self._report(pod, plays.waiting_status(play))
            return LEASE_SECONDS
        uid = pod["metadata"]["uid"]
        self._report(pod, plays.running_status(self.address_of(uid)))
        self._containers[uid] = _Container(time.monotonic())
        return 0.0 if play.exit_code is not None else LEASE_SECONDS

    def _terminate(self, pod: Object, play: Play, container: _Container | None) -> float:
        if container is None:
            return self._remove(pod)
        deadline = datetime.fromisoformat(pod["metadata"]["deletionTimestamp"])
        left = (deadline - datetime.now(UTC)).total_seconds()
        if play.is_deaf and left > 0:
            return left
        self._report(pod, plays.ended_status(pod, play, 137 if play.is_deaf else plays.TERMINATED_EXIT_CODE, ""))
        return LEASE_SECONDS

    def _remove(self, pod: Object) -> float:
        """The kubelet's own delete: the object goes as soon as no finalizer holds it."""
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        self._rest.request("DELETE", _path(pod), options)
        self._containers.pop(pod["metadata"]["uid"], None)
        return LEASE_SECONDS

    def _report(self, pod: Object, status: Object) -> None:
        body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}
        changed = self._rest.request("PATCH", f"{_path(pod)}/status", body, content_type=STRATEGIC_PATCH)
        self._watch.learn(changed)

    def _play_of(self, pod: Object) -> Play:
        for rule in reversed(self._rules):
            if rule.matches(pod):
                return rule.play
        return self._script(pod)

    # ---- nodes
    def _register(self, name: str) -> None:
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": "zone-a"}
        body = {"metadata": {"name": name, "labels": labels}, "spec": {}}
        self._create_unless_there("/api/v1/nodes", body)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "reason": "Played", "lastHeartbeatTime": now, "lastTransitionTime": now}
        status = {"capacity": self._capacity, "allocatable": self._capacity, "conditions": [ready]}
        self._rest.request("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, content_type=STRATEGIC_PATCH)
        lease = {"metadata": {"name": name}, "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": _micro_time()}}
        self._create_unless_there("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease)

    def _create_unless_there(self, path: str, body: Object) -> None:
        try:
            self._rest.request("POST", path, body, content_type=JSON)
        except Refused as refused:
            if refused.code != 409:
                raise

    def _renew_leases(self) -> None:
        for name in self.nodes:
            if name not in self._lost:
                path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}"
                self._rest.merge(path, {"spec": {"renewTime": _micro_time()}})
                self._make_ready(name)

    def _make_ready(self, name: str) -> None:
        """A node that was lost says itself that it is back: the controller only ever marks it Unknown."""
        node = self._rest.get(f"/api/v1/nodes/{name}")
        ready = next((c for c in node["status"].get("conditions", []) if c["type"] == "Ready"), {})
        if ready.get("status") != "True":
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            condition = {"type": "Ready", "status": "True", "reason": "Played", "lastHeartbeatTime": now, "lastTransitionTime": now}
            path = f"/api/v1/nodes/{name}/status"
            self._rest.request("PATCH", path, {"status": {"conditions": [condition]}}, content_type=STRATEGIC_PATCH)

    def _ignoring_absence(self, act: Callable[[], Any]) -> None:
        """The API server may be away: a test took it. The next round tries again."""
        try:
            act()
        except (OSError, http.client.HTTPException, Refused):
            return


def _path(pod: Object) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _waiting_reason(pod: Object) -> str:
    for container in pod.get("status", {}).get("containerStatuses", []):
        return str(container["state"].get("waiting", {}).get("reason", ""))
    return ""


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
