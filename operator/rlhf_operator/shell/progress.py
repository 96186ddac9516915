"""Progress of running attempts: pod 0 is asked over HTTP, its checked answer goes to the reconciler. Nothing an answer says decides more
than figures and the progress deadline of the pod's own attempt.

Bounds: two seconds, 16 KiB, no redirects, no proxy, no compression, 32 questions at a time. A job is asked every 15 s, with more than 300
running jobs less often, and looked at because of progress at most every 30 s.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import aiohttp

from rlhf_api import names
from rlhf_api.outcome import MAX_PROGRESS_BYTES
from rlhf_operator.core import progress
from rlhf_operator.core.model import EventRecord, Reading
from rlhf_operator.shell.metrics import Metrics
from rlhf_operator.shell.observe import Target
from rlhf_operator.shell.reconciler import Reconciler, Recorder
from rlhf_operator.shell.workqueue import Key, Lane, WorkQueue

_LOG = logging.getLogger(__name__)
TIMEOUT = aiohttp.ClientTimeout(total=2.0)
MAX_AT_ONCE, MISSES = 32, 3
INTERVAL_SECONDS, JOBS_PER_SECOND, WRITE_SECONDS = 15.0, 20.0, 30.0
FIRST_ANSWER_SECONDS = 120.0
"""A new pod 0 imports for tens of seconds before it listens: until then silence is no miss (`Initializing` says it)."""


@dataclass(slots=True)
class _Followed:
    """What is remembered of one attempt."""

    next_poll: float
    position: object = None
    advanced: float = 0.0
    misses: int = 0
    looked: float = float("-inf")


@dataclass(slots=True)
class ProgressPoller:
    """Asks the pods 0 of all running attempts, for ever."""

    reconciler: Reconciler
    queue: WorkQueue
    recorder: Recorder
    metrics: Metrics
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _followed: dict[Target, _Followed] = field(default_factory=dict)

    async def run(self) -> None:
        """Poll until cancelled."""
        connector = aiohttp.TCPConnector(limit=MAX_AT_ONCE, force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT, trust_env=False, auto_decompress=False) as session:
            while True:
                await self.poll_due(session)
                await asyncio.sleep(1.0)

    async def poll_due(self, session: aiohttp.ClientSession) -> None:
        """Ask everybody whose time has come; returns when all have answered or failed."""
        due = self._due(self.reconciler.targets())
        for start in range(0, len(due), MAX_AT_ONCE):
            await asyncio.gather(*(self._poll(session, target) for target in due[start : start + MAX_AT_ONCE]))

    def _due(self, targets: Iterable[Target]) -> list[Target]:
        now, current = self.clock(), set(targets)
        for gone in self._followed.keys() - current:
            del self._followed[gone]
        interval = max(INTERVAL_SECONDS, len(current) / JOBS_PER_SECOND)
        for new in current - self._followed.keys():
            self._followed[new] = _Followed(next_poll=now + random.uniform(0.0, 1.0), advanced=now)
        due = [target for target in current if self._followed[target].next_poll <= now]
        for target in due:
            self._followed[target].next_poll = now + interval * random.uniform(0.8, 1.2)
        return due

    async def _poll(self, session: aiohttp.ClientSession, target: Target) -> None:
        answer = await fetch(session, target.url)
        document = progress.parse(answer, target.job_uid, target.stage, target.attempt) if answer is not None else None
        followed = self._followed[target]
        self.metrics.progress_polls.labels("ok" if document else "invalid" if answer is not None else "unreachable").inc()
        if document is None:
            await self._missed(target, followed)
            return
        now = self.clock()
        position = (document.step, document.state)
        if position != followed.position:
            followed.position, followed.advanced = position, now
        followed.misses = 0
        self.reconciler.report_progress(target.key, target.stage, Reading(document, self.now(), now - followed.advanced))
        self._look(target.key, followed, now)

    async def _missed(self, target: Target, followed: _Followed) -> None:
        """One miss is noise. After three the figures are old, and nobody can tell whether the attempt stands still."""
        if followed.position is None and self.clock() - followed.advanced < FIRST_ANSWER_SECONDS:
            return
        followed.misses += 1
        if followed.misses != MISSES:
            return
        self.reconciler.report_progress(target.key, target.stage, None)
        words = f"Stage {target.stage} attempt {target.attempt}: {target.url} gave no valid answer {MISSES} times; figures stand still"
        event = EventRecord("Warning", names.EVENT_PROGRESS_UNREACHABLE, words)
        await self.recorder.record(*target.key, target.job_uid, [event])

    def _look(self, key: Key, followed: _Followed, now: float) -> None:
        if now - followed.looked >= WRITE_SECONDS:
            followed.looked = now
            self.queue.add(key, Lane.LOW)


async def fetch(session: aiohttp.ClientSession, url: str) -> bytes | None:
    """The body of an answer within the bounds; None for anything else."""
    try:
        async with session.get(url, headers={"Accept-Encoding": "identity"}, allow_redirects=False) as response:
            if response.status != 200:
                return None
            body = b""
            async for chunk in response.content.iter_chunked(MAX_PROGRESS_BYTES + 1):
                body += chunk
                if len(body) > MAX_PROGRESS_BYTES:
                    return None
            return body
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None
