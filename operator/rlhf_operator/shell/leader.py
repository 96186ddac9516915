"""One process at a time may write: an own elector over a Lease. Time in, `may I write?` out.

The client library's elector was rejected: it goes on leading after a network error. Here the answer turns to no by itself, by the local
monotonic clock, so a process that was paused finds out before its next write.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from rlhf_api import names
from rlhf_operator.shell.kube import AlreadyExists, ApiError, Conflict, KubeApi, NotFound, Object

_LOG = logging.getLogger(__name__)
DURATION_SECONDS, RENEW_SECONDS, GIVE_UP_SECONDS = 15, 5.0, 10.0


class LeadershipLost(Exception):
    """Another process may lead now. Nothing may be written any more; the process ends."""


@dataclass(slots=True)
class Guard:
    """Whether this process may write. Without election it always may."""

    clock: Callable[[], float] = time.monotonic
    valid_until: float = float("inf")

    def check(self) -> None:
        """Called before every write.

        Raises:
            LeadershipLost: the last renewal is too long ago.
        """
        if not self.is_valid:
            raise LeadershipLost("the Lease was not renewed in time")

    @property
    def is_valid(self) -> bool:
        """The Lease is ours for now."""
        return self.clock() < self.valid_until


class Elector:
    """Acquires the Lease, renews it, gives it back.

    Args:
        api: writes without asking the guard; the Lease protects itself by its resourceVersion.
        name: of the Lease.
        now: UTC time, for other processes' eyes; validity is counted on `guard.clock`.
    """

    def __init__(
        self,
        api: KubeApi,
        guard: Guard,
        *,
        namespace: str,
        identity: str,
        name: str = names.MANAGER,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._api, self._guard = api, guard
        self._namespace, self._name, self._identity = namespace, name, identity
        self._now, self._sleep = now, sleep
        self._seen: tuple[object, float] = (None, 0.0)
        guard.valid_until = float("-inf")

    async def acquire(self) -> None:
        """Return once this process leads. Errors are waited out: a standby has nothing better to do."""
        while True:
            try:
                if await self._try():
                    _LOG.info("leading as %s", self._identity)
                    return
            except ApiError as error:
                _LOG.warning("the Lease could not be read or taken: %s", error.message)
            await self._sleep(RENEW_SECONDS)

    async def renew(self) -> None:
        """Keep the Lease for ever.

        Raises:
            LeadershipLost: another process has it, or it could not be renewed for ten seconds.
        """
        while True:
            await self._sleep(RENEW_SECONDS)
            self._guard.check()
            try:
                async with asyncio.timeout(max(0.1, self._guard.valid_until - self._guard.clock())):
                    is_ours = await self._try()
            except (ApiError, TimeoutError) as error:
                _LOG.warning("the Lease could not be renewed: %s", error)
                continue
            if not is_ours:
                self._guard.valid_until = float("-inf")
                raise LeadershipLost("another process took the Lease")

    async def release(self) -> None:
        """Let another process start at once. Best effort: else the Lease expires."""
        self._guard.valid_until = float("-inf")
        try:
            lease = await self._api.get("Lease", self._namespace, self._name)
            if lease["spec"].get("holderIdentity") == self._identity:
                spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": self._time()}
                await self._api.replace("Lease", self._namespace, {**lease, "spec": spec})
        except ApiError as error:
            _LOG.warning("the Lease could not be released: %s", error.message)

    async def _try(self) -> bool:
        """Take or renew the Lease if nobody else holds it. True: it is ours from now on."""
        asked = self._guard.clock()
        try:
            lease = await self._api.get("Lease", self._namespace, self._name)
        except NotFound:
            return await self._write(self._api.create, {"metadata": {"name": self._name, "namespace": self._namespace}, "spec": {}}, asked)
        if self._is_held_by_another(lease):
            return False
        return await self._write(self._api.replace, lease, asked)

    async def _write(self, write: Callable[[str, str, Object], Awaitable[Object]], lease: Object, asked: float) -> bool:
        try:
            await write("Lease", self._namespace, {**lease, "spec": self._spec(lease["spec"])})
        except (Conflict, AlreadyExists):
            return False  # another process was faster: the next look shows who
        self._guard.valid_until = asked + GIVE_UP_SECONDS  # counted from before the request: it may have taken long
        return True

    def _is_held_by_another(self, lease: Object) -> bool:
        """Whether its holder may still believe in it, by our own clock: from when we saw its last renewal. Clocks of nodes differ."""
        spec = lease["spec"]
        if spec.get("holderIdentity") in (None, "", self._identity):
            return False
        record = (spec.get("holderIdentity"), spec.get("renewTime"))
        if self._seen[0] != record:
            self._seen = (record, self._guard.clock())
        return self._guard.clock() < self._seen[1] + float(spec.get("leaseDurationSeconds") or DURATION_SECONDS)

    def _spec(self, old: Object) -> Object:
        is_new = old.get("holderIdentity") != self._identity
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": DURATION_SECONDS,
            "renewTime": self._time(),
            "acquireTime": self._time() if is_new else old.get("acquireTime", self._time()),
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + is_new,
        }

    def _time(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
