"""Events on RLHFJobs, for people: decisions' event records in, Kubernetes Events out. Best effort: an event never delays a reconcile.

The same reason and message on the same object within ten minutes is counted up. Events have a rate of their own; when a thousand wait,
new ones are dropped and counted.
"""

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rlhf_api import names
from rlhf_operator.core.model import EventRecord
from rlhf_operator.shell.bucket import TokenBucket
from rlhf_operator.shell.cluster_api import ClusterApi
from rlhf_operator.shell.kube import ApiError, NotFound
from rlhf_operator.shell.metrics import Metrics

_LOG = logging.getLogger(__name__)
SAME_SECONDS = 600.0
MAX_WAITING, MAX_REMEMBERED = 1000, 4096


@dataclass(frozen=True, slots=True)
class _Item:
    namespace: str
    name: str
    uid: str
    event: EventRecord

    @property
    def identity(self) -> tuple[str, str, str]:
        """Equal events are one Event with a count."""
        return (self.uid, self.event.reason, self.event.message)


@dataclass(slots=True)
class _Sent:
    name: str
    count: int
    at: float


@dataclass(slots=True)
class EventRecorder:
    """Takes events at once, sends them in the background by `run`."""

    api: ClusterApi
    metrics: Metrics
    bucket: TokenBucket = field(default_factory=lambda: TokenBucket(rate=10, burst=100))
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _waiting: "asyncio.Queue[_Item]" = field(default_factory=lambda: asyncio.Queue(MAX_WAITING))
    _sent: OrderedDict[tuple[str, str, str], _Sent] = field(default_factory=OrderedDict)

    async def record(self, namespace: str, name: str, uid: str, events: Sequence[EventRecord]) -> None:
        """Queue the events of one decision; what does not fit is dropped."""
        for event in events:
            try:
                self._waiting.put_nowait(_Item(namespace, name, uid, event))
            except asyncio.QueueFull:
                self.metrics.events_dropped.inc()

    async def run(self) -> None:
        """Send what waits, for ever."""
        while True:
            item = await self._waiting.get()
            await self.bucket.take()
            try:
                await self._send(item)
            except ApiError as error:
                self.metrics.events_dropped.inc()
                _LOG.debug("event %s was not sent: %s", item.event.reason, error.message)

    async def _send(self, item: _Item) -> None:
        known = self._sent.get(item.identity)
        if known is not None and self.clock() - known.at < SAME_SECONDS:
            patch = {"count": known.count + 1, "lastTimestamp": self._time()}
            try:
                await self.api.merge("Event", item.namespace, known.name, patch)
                self._remember(item, _Sent(known.name, known.count + 1, self.clock()))
                return
            except NotFound:
                pass  # it expired: a new one begins
        name = f"{item.name[:200]}.{uuid.uuid4().hex[:16]}"
        await self.api.create("Event", item.namespace, self._body(item, name))
        self._remember(item, _Sent(name, 1, self.clock()))

    def _remember(self, item: _Item, sent: _Sent) -> None:
        self._sent[item.identity] = sent
        self._sent.move_to_end(item.identity)
        while len(self._sent) > MAX_REMEMBERED:
            self._sent.popitem(last=False)

    def _body(self, item: _Item, name: str) -> dict[str, object]:
        about = {"apiVersion": names.API_VERSION, "kind": names.KIND_JOB, "namespace": item.namespace, "name": item.name, "uid": item.uid}
        return {
            "metadata": {"name": name, "namespace": item.namespace},
            "involvedObject": about,
            "type": item.event.type,
            "reason": item.event.reason,
            "message": item.event.message,
            "source": {"component": names.MANAGER},
            "reportingComponent": names.MANAGER,
            "firstTimestamp": self._time(),
            "lastTimestamp": self._time(),
            "count": 1,
        }

    def _time(self) -> str:
        return self.now().strftime("%Y-%m-%dT%H:%M:%SZ")
