"""The workers: a key from the queue in, one round of its reconcile, and the time of its next look out."""

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rlhf_operator.shell.known import Known
from rlhf_operator.shell.kube import ApiError, KubeApi
from rlhf_operator.shell.leader import LeadershipLost
from rlhf_operator.shell.metrics import Metrics
from rlhf_operator.shell.profiles import reconcile_profile
from rlhf_operator.shell.reconciler import Reconciler
from rlhf_operator.shell.slots import Slots
from rlhf_operator.shell.workqueue import Key, Lane, WorkQueue

_LOG = logging.getLogger(__name__)
RESYNC_SECONDS = (300.0, 600.0)
"""A quiet job is visited this often, jittered: it heals events that were lost, so it cannot be off."""
PROFILE_SECONDS = 60.0
"""How old the number of running jobs in a profile's status may be."""
TRACEBACK_SECONDS = 60.0
"""The same defect is written out in full only this often."""


@dataclass(slots=True)
class Workers:
    """Several rounds at once, one at a time for each key."""

    queue: WorkQueue
    reconciler: Reconciler
    api: KubeApi
    known: Known
    slots: Slots
    metrics: Metrics
    clock: Callable[[], float] = time.monotonic
    _told: dict[str, float] = field(default_factory=dict)

    async def run(self, num_workers: int) -> None:
        """Work until cancelled, or until this process must not write any more.

        Raises:
            LeadershipLost: inside an ExceptionGroup.
        """
        async with asyncio.TaskGroup() as group:
            for number in range(num_workers):
                group.create_task(self._work(), name=f"worker {number}")

    async def _work(self) -> None:
        while True:
            key = await self.queue.get()
            started = self.clock()
            try:
                await self._round(key)
            except LeadershipLost:
                raise
            except Exception as error:  # the outermost place of a round: a defect in one job must not stop the others
                self._tell(key, error)
                self._count_retry(key)
                self.queue.retry(key)
            finally:
                self.queue.done(key)
                self.metrics.reconcile_duration.observe(self.clock() - started)

    async def _round(self, key: Key) -> None:
        if not key[0]:
            await self._profile_round(key)
            return
        wait = 0.0 if self._is_running(key) else self.slots.seconds_until_known()
        if wait > 0:
            self.queue.add_after(key, wait, Lane.LOW)  # nothing new starts before it is known what runs
            return
        holds = self._ask_for_slot(key)
        seconds = await self.reconciler.reconcile(key)
        self.queue.forget(key)
        if self.reconciler.has_failed(key):
            self._count_retry(key)
        if holds and not self._is_running(key) and not self.reconciler.has_failed(key):  # after an error nobody knows: it may run
            self._start(self.slots.free(key))
        if not self.reconciler.knows(key):
            self.known.drop(key)  # also when its deletion fell into a gap of the watch
            self._start(self.slots.free(key))
            return
        self._look_again(key, seconds)

    async def _profile_round(self, key: Key) -> None:
        try:
            is_there = await reconcile_profile(self.api, key[1], datetime.now(UTC), self.known.num_running(key[1]))
            self.queue.forget(key)
            if is_there:
                self.queue.add_after(key, PROFILE_SECONDS, Lane.LOW)
        except ApiError as error:
            _LOG.info("profile %s: %s", key[1], error.message)
            self.queue.retry(key, Lane.LOW)

    def _ask_for_slot(self, key: Key) -> bool:
        """Tell the round whether the job may begin. True: it holds a slot that it has to give back unless it runs afterwards."""
        seen = self.known.get(key)
        if seen is None or self._is_running(key):
            self.reconciler.set_slot(key, has_slot=True)
            return seen is not None
        if seen.is_resting:
            self._start(self.slots.free(key))
        has_slot = not seen.is_resting and self.slots.take(key, seen.profile, seen.created)
        self.reconciler.set_slot(key, has_slot=has_slot)
        return has_slot

    def _is_running(self, key: Key) -> bool:
        seen = self.known.get(key)
        return (seen is not None and seen.is_running) or self.reconciler.is_running(key)

    def _look_again(self, key: Key, seconds: float | None) -> None:
        if seconds is not None:  # a timer is a look that nobody waits for; a repetition at once is not
            self.queue.add_after(key, seconds, Lane.LOW if seconds > 0 else Lane.NORMAL)
        seen = self.known.get(key)
        if seen is None or not seen.is_settled:
            self.queue.add_after(key, random.uniform(*RESYNC_SECONDS), Lane.LOW)

    def _start(self, keys: list[Key]) -> None:
        for key in keys:
            self.queue.add(key)

    def _count_retry(self, key: Key) -> None:
        self.metrics.workqueue_retries.labels(self.queue.lane_of(key)).inc()

    def _tell(self, key: Key, error: Exception) -> None:
        kind = type(error).__name__
        self.metrics.reconcile_errors.labels(kind).inc()
        is_new = self.clock() - self._told.get(kind, float("-inf")) >= TRACEBACK_SECONDS
        if is_new:
            self._told[kind] = self.clock()
        extra = {"job": "/".join(key), "reconcile_id": uuid.uuid4().hex[:8]}
        _LOG.error("a round failed by a defect: %s: %s", kind, error, exc_info=error if is_new else None, extra=extra)
