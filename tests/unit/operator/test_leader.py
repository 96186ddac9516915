"""One leader at a time: taking, renewing, losing and giving back the Lease, by a clock that the test turns."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from rlhf_api.names import MANAGER as LEASE
from rlhf_operator.local.memory import MemoryApi
from rlhf_operator.local.store import Store
from rlhf_operator.shell.kube import Unavailable
from rlhf_operator.shell.leader import DURATION_SECONDS, GIVE_UP_SECONDS, Elector, Guard, LeadershipLost

NOON = datetime(2026, 7, 28, 12, tzinfo=UTC)


class World:
    """A Lease, a clock, and what happens at each sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self.store = Store(lambda: NOON)
        self.api = MemoryApi(self.store)
        self.at_sleep: list[Callable[[], None]] = []

    def elector(self, identity: str) -> tuple[Elector, Guard]:
        guard = Guard(clock=lambda: self.now)
        return Elector(self.api, guard, namespace="ns", identity=identity, now=lambda: NOON, sleep=self.sleep), guard

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.at_sleep:
            self.at_sleep.pop(0)()
        await asyncio.sleep(0)

    def lease(self) -> dict[str, object]:
        return dict(self.store.get("Lease", "ns", LEASE)["spec"])

    def stop(self) -> None:
        raise asyncio.CancelledError


def run(work: Awaitable[None]) -> None:
    async def scenario() -> None:
        await work

    asyncio.run(scenario())


def test_the_first_one_leads_and_may_write_for_ten_seconds() -> None:
    world = World()
    elector, guard = world.elector("one")
    assert not guard.is_valid
    run(elector.acquire())
    assert (world.lease()["holderIdentity"], world.lease()["leaseTransitions"]) == ("one", 1)
    guard.check()
    world.now = GIVE_UP_SECONDS - 0.1
    guard.check()
    world.now = GIVE_UP_SECONDS
    with pytest.raises(LeadershipLost):
        guard.check()


def test_without_an_election_everything_may_be_written() -> None:
    Guard().check()


def test_the_second_one_waits_until_the_lease_is_over() -> None:
    world = World()
    run(world.elector("one")[0].acquire())
    second, guard = world.elector("two")
    run(second.acquire())
    assert guard.is_valid
    assert world.now >= DURATION_SECONDS
    assert world.lease()["leaseTransitions"] == 2


def test_a_lease_that_is_renewed_is_not_taken() -> None:
    world = World()
    first, _ = world.elector("one")
    run(first.acquire())
    second, guard = world.elector("two")

    def renew() -> None:
        lease = world.store.get("Lease", "ns", LEASE)
        lease["spec"]["renewTime"] = str(world.now)
        world.store.update("Lease", "ns", lease)

    world.at_sleep = [*[renew] * 10, world.stop]
    with pytest.raises(asyncio.CancelledError):
        run(second.acquire())
    assert world.now > 3 * DURATION_SECONDS
    assert not guard.is_valid


def test_two_installations_lead_at_the_same_time() -> None:
    world = World()
    first, guard = world.elector("one")
    other_guard = Guard(clock=lambda: world.now)
    second = Elector(world.api, other_guard, namespace="ns", identity="two", name="team-b", sleep=world.sleep)
    run(first.acquire())
    run(second.acquire())
    assert guard.is_valid
    assert other_guard.is_valid
    assert world.store.get("Lease", "ns", "team-b")["spec"]["holderIdentity"] == "two"


def test_a_lease_that_was_given_back_is_taken_at_once() -> None:
    world = World()
    first, guard = world.elector("one")
    run(first.acquire())
    run(first.release())
    assert not guard.is_valid
    assert world.lease()["holderIdentity"] == ""
    run(world.elector("two")[0].acquire())
    assert world.now == 0


def test_only_the_holder_gives_back() -> None:
    world = World()
    first, _ = world.elector("one")
    run(world.elector("two")[0].acquire())
    run(first.release())
    assert world.lease()["holderIdentity"] == "two"


def test_renewals_keep_it_valid() -> None:
    world = World()
    elector, guard = world.elector("one")
    run(elector.acquire())
    world.at_sleep = [lambda: None] * 5 + [world.stop]
    with pytest.raises(asyncio.CancelledError):
        run(elector.renew())
    assert guard.valid_until > world.now
    assert world.lease()["leaseTransitions"] == 1


def test_errors_are_waited_out_until_it_is_too_late() -> None:
    world = World()
    elector, _ = world.elector("one")
    run(elector.acquire())
    world.api.faults.fail("get", "Lease", Unavailable("away"), every=True)
    with pytest.raises(LeadershipLost):
        run(elector.renew())
    assert world.now == GIVE_UP_SECONDS


def test_another_holder_ends_it_at_once() -> None:
    world = World()
    elector, guard = world.elector("one")
    run(elector.acquire())
    lease = world.store.get("Lease", "ns", LEASE)
    lease["spec"]["holderIdentity"] = "two"
    world.store.update("Lease", "ns", lease)
    with pytest.raises(LeadershipLost, match="another process"):
        run(elector.renew())
    assert not guard.is_valid


def test_a_standby_waits_out_errors_too() -> None:
    world = World()
    world.api.faults.fail("get", "Lease", Unavailable("away"))
    elector, guard = world.elector("one")
    run(elector.acquire())
    assert guard.is_valid


def test_a_release_that_fails_is_no_error() -> None:
    world = World()
    elector, _ = world.elector("one")
    run(elector.acquire())
    world.api.faults.fail("get", "Lease", Unavailable("away"))
    run(elector.release())
    assert world.lease()["holderIdentity"] == "one"
