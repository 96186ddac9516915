"""Objects in memory with the rules of the Kubernetes API server, written through to a directory.

Requests come in from `memory.py` (the operator's side) and from `jobs.py` and `pods.py` (the controllers' side); versions and watch
events go out. Rules imitated: uid, one growing resourceVersion, generation on spec changes, immutable parts, graceful deletion,
finalizers, and owner-reference garbage collection. One thread uses it; every method is one transaction.
"""

import asyncio
import json
import os
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rlhf_operator.shell.kube import AlreadyExists, Conflict, Gone, Invalid, NotFound, Object

HISTORY = 1000
"""Watch events that are kept. Who wants older ones gets 410 and lists again."""
FOREGROUND = "foregroundDeletion"
_API_VERSIONS = {
    "RLHFJob": "rlhf.dev/v1alpha1",
    "ClusterRLHFProfile": "rlhf.dev/v1alpha1",
    "Job": "batch/v1",
    "ControllerRevision": "apps/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
}
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change: ADDED, MODIFIED or DELETED, and the object after it (before it when deleted)."""

    version: int
    type: str
    object: Object


class Store:
    """Every object of one embedded cluster. `clock` gives aware times; `directory` None keeps all in memory."""

    def __init__(self, clock: Callable[[], datetime], directory: Path | None = None) -> None:
        self._clock = clock
        self._directory = directory
        self._objects: dict[Key, Object] = {}
        self._history: deque[WatchEvent] = deque(maxlen=HISTORY)
        self._changed = asyncio.Event()
        self.version = 0
        if directory is not None:
            self._load(directory)
        self._oldest = self.version

    # ---- reading
    def get(self, kind: str, namespace: str, name: str) -> Object:
        """A copy of the object; `NotFound` when there is none."""
        obj: Object = copied(self._require((kind, namespace, name)))
        return obj

    def find(self, kind: str, namespace: str, selector: str = "") -> list[Object]:
        """Copies of the objects of a kind whose labels match, ordered by name."""
        keys = sorted(key for key in self._objects if key[0] == kind and key[1] == namespace)
        return [copied(self._objects[key]) for key in keys if _matches(self._objects[key], selector)]

    def namespaces(self, kind: str) -> list[str]:
        """Namespaces that hold objects of a kind."""
        return sorted({key[1] for key in self._objects if key[0] == kind})

    def events_since(self, version: int) -> list[WatchEvent]:
        """Changes after `version`; `Gone` when the history no longer reaches back that far."""
        if version < self._oldest or (self._history and len(self._history) == HISTORY and version < self._history[0].version - 1):
            raise Gone(f"too old resource version: {version}")
        return [event for event in self._history if event.version > version]

    async def wait_for_change(self, version: int) -> int:
        """Return once the store is newer than `version`, with its version then."""
        while self.version <= version:
            self._changed.clear()
            await self._changed.wait()
        return self.version

    # ---- writing
    def create(self, kind: str, namespace: str, body: Mapping[str, Any]) -> Object:
        """Add an object: uid, generation 1, creation time."""
        obj = copied(body)
        metadata = obj.setdefault("metadata", {})
        key = (kind, namespace, metadata["name"])
        if key in self._objects:
            raise AlreadyExists(f'{kind} "{metadata["name"]}" already exists')
        obj["kind"] = kind
        obj.setdefault("apiVersion", _API_VERSIONS.get(kind, "v1"))
        metadata.update(namespace=namespace, uid=str(uuid.uuid4()), generation=1, creationTimestamp=self.now())
        return self._put(key, obj, "ADDED")

    def update(self, kind: str, namespace: str, body: Mapping[str, Any]) -> Object:
        """Replace metadata and spec; status stays. Generation grows when the spec changed; immutable parts raise `Invalid`."""
        key = (kind, namespace, body["metadata"]["name"])
        live = self._require(key)
        _check_version(live, body["metadata"].get("resourceVersion"))
        _check_immutable(live, body)
        obj = {**copied(body), "kind": kind, "apiVersion": live["apiVersion"]}
        kept = ("uid", "creationTimestamp", "generation", "namespace", "deletionTimestamp", "deletionGracePeriodSeconds")
        obj["metadata"].update({field: live["metadata"][field] for field in kept if field in live["metadata"]})
        if "status" in live:
            obj["status"] = copied(live["status"])
        else:
            obj.pop("status", None)
        if obj.get("spec") != live.get("spec"):
            obj["metadata"]["generation"] += 1
        return self._finish_update(key, live, obj)

    def update_status(self, kind: str, namespace: str, name: str, status: Mapping[str, Any]) -> Object:
        """Replace the status, as the controllers of a kind do."""
        key = (kind, namespace, name)
        live = self._require(key)
        obj = copied(live)
        obj["status"] = copied(status)
        return self._finish_update(key, live, obj)

    def replace_whole(self, kind: str, namespace: str, body: Mapping[str, Any]) -> Object:
        """Store an object as given, metadata and status included: for server-side apply, which has checked everything."""
        key = (kind, namespace, body["metadata"]["name"])
        return self._finish_update(key, self._require(key), copied(body))

    def delete(
        self, kind: str, namespace: str, name: str, *, uid: str = "", propagation: str = "Background", grace: int | None = None
    ) -> None:
        """Delete: at once, after its dependants (`Foreground`), after its finalizers, or gracefully (pods).

        Args:
            grace: seconds a pod may take; None takes its own. 0 also means: the kubelet saw it end.
        """
        key = (kind, namespace, name)
        live = self._require(key)
        if uid and uid != live["metadata"]["uid"]:
            raise Conflict(f"the UID in the precondition ({uid}) does not match the UID in record ({live['metadata']['uid']})")
        if propagation == "Foreground" and FOREGROUND not in live["metadata"].get("finalizers", []):
            live = copied(live)
            live["metadata"].setdefault("finalizers", []).append(FOREGROUND)
        seconds = _grace(live) if grace is None else grace
        if "deletionTimestamp" in live["metadata"] and live["metadata"].get("deletionGracePeriodSeconds", 0) <= seconds:
            self._collect(key)
            return
        obj = copied(live)
        obj["metadata"]["deletionTimestamp"] = self._time(seconds)  # as in Kubernetes: when it should be gone
        obj["metadata"]["deletionGracePeriodSeconds"] = seconds
        self._put(key, obj, "MODIFIED")
        if propagation == "Foreground":
            self._delete_dependants(obj["metadata"]["uid"])
        self._collect(key)

    def remove_finalizer(self, kind: str, namespace: str, name: str, finalizer: str) -> None:
        """Take a finalizer off; an object that waited for it goes."""
        key = (kind, namespace, name)
        live = self._require(key)
        obj = copied(live)
        obj["metadata"]["finalizers"] = [other for other in obj["metadata"].get("finalizers", []) if other != finalizer]
        self._finish_update(key, live, obj)

    def now(self) -> str:
        """The clock in the format of the API."""
        return self._time(0)

    # ---- inside
    def _time(self, seconds_from_now: int) -> str:
        return (self._clock() + timedelta(seconds=seconds_from_now)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _require(self, key: Key) -> Object:
        if key not in self._objects:
            raise NotFound(f'{key[0]} "{key[2]}" not found')
        return self._objects[key]

    def _finish_update(self, key: Key, live: Object, obj: Object) -> Object:
        if obj == live:
            return self.get(*key)
        stored = self._put(key, obj, "MODIFIED")
        if "deletionTimestamp" in obj["metadata"]:
            self._collect(key)
        return stored

    def _put(self, key: Key, obj: Object, event: str) -> Object:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self._objects[key] = obj
        self._save(key, obj)
        self._tell(event, obj)
        return self.get(*key)

    def _tell(self, event: str, obj: Object) -> None:
        self._history.append(WatchEvent(self.version, event, obj))
        self._changed.set()

    def _collect(self, key: Key) -> None:
        """Remove a deleted object when nothing holds it any more, then whatever waited for that."""
        obj = self._objects.get(key)
        if obj is None or "deletionTimestamp" not in obj["metadata"]:
            return
        if obj["metadata"].get("deletionGracePeriodSeconds", 0) > 0:
            return  # its kubelet has not reported the end yet
        holds = [name for name in obj["metadata"].get("finalizers", []) if name != FOREGROUND]
        if FOREGROUND in obj["metadata"].get("finalizers", []) and self._dependants(obj["metadata"]["uid"]):
            holds.append(FOREGROUND)
        if holds:
            return
        del self._objects[key]
        self.version += 1
        if self._directory is not None:
            self._path(key).unlink(missing_ok=True)
        self._tell("DELETED", obj)
        self._delete_dependants(obj["metadata"]["uid"])
        for owner in obj["metadata"].get("ownerReferences", []):
            for other in [k for k, o in self._objects.items() if o["metadata"]["uid"] == owner["uid"]]:
                self._collect(other)

    def _dependants(self, uid: str) -> list[Key]:
        return [
            key for key, obj in self._objects.items() if any(owner["uid"] == uid for owner in obj["metadata"].get("ownerReferences", []))
        ]

    def _delete_dependants(self, uid: str) -> None:
        for kind, namespace, name in self._dependants(uid):
            if (kind, namespace, name) in self._objects:
                self.delete(kind, namespace, name)

    def _path(self, key: Key) -> Path:
        assert self._directory is not None
        return self._directory / key[0] / (key[1] or "_cluster") / f"{key[2]}.json"

    def _save(self, key: Key, obj: Object) -> None:
        if self._directory is None:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(obj), encoding="utf-8")
        os.replace(temporary, path)  # atomic: a killed process leaves the old or the new object, never half of one

    def _load(self, directory: Path) -> None:
        for path in sorted(directory.glob("*/*/*.json")):
            obj = json.loads(path.read_text(encoding="utf-8"))
            self._objects[(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])] = obj
            self.version = max(self.version, int(obj["metadata"]["resourceVersion"]))


def copied(value: Any) -> Any:
    """A copy of a JSON value. Stored objects are never changed, only replaced; who gets one may change the copy."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


def _grace(obj: Object) -> int:
    if obj["kind"] != "Pod" or obj.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    if "nodeName" not in obj["spec"]:
        return 0  # nothing runs yet: there is nobody to wait for
    return int(obj["spec"].get("terminationGracePeriodSeconds", 30))


def _matches(obj: Object, selector: str) -> bool:
    labels = obj["metadata"].get("labels", {})
    for term in filter(None, selector.split(",")):
        key, equals, value = term.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def _check_version(live: Object, version: str | None) -> None:
    if version and version != live["metadata"]["resourceVersion"]:
        raise Conflict("the object has been modified; please apply your changes to the latest version and try again")


def _check_immutable(live: Object, body: Mapping[str, Any]) -> None:
    immutable = {"Job": ("spec", "template"), "ControllerRevision": ("data",)}.get(live["kind"])
    if immutable is None:
        return
    before: Any = live
    after: Any = body
    for part in immutable:
        before, after = before.get(part), after.get(part)
    if before != after:
        raise Invalid(f'{live["kind"]} "{live["metadata"]["name"]}" is invalid: {".".join(immutable)}: field is immutable')
