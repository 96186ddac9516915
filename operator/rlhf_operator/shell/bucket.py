"""A token bucket: how fast this process may send requests. Who asks first is served first, so no key starves another."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class TokenBucket:
    """`burst` tokens at once, then `rate` a second. Clock and sleep are injected for tests."""

    rate: float
    burst: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _tokens: float = 0.0
    _filled: float = 0.0
    _not_before: float = float("-inf")
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._tokens, self._filled = self.burst, self.clock()

    async def take(self) -> float:
        """Take one token, waiting for it if need be. Returns the seconds waited."""
        started = self.clock()
        async with self._turn:  # asyncio's lock wakes its waiters in the order in which they came
            while not self.try_take():
                await self.sleep(self._missing_seconds())
        return self.clock() - started

    def try_take(self) -> bool:
        """Take a token if there is one now."""
        now = self.clock()
        self._tokens = min(self.burst, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        if self._tokens < 1 or now < self._not_before:
            return False
        self._tokens -= 1
        return True

    def pause(self, seconds: float) -> None:
        """Give out nothing for a while: the server asked for it."""
        self._not_before = max(self._not_before, self.clock() + seconds)

    def _missing_seconds(self) -> float:
        now = self.clock()
        return max(0.001, self._not_before - now, (1 - self._tokens) / self.rate)
