"""One namespace of a real cluster as a test sees it: RLHFJobs are submitted, pods are played, and status, Jobs and events are read back.

Storage is a class with static volumes, one for each submitted job: nothing provisions in a control plane without nodes.
"""

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rlhf_api import names
from tests.support.cluster.control_plane import ControlPlane
from tests.support.cluster.kubelet import ScriptedKubelet
from tests.support.cluster.plays import Play
from tests.support.cluster.rest import Object, Refused, Rest
from tests.support.eventually import eventually
from tests.support.manifests import changed

T = TypeVar("T")
STORAGE_CLASS = "played"
IMMEDIATE_CLASS = "never"
"""A class that binds at once and has no provisioner: its claims stay Pending."""
DEADLINE_SECONDS = 30.0
JOBS = f"/apis/{names.GROUP}/{names.VERSION}/namespaces"
PROFILES = f"/apis/{names.GROUP}/{names.VERSION}/{names.PLURAL_PROFILE}"
_COUNTER = itertools.count(1)

ONE_STAGE: dict[str, Any] = {
    "model": {"source": {"uri": "builtin://models/tiny-llama"}},
    "topology": {"gpusPerNode": 0},
    "storage": {"size": "1Gi"},
    "stages": [
        {
            "name": "sft",
            "type": "SFT",
            "sft": {"dataset": {"uri": "builtin://datasets/tiny-chat-sft"}, "maxSteps": 10, "globalBatchSize": 72},
        },
    ],
}
PROFILE: dict[str, Any] = {
    "image": "local",
    "allowUnpinnedImage": True,
    "limits": {"maxNodes": 8, "maxGpus": 64},
    "resources": {"perProcess": {"memory": "16Gi"}},
    "retry": {"backoffSeconds": 0},
}


