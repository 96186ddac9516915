"""Keyed work queue: keys in from watches, timers and workers; one key at a time out.

The rules are those of client-go. Equal keys merge while they wait. A key that is added while it is being worked on waits for one more
round, so no job is reconciled twice at once. A key has at most one timer, the earliest wins, and a round makes it void: the round
decides anew when to look again. Queueing the events themselves was rejected: one lost event would strand its job.
"""

import asyncio
import heapq
import itertools
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

Key = tuple[str, str]
"""Namespace and name of an RLHFJob; ("", name) is a profile."""

_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.5, 300.0
_JITTER = 0.2
_VOID_TIMERS = 64
"""So many may stay besides as many as there are live ones: then looking through all of them costs nothing on average."""


class Lane(StrEnum):
    """Who goes first."""

    NORMAL = "normal"
    LOW = "low"
    """First listing and resync: thousands of keys at once, which must not delay one that somebody waits for."""


@dataclass(slots=True)
class _Waiting:
    lane: Lane
    since: float


@dataclass(slots=True)
class WorkQueue:
    """Not thread-safe: one event loop uses it.

    Args:
        clock: seconds that only grow.
        max_low: how many keys of the low lane may be worked on at the same time.
        jitter: factor on the delay of a retry.
    """

    max_low: int = 8
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = lambda: random.uniform(1 - _JITTER, 1 + _JITTER)
    _lanes: dict[Lane, deque[Key]] = field(default_factory=lambda: {lane: deque() for lane in Lane})
    _waiting: dict[Key, _Waiting] = field(default_factory=dict)
    _working: dict[Key, Lane] = field(default_factory=dict)
    _dirty: dict[Key, Lane] = field(default_factory=dict)
    _timers: list[tuple[float, int, Key, Lane]] = field(default_factory=list)
    _due: dict[Key, tuple[float, int]] = field(default_factory=dict)
    _failures: dict[Key, int] = field(default_factory=dict)
    _serial: "itertools.count[int]" = field(default_factory=itertools.count)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, key: Key, lane: Lane = Lane.NORMAL) -> None:
        """Work on the key as soon as possible. The better lane counts."""
        if key in self._working:
            self._dirty[key] = Lane.NORMAL if Lane.NORMAL in (lane, self._dirty.get(key)) else lane
            return
        waiting = self._waiting.get(key)
        if waiting is not None and (waiting.lane is lane or lane is Lane.LOW):
            return
        self._waiting[key] = _Waiting(lane, waiting.since if waiting else self.clock())
        self._lanes[lane].append(key)  # an entry left in the other lane is stale, and skipped when its turn comes
        self._changed.set()

    def add_after(self, key: Key, seconds: float, lane: Lane = Lane.NORMAL) -> None:
        """Add the key later, unless it has an earlier timer."""
        if seconds <= 0:
            self.add(key, lane)
            return
        due = self.clock() + seconds
        if key in self._due and self._due[key][0] <= due:
            return
        serial = next(self._serial)
        self._due[key] = (due, serial)
        heapq.heappush(self._timers, (due, serial, key, lane))
        self._drop_void_timers()
        self._changed.set()

    def retry(self, key: Key, lane: Lane = Lane.NORMAL) -> float:
        """Add the key after a delay that doubles with every retry since `forget`, with jitter. Returns the seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        seconds = min(_FIRST_RETRY_SECONDS * 2.0 ** min(failures, 32), _LONGEST_RETRY_SECONDS) * self.jitter()
        self.add_after(key, seconds, lane)
        return seconds

    def forget(self, key: Key) -> None:
        """The key has succeeded: its next retry starts with the shortest delay."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """The next key, once there is one. The caller ends with `done`."""
        while True:
            key = self.take()
            if key is not None:
                return key
            self._changed.clear()
            due = self.next_due()
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - self.clock())):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def take(self) -> Key | None:
        """The next key if there is one now: normal lane first, then low while few of those are worked on."""
        self._promote()
        lanes = (Lane.NORMAL, Lane.LOW) if sum(lane is Lane.LOW for lane in self._working.values()) < self.max_low else (Lane.NORMAL,)
        for lane in lanes:
            while self._lanes[lane]:
                key = self._lanes[lane].popleft()
                waiting = self._waiting.get(key)
                if waiting is not None and waiting.lane is lane:
                    del self._waiting[key]
                    self._due.pop(key, None)
                    self._working[key] = lane
                    return key
        return None

    def done(self, key: Key) -> None:
        """The round is over. A key that was added meanwhile waits for the next one."""
        self._working.pop(key, None)
        lane = self._dirty.pop(key, None)
        if lane is not None:
            self.add(key, lane)
        self._changed.set()  # a place of the low lane may be free

    def lane_of(self, key: Key) -> Lane:
        """The lane in which a key that is worked on came."""
        return self._working.get(key, Lane.NORMAL)

    def next_due(self) -> float | None:
        """When the next timer fires, by the clock."""
        while self._timers and self._due.get(self._timers[0][2]) != self._timers[0][:2]:
            heapq.heappop(self._timers)  # replaced or void
        return self._timers[0][0] if self._timers else None

    def depth(self, lane: Lane) -> int:
        """Keys that wait in a lane."""
        return sum(waiting.lane is lane for waiting in self._waiting.values())

    def oldest_age(self, lane: Lane) -> float:
        """For how long the oldest key of a lane has waited, in seconds."""
        return max((self.clock() - waiting.since for waiting in self._waiting.values() if waiting.lane is lane), default=0.0)

    def _drop_void_timers(self) -> None:
        """A void timer leaves when it would have fired. Some are days away and set anew in every round: they must not wait for that."""
        if len(self._timers) > 2 * len(self._due) + _VOID_TIMERS:
            self._timers = [timer for timer in self._timers if self._due.get(timer[2]) == timer[:2]]
            heapq.heapify(self._timers)

    def _promote(self) -> None:
        now = self.clock()
        while (due := self.next_due()) is not None and due <= now:
            _, _, key, lane = heapq.heappop(self._timers)
            del self._due[key]
            self.add(key, lane)
