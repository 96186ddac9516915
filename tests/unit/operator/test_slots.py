"""`maxRunningJobsPerNamespace`: who starts, who waits, who is next, and that nothing starts before it is known what runs."""

from datetime import UTC, datetime, timedelta

import pytest

from rlhf_operator.shell.slots import QUIET_SECONDS, Slots

NOON = datetime(2026, 7, 28, 12, tzinfo=UTC)
A, B, C = ("team", "a"), ("team", "b"), ("team", "c")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def slots() -> Slots:
    slots = Slots(clock=Clock())
    slots.set_limit("cpu", 1)
    return slots


def test_the_next_job_waits_and_is_named_when_a_slot_is_free(slots: Slots) -> None:
    assert slots.take(A, "cpu", NOON)
    assert slots.take(A, "cpu", NOON), "asking again changes nothing"
    assert not slots.take(B, "cpu", NOON)
    assert slots.is_full("team", "cpu")
    assert slots.free(A) == [B]
    assert slots.take(B, "cpu", NOON)
    assert slots.free(A) == []


def test_the_oldest_goes_first(slots: Slots) -> None:
    slots.hold(A, "cpu")
    assert not slots.take(B, "cpu", NOON + timedelta(seconds=1))
    assert not slots.take(C, "cpu", NOON)
    assert slots.free(A) == [C]


def test_namespaces_and_profiles_do_not_compete(slots: Slots) -> None:
    slots.set_limit("gpu", 1)
    assert slots.take(A, "cpu", NOON)
    assert slots.take(B, "gpu", NOON)
    assert slots.take(("other", "a"), "cpu", NOON)


def test_a_higher_limit_lets_the_waiting_try(slots: Slots) -> None:
    slots.hold(A, "cpu")
    slots.take(B, "cpu", NOON)
    slots.take(C, "cpu", NOON)
    assert slots.set_limit("cpu", 2) == [B]
    assert slots.set_limit("cpu", 3) == [B, C]


def test_without_a_profile_there_is_no_limit(slots: Slots) -> None:
    slots.set_limit("cpu", None)
    slots.hold(A, "cpu")
    assert slots.take(B, "cpu", NOON)


def test_a_waiting_job_that_is_gone_is_not_named(slots: Slots) -> None:
    slots.hold(A, "cpu")
    slots.take(B, "cpu", NOON)
    assert slots.free(B) == []
    assert slots.free(A) == []


def test_nothing_is_known_until_the_first_listing_is_quiet() -> None:
    clock = Clock()
    slots = Slots(clock=clock)
    assert slots.seconds_until_known() == QUIET_SECONDS
    clock.now = 2
    slots.listed()
    clock.now = 3
    assert slots.seconds_until_known() == QUIET_SECONDS - 1
    clock.now = 5
    assert slots.seconds_until_known() == 0
    slots.listed()
    assert slots.seconds_until_known() == 0, "a later listing, after a 410, stops nobody"
