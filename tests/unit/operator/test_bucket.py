"""The rate limit: a burst, then a pace, in the order in which they asked; and a pause that the server wished for."""

import asyncio

from rlhf_operator.shell.bucket import TokenBucket


class World:
    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def test_a_burst_is_free_and_then_the_rate_holds() -> None:
    async def scenario() -> list[float]:
        world = World()
        bucket = TokenBucket(rate=10, burst=2, clock=world.clock, sleep=world.sleep)
        return [round(await bucket.take(), 3) for _ in range(4)]

    assert asyncio.run(scenario()) == [0, 0, 0.1, 0.1]


def test_who_asks_first_is_served_first() -> None:
    async def scenario() -> list[int]:
        world, served = World(), []
        bucket = TokenBucket(rate=10, burst=1, clock=world.clock, sleep=world.sleep)

        async def ask(number: int) -> None:
            await bucket.take()
            served.append(number)

        await asyncio.gather(*(ask(number) for number in range(5)))
        return served

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4]


def test_a_pause_holds_everybody() -> None:
    async def scenario() -> float:
        world = World()
        bucket = TokenBucket(rate=1000, burst=1000, clock=world.clock, sleep=world.sleep)
        bucket.pause(7)
        bucket.pause(3)
        assert not bucket.try_take()
        return await bucket.take()

    assert asyncio.run(scenario()) >= 7
