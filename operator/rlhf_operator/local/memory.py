"""`KubeApi` in memory: what the operator sees of the embedded cluster.

Calls come in from `shell/reconciler.py`; objects live in `store.py`, which the Job runner and the kubelet share. This file adds what
belongs to the API and not to storage: server-side apply of a status, volumes that are bound at once, and injected faults.
"""

from collections.abc import Mapping
from typing import Any

from rlhf_operator.local.faults import Faults
from rlhf_operator.local.store import Store, copied
from rlhf_operator.shell.kube import Conflict, Object, Page, Unavailable

OWNER = "rlhf-operator"
"""Field manager of the operator's status."""


class MemoryApi:
    """The embedded API server. Raises what a real one raises; see `kube.ApiError`."""

    def __init__(self, store: Store, faults: Faults | None = None) -> None:
        self.store = store
        self.faults = faults or Faults()

    async def get(self, kind: str, namespace: str, name: str) -> Object:
        """The object as it is now."""
        self._check("get", kind)
        return _visible(self.store.get(kind, namespace, name))

    async def list(
        self, kind: str, namespace: str, *, selector: str = "", fields: str = "", limit: int = 500, continue_token: str = ""
    ) -> Page:
        """All matching objects on one page: pagination is not imitated."""
        self._check("list", kind)
        wanted = dict(term.split("=", 1) for term in fields.split(",") if term)
        found = [
            obj for obj in self.store.find(kind, namespace, selector) if all(_at(obj, path) == value for path, value in wanted.items())
        ]
        return Page(tuple(map(_visible, found)), str(self.store.version))

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any]) -> Object:
        """POST. A claim is bound at once: the volume is a directory."""
        self._check("create", kind)
        created = self.store.create(kind, namespace, body)
        if kind == "PersistentVolumeClaim":
            created = self.store.update_status(kind, namespace, created["metadata"]["name"], {"phase": "Bound"})
        self.faults.check("create", kind, applied=True)
        return _visible(created)

    async def replace(self, kind: str, namespace: str, body: Mapping[str, Any]) -> Object:
        """PUT of metadata and spec; the status is another resource."""
        self._check("replace", kind)
        applied = self.store.get(kind, namespace, body["metadata"]["name"])["metadata"].get("managedFields")
        body = copied(body)
        if applied is not None:
            body["metadata"]["managedFields"] = applied
        replaced = self.store.update(kind, namespace, body)
        self.faults.check("replace", kind, applied=True)
        return _visible(replaced)

    async def apply_status(
        self, kind: str, namespace: str, name: str, status: Mapping[str, Any], *, uid: str, resource_version: str
    ) -> Object:
        """Apply the whole desired status: own fields that are missing now go, foreign ones stay, conditions merge by type."""
        self._check("apply_status", kind)
        live = self.store.get(kind, namespace, name)
        if live["metadata"]["uid"] != uid or live["metadata"]["resourceVersion"] != resource_version:
            raise Conflict("the object has been modified; please apply your changes to the latest version and try again")
        before = _owned(live)
        merged = _merge(live.get("status", {}), before, status)
        if merged != live.get("status", {}) or before != status:
            live["metadata"]["managedFields"] = [{"manager": OWNER, "subresource": "status", "fields": copied(status)}]
            live = self.store.replace_whole(kind, namespace, {**live, "status": merged})
        self.faults.check("apply_status", kind, applied=True)
        return _visible(live)

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str = "", propagation: str = "Background") -> None:
        """Delete, with the uid as precondition when given."""
        self._check("delete", kind)
        self.store.delete(kind, namespace, name, uid=uid, propagation=propagation)
        self.faults.check("delete", kind, applied=True)

    def _check(self, verb: str, kind: str) -> None:
        if self.faults.frozen:
            raise Unavailable("the embedded API is frozen by a test")
        self.faults.check(verb, kind)


def _at(obj: Object, path: str) -> object:
    """The value at a path such as involvedObject.uid."""
    value: Any = obj
    for key in path.split("."):
        value = value.get(key, {})
    return value


def _visible(obj: Object) -> Object:
    obj["metadata"].pop("managedFields", None)
    return obj


def _owned(live: Object) -> Mapping[str, Any]:
    entries: list[Mapping[str, Any]] = live["metadata"].get("managedFields", [])
    return next((entry["fields"] for entry in entries if entry["manager"] == OWNER), {})


def _merge(live: Mapping[str, Any], before: Mapping[str, Any], desired: Mapping[str, Any]) -> dict[str, Any]:
    """Server-side apply on JSON: maps field by field, `conditions` by type, other lists as one value."""
    merged = {key: value for key, value in live.items() if key in desired or key not in before}
    for key, value in desired.items():
        if key == "conditions":
            merged[key] = _merge_conditions(live.get(key, []), before.get(key, []), value)
        elif isinstance(value, dict) and isinstance(live.get(key), dict):
            merged[key] = _merge(live[key], before.get(key, {}), value)
        else:
            merged[key] = copied(value)
    return merged


def _merge_conditions(live: list[Object], before: list[Object], desired: list[Object]) -> list[Object]:
    ours = {condition["type"] for condition in [*before, *desired]}
    return [*(condition for condition in live if condition["type"] not in ours), *copied(desired)]
