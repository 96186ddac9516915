"""One HTTP server for `/healthz`, `/readyz` and `/metrics`: the process's state in, answers for kubelet and Prometheus out."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

_LOG = logging.getLogger(__name__)
DEAD_AFTER_SECONDS = 30.0
BEAT_SECONDS = 1.0


@dataclass(slots=True)
class Health:
    """Alive while the event loop turns, whatever the API server does; ready while leading with open watches, or standing by."""

    metrics: Callable[[], bytes]
    clock: Callable[[], float] = time.monotonic
    is_ready: bool = False
    _last_beat: float = field(init=False)

    def __post_init__(self) -> None:
        self._last_beat = self.clock()

    async def beat(self) -> None:
        """The heartbeat of the event loop, for ever."""
        while True:
            self._last_beat = self.clock()
            await asyncio.sleep(BEAT_SECONDS)

    async def serve(self, port: int) -> web.AppRunner:
        """Start the server on all addresses; the caller cleans the runner up."""
        app = web.Application()
        app.add_routes([web.get("/healthz", self._healthz), web.get("/readyz", self._readyz), web.get("/metrics", self._metrics)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, None if port else "0.0.0.0", port)  # a free port is free in one address family only
        await site.start()
        _LOG.info("health and metrics on port %s", runner.addresses[0][1])
        return runner

    async def _healthz(self, _: web.Request) -> web.Response:
        age = self.clock() - self._last_beat
        if age > DEAD_AFTER_SECONDS:
            return web.Response(status=503, text=f"the event loop stood still for {age:.0f} s\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n") if self.is_ready else web.Response(status=503, text="not ready: the watches are not open yet\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self.metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
