"""Events of the embedded cluster: objects in the store, for `rlhf get` and `rlhf describe`."""

import hashlib
from collections.abc import Sequence

from rlhf_api import names
from rlhf_operator.core.model import EventRecord
from rlhf_operator.local.store import Store
from rlhf_operator.shell.kube import AlreadyExists


class LocalRecorder:
    """Keeps events; the same event again is counted up, not repeated."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def record(self, namespace: str, name: str, uid: str, events: Sequence[EventRecord]) -> None:
        """Store the events of one decision."""
        for event in events:
            self._record(namespace, name, uid, event)

    def _record(self, namespace: str, name: str, uid: str, event: EventRecord) -> None:
        now = self._store.now()
        identity = hashlib.sha256(f"{uid}/{event.reason}/{event.message}".encode()).hexdigest()[:16]
        body = {
            "metadata": {"name": f"{name}.{identity}"},
            "involvedObject": {"apiVersion": names.API_VERSION, "kind": names.KIND_JOB, "namespace": namespace, "name": name, "uid": uid},
            "type": event.type,
            "reason": event.reason,
            "message": event.message,
            "source": {"component": names.MANAGER},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "sequence": self._store.version,
        }
        try:
            self._store.create("Event", namespace, body)
        except AlreadyExists:
            known = self._store.get("Event", namespace, f"{name}.{identity}")
            self._store.update("Event", namespace, {**known, "count": known["count"] + 1, "lastTimestamp": now})