class World:
    """A namespace with a profile of its own, so that tests do not meet."""

    def __init__(self, plane: ControlPlane, kubelet: ScriptedKubelet) -> None:
        self.plane = plane
        self.kubelet = kubelet
        self.rest: Rest = plane.rest()
        self.namespace = f"team-{next(_COUNTER)}"
        self.rest.create("/api/v1/namespaces", {"metadata": {"name": self.namespace, "labels": {"team": self.namespace}}})
        eventually(lambda: self.rest.find(self.core("serviceaccounts", "default")), 20, "the namespace is ready for pods")

    def close(self) -> None:
        """Delete everything, without waiting."""
        for path in (f"{PROFILES}/{self.namespace}", f"/api/v1/namespaces/{self.namespace}"):
            if self.rest.find(path) is not None:
                self.rest.delete(path)
        self.rest.close()

    # ---- paths
    def core(self, plural: str, name: str = "") -> str:
        """Path of a core kind in the namespace."""
        return f"/api/v1/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def batch(self, name: str = "") -> str:
        """Path of Jobs."""
        return f"/apis/batch/v1/namespaces/{self.namespace}/jobs" + (f"/{name}" if name else "")

    def path(self, name: str = "") -> str:
        """Path of RLHFJobs."""
        return f"{JOBS}/{self.namespace}/{names.PLURAL_JOB}" + (f"/{name}" if name else "")

    # ---- what a user does
    def profile(self, changes: Mapping[str, object] | None = None) -> Object:
        """Create the namespace's profile, or replace its spec."""
        body = changed({"apiVersion": names.API_VERSION, "kind": names.KIND_PROFILE, "spec": copy.deepcopy(PROFILE)}, changes or {})
        body["metadata"] = {"name": self.namespace}
        return self.rest.apply(f"{PROFILES}/{self.namespace}", body, "platform")

    def spec(self, changes: Mapping[str, object] | None = None) -> Object:
        """The spec of a small job that uses the namespace's profile."""
        document = {"spec": {**copy.deepcopy(ONE_STAGE), "profile": self.namespace}}
        return dict(changed(document, changes or {})["spec"])

    def submit(
        self, name: str = "chat", changes: Mapping[str, object] | None = None, *, volume: bool = True, is_dry: bool = False
    ) -> Object:
        """Create an RLHFJob of one stage, and a volume that its claim can bind."""
        if volume:
            self.volume()
        document = {"apiVersion": names.API_VERSION, "kind": names.KIND_JOB, "metadata": {"name": name}, "spec": self.spec()}
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if is_dry else {})}
        return self.rest.create(self.path(), changed(document, changes or {}), **query)

    def volume(self) -> None:
        """One more volume of the class."""
        spec = {
            "capacity": {"storage": "1Ti"},
            "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
            "storageClassName": STORAGE_CLASS,
            "hostPath": {"path": "/nowhere"},
            "persistentVolumeReclaimPolicy": "Retain",
        }
        self.rest.create("/api/v1/persistentvolumes", {"metadata": {"generateName": f"{self.namespace}-"}, "spec": spec})

    def edit(self, name: str, spec: Mapping[str, Any]) -> Object:
        """Merge into the spec."""
        return self.rest.merge(self.path(name), {"spec": dict(spec)})

    # ---- what is there
    def job(self, name: str = "chat") -> Object:
        """The RLHFJob."""
        return self.rest.get(self.path(name))

    def status(self, name: str = "chat") -> Object:
        """Its status; empty while there is none."""
        return dict(self.job(name).get("status", {}))

    def phase(self, name: str = "chat") -> str:
        """The job's phase."""
        return str(self.status(name).get("phase", ""))

    def stage(self, stage: str = "sft", name: str = "chat") -> Object:
        """The status of a stage; empty while there is none."""
        return next((dict(found) for found in self.status(name).get("stages", []) if found["name"] == stage), {})

    def attempts(self, stage: str = "sft", name: str = "chat") -> list[Object]:
        """Attempts of a stage, oldest first."""
        return list(self.stage(stage, name).get("attempts", []))

    def condition(self, kind: str, name: str = "chat") -> tuple[str, str, str]:
        """Status, reason and message; empty while there is none."""
        for found in self.status(name).get("conditions", []):
            if found["type"] == kind:
                return found["status"], found.get("reason", ""), found.get("message", "")
        return "", "", ""

    def jobs(self, **query: str) -> list[str]:
        """Names of the Jobs."""
        return sorted(job["metadata"]["name"] for job in self.rest.items(self.batch(), **query))

    def pods(self, stage: str = "", attempt: int = 0, name: str = "chat") -> list[Object]:
        """Pods of a stage's attempt, by index."""
        wanted = {names.LABEL_JOB: name, names.LABEL_STAGE: stage, names.LABEL_ATTEMPT: str(attempt or "")}
        selector = ",".join(f"{label}={value}" for label, value in wanted.items() if value)
        found = self.rest.items(self.core("pods"), labelSelector=selector)
        return sorted(found, key=lambda pod: int(pod["metadata"]["labels"].get(names.LABEL_COMPLETION_INDEX, "0")))

    def events(self, name: str = "chat") -> dict[str, str]:
        """Messages of the RLHFJob's events by reason, the newest of each."""
        found = self.rest.items(self.core("events"), fieldSelector=f"involvedObject.name={name}")
        found.sort(key=lambda event: event["metadata"]["resourceVersion"])
        return {event["reason"]: event.get("message", "") for event in found}

    # ---- what happens to pods
    def on(self, play: Play, stage: str = "", attempt: int = 0, index: int | None = None, name: str = "") -> None:
        """From now on, these pods of the namespace do this. Of several plays the newest counts."""
        self.kubelet.on(play, namespace=self.namespace, job=name, stage=stage, attempt=attempt, index=index)

    def evict(self, pod: Object) -> None:
        """The eviction API, as `kubectl drain` uses it."""
        name = pod["metadata"]["name"]
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": self.namespace}}
        self.rest.create(f"{self.core('pods', name)}/eviction", body)

    def delete_pod(self, pod: Object) -> None:
        """kubectl delete pod."""
        self.rest.delete(self.core("pods", pod["metadata"]["name"]))

    def exists(self, path: str) -> bool:
        """Whether there is an object at a path."""
        try:
            self.rest.get(path)
        except Refused as refused:
            if refused.code == 404:
                return False
            raise
        return True

    # ---- waiting
    def until(self, condition: Callable[[], T], what: str, deadline_seconds: float = DEADLINE_SECONDS) -> T:
        """Wait; a failure shows the status of every RLHFJob of the namespace."""
        try:
            return eventually(condition, deadline_seconds, what)
        except AssertionError as error:
            seen = {job["metadata"]["name"]: job.get("status") for job in self.rest.items(self.path())}
            raise AssertionError(f"{error}\nstatus: {seen}\nJobs: {self.jobs()}") from error

    def until_phase(self, phase: str, name: str = "chat", deadline_seconds: float = DEADLINE_SECONDS) -> None:
        """Wait for a phase of the job."""
        self.until(lambda: self.phase(name) == phase, f"{name} is {phase}", deadline_seconds)

    def until_stage(self, stage: str, phase: str, attempt: int = 0, name: str = "chat", deadline_seconds: float = DEADLINE_SECONDS) -> None:
        """Wait for a phase of a stage, and for the number of its attempt."""

        def is_there() -> bool:
            found = self.stage(stage, name)
            return found.get("phase") == phase and attempt in (0, found.get("attempt"))

        self.until(is_there, f"stage {stage} is {phase}{f' in attempt {attempt}' if attempt else ''}", deadline_seconds)


def install_storage(plane: ControlPlane) -> None:
    """The classes that these tests use: volumes of the test, bound when a pod comes, and one that never binds."""
    with plane.rest() as rest:
        for name, mode in ((STORAGE_CLASS, "WaitForFirstConsumer"), (IMMEDIATE_CLASS, "Immediate")):
            default = {"storageclass.kubernetes.io/is-default-class": "true"} if name == STORAGE_CLASS else {}
            body = {
                "metadata": {"name": name, "annotations": default},
                "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": mode,
            }
            rest.create("/apis/storage.k8s.io/v1/storageclasses", body)
