"""`maxRunningJobsPerNamespace`: which jobs may start. What runs comes from the watches, what is about to run from this process.

A LIST for every waiting job was rejected: its cost grows with the square of their number. After a restart the watches first have to tell
what runs already, so nothing new starts until their first listing has been quiet for a while.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from rlhf_operator.shell.workqueue import Key

QUIET_SECONDS = 3.0
Place = tuple[str, str]
"""Namespace and profile: the limit is one of the profile, for each namespace."""


@dataclass(slots=True)
class Slots:
    """Who holds a slot and who waits for one. One worker at a time handles a key, so answers cannot race."""

    clock: Callable[[], float] = time.monotonic
    _limits: dict[str, int] = field(default_factory=dict)
    _holders: dict[Place, set[Key]] = field(default_factory=dict)
    _places: dict[Key, Place] = field(default_factory=dict)
    _waiting: dict[Place, dict[Key, datetime]] = field(default_factory=dict)
    _last_listed: float = field(init=False)
    _is_settled: bool = False

    def __post_init__(self) -> None:
        self._last_listed = self.clock()

    def listed(self) -> None:
        """The first listing showed one more object."""
        self._last_listed = self.clock()

    def set_limit(self, profile: str, limit: int | None) -> list[Key]:
        """The profile's limit now; None: it is gone. Returns the keys that may try again."""
        if limit is None:
            self._limits.pop(profile, None)
        else:
            self._limits[profile] = limit
        return [key for place in list(self._waiting) if place[1] == profile for key in self._next(place)]

    def take(self, key: Key, profile: str, created: datetime) -> bool:
        """A slot for a job that is about to start; False: it waits, and `free` will name it. Asking again changes nothing."""
        place = (key[0], profile)
        holders = self._holders.setdefault(place, set())
        if key in holders:
            return True
        if self._num_free(place) <= 0:
            self._waiting.setdefault(place, {})[key] = created
            return False
        self.hold(key, profile)
        return True

    def hold(self, key: Key, profile: str) -> None:
        """The job runs."""
        place = (key[0], profile)
        self._places[key] = place
        self._holders.setdefault(place, set()).add(key)
        self._waiting.get(place, {}).pop(key, None)

    def free(self, key: Key) -> list[Key]:
        """The job neither runs nor waits any more, or did not start after all. Returns the keys that may start in its place."""
        left = [place for place, waiting in self._waiting.items() if waiting.pop(key, None) is not None]
        place = self._places.pop(key, None)
        if place is not None:
            self._holders[place].discard(key)
            left.append(place)
        return [other for place in left for other in self._next(place)]  # who was named and does not want it passes it on

    def is_full(self, namespace: str, profile: str) -> bool:
        """A job that comes now will have to wait."""
        return self._num_free((namespace, profile)) <= 0

    def seconds_until_known(self) -> float:
        """How long what runs already may still be unknown; 0 from the first quiet moment on."""
        if not self._is_settled:
            left = self._last_listed + QUIET_SECONDS - self.clock()
            self._is_settled = left <= 0
            return max(0.0, left)
        return 0.0

    def _num_free(self, place: Place) -> int:
        """Without a known limit there is no profile, and admission refuses the job with better words."""
        limit = self._limits.get(place[1])
        return 1 if limit is None else limit - len(self._holders.get(place, ()))

    def _next(self, place: Place) -> list[Key]:
        """The oldest waiting keys, as many as there are free slots."""
        waiting = self._waiting.get(place, {})
        return sorted(waiting, key=lambda key: (waiting[key], key))[: max(0, self._num_free(place))]
