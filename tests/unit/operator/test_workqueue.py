"""client-go's promises: equal keys merge, one worker a key, timers, growing retries, and a low lane that leaves room."""

import asyncio

import pytest

from rlhf_operator.shell.workqueue import Lane, WorkQueue

A, B, C = ("team", "a"), ("team", "b"), ("team", "c")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue:
    return WorkQueue(max_low=1, clock=clock, jitter=lambda: 1.0)


def test_keys_come_out_in_order_and_equal_ones_merge(queue: WorkQueue) -> None:
    for key in (A, B, A):
        queue.add(key)
    assert [queue.take(), queue.take(), queue.take()] == [A, B, None]


def test_a_key_that_is_added_while_it_is_worked_on_comes_again_and_never_twice_at_once(queue: WorkQueue) -> None:
    queue.add(A)
    assert queue.take() == A
    queue.add(A)
    queue.add(A)
    assert queue.take() is None
    queue.done(A)
    assert queue.take() == A
    queue.done(A)
    assert queue.take() is None


def test_a_timer_fires_at_its_time_and_the_earliest_wins(queue: WorkQueue, clock: Clock) -> None:
    queue.add_after(A, 10)
    queue.add_after(A, 5)
    queue.add_after(A, 7)
    assert queue.next_due() == 105
    clock.now = 104.9
    assert queue.take() is None
    clock.now = 105
    assert queue.take() == A
    queue.done(A)
    clock.now = 120
    assert queue.take() is None


def test_a_round_makes_the_timer_void(queue: WorkQueue, clock: Clock) -> None:
    queue.add_after(A, 10)
    queue.add(A)
    assert queue.take() == A
    assert queue.next_due() is None


def test_timers_that_rounds_made_void_are_not_kept(queue: WorkQueue, clock: Clock) -> None:
    """A finished job with a time to live of a week is visited every few minutes, and asks for the end of the week each time."""
    queue.add_after(B, 3600)
    for _ in range(1000):
        queue.add(A)
        assert queue.take() == A
        queue.add_after(A, 604_800)
        queue.done(A)
    assert len(queue._timers) < 100
    clock.now += 3600
    assert queue.take() == B
    clock.now += 604_800
    assert queue.take() == A


@pytest.mark.parametrize("seconds", [0, -1])
def test_no_delay_is_now(queue: WorkQueue, seconds: float) -> None:
    queue.add_after(A, seconds)
    assert queue.take() == A


def test_retries_grow_until_the_key_succeeds(queue: WorkQueue) -> None:
    assert [queue.retry(A) for _ in range(3)] == [0.5, 1, 2]
    for _ in range(20):
        last = queue.retry(A)
    assert last == 300
    queue.forget(A)
    assert queue.retry(A) == 0.5


def test_the_normal_lane_goes_first(queue: WorkQueue) -> None:
    queue.add(A, Lane.LOW)
    queue.add(B)
    assert [queue.take(), queue.take()] == [B, A]


def test_few_low_keys_are_worked_on_at_once(queue: WorkQueue) -> None:
    for key in (A, B):
        queue.add(key, Lane.LOW)
    assert queue.take() == A
    assert queue.lane_of(A) is Lane.LOW
    assert queue.take() is None
    queue.add(C)
    assert queue.take() == C
    queue.done(A)
    assert queue.take() == B


def test_a_low_key_that_somebody_waits_for_changes_lanes(queue: WorkQueue) -> None:
    for key in (A, B):
        queue.add(key, Lane.LOW)
    queue.add(B)
    queue.add(A, Lane.LOW)
    assert (queue.depth(Lane.NORMAL), queue.depth(Lane.LOW)) == (1, 1)
    assert queue.take() == B
    assert queue.lane_of(B) is Lane.NORMAL


def test_a_dirty_key_keeps_its_better_lane(queue: WorkQueue) -> None:
    queue.add(A)
    queue.take()
    queue.add(A)
    queue.add(A, Lane.LOW)
    queue.done(A)
    assert queue.depth(Lane.NORMAL) == 1


def test_the_oldest_age_is_told(queue: WorkQueue, clock: Clock) -> None:
    queue.add(A)
    clock.now += 3
    queue.add(B)
    assert queue.oldest_age(Lane.NORMAL) == 3
    assert queue.oldest_age(Lane.LOW) == 0


def test_workers_wait_for_keys_and_timers() -> None:
    async def scenario() -> list[object]:
        queue = WorkQueue()
        first = asyncio.create_task(queue.get())
        second = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add(A)
        queue.add_after(B, 0.01)
        return [await first, await second]

    assert asyncio.run(scenario()) == [A, B]
