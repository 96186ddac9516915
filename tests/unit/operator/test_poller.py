"""Progress over HTTP: bounds on the answer, how often a job is asked, and what three misses mean."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from rlhf_api.outcome import MAX_PROGRESS_BYTES
from rlhf_operator.core.model import EventRecord, Reading
from rlhf_operator.shell.metrics import Metrics
from rlhf_operator.shell.observe import Target
from rlhf_operator.shell.progress import FIRST_ANSWER_SECONDS, INTERVAL_SECONDS, ProgressPoller, fetch
from rlhf_operator.shell.workqueue import Lane, WorkQueue

KEY = ("team-a", "chat")


class Pod:
    """Pod 0: answers with whatever the test says."""

    def __init__(self) -> None:
        self.step = 1
        self.answer: Callable[[], web.Response] = lambda: web.json_response(self.document())

    def document(self) -> dict[str, Any]:
        return {"version": 1, "jobUid": "uid", "stage": "sft", "attempt": 1, "state": "training", "step": self.step, "percent": 10}


class Reconciler:
    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self.readings: list[Reading | None] = []

    def targets(self) -> Sequence[Target]:
        return self._targets

    def report_progress(self, key: object, stage: str, reading: Reading | None) -> None:
        self.readings.append(reading)


class Recorder:
    def __init__(self) -> None:
        self.events: list[EventRecord] = []

    async def record(self, namespace: str, name: str, uid: str, events: Sequence[EventRecord]) -> None:
        self.events += events


class World:
    """A poller, one pod, and a clock."""

    def __init__(self, pod: Pod, port: int, session: aiohttp.ClientSession) -> None:
        self.now, self.pod, self.session = 0.0, pod, session
        target = Target(KEY, "uid", "sft", 1, "127.0.0.1", port)
        self.reconciler, self.recorder, self.queue = Reconciler([target]), Recorder(), WorkQueue()
        self.poller = ProgressPoller(
            self.reconciler,  # type: ignore[arg-type]
            self.queue,
            self.recorder,
            Metrics(),
            clock=lambda: self.now,
        )

    async def after(self, seconds: float) -> None:
        self.now += seconds
        await self.poller.poll_due(self.session)


def on_a_pod(scenario: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    def test() -> None:
        async def run() -> None:
            pod = Pod()

            async def answer(request: web.Request) -> web.Response:
                return pod.answer()

            app = web.Application()
            app.router.add_get("/progress", answer)
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            connector = aiohttp.TCPConnector(force_close=True)
            async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as session:
                await scenario(World(pod, runner.addresses[0][1], session))
            await runner.cleanup()

        asyncio.run(run())

    test.__name__ = scenario.__name__
    test.__doc__ = scenario.__doc__
    return test


@on_a_pod
async def test_an_answer_reaches_the_next_round(world: World) -> None:
    await world.after(0)
    await world.after(2)
    (reading,) = world.reconciler.readings
    assert reading is not None
    assert reading.document.step == 1
    assert world.queue.take() == KEY
    assert world.queue.lane_of(KEY) is Lane.LOW


@on_a_pod
async def test_a_step_that_stands_still_is_timed(world: World) -> None:
    await world.after(0)
    await world.after(2)
    await world.after(2 * INTERVAL_SECONDS)
    world.pod.step = 2
    await world.after(2 * INTERVAL_SECONDS)
    assert [reading.idle_seconds if reading else None for reading in world.reconciler.readings] == [0, 2 * INTERVAL_SECONDS, 0]


@on_a_pod
async def test_a_job_is_not_asked_all_the_time_and_looked_at_less(world: World) -> None:
    await world.after(0)
    for _ in range(60):
        await world.after(1)
    assert 3 <= len(world.reconciler.readings) <= 6
    assert world.queue.take() == KEY
    world.queue.done(KEY)
    assert world.queue.take() is None


@on_a_pod
async def test_three_misses_are_told_once(world: World) -> None:
    await world.after(0)
    await world.after(2)
    world.pod.answer = lambda: web.Response(status=500)
    for _ in range(6):
        await world.after(2 * INTERVAL_SECONDS)
    assert world.reconciler.readings[1:] == [None]
    assert [event.reason for event in world.recorder.events] == ["ProgressUnreachable"]


@on_a_pod
async def test_a_pod_that_has_not_answered_yet_has_time_to_start(world: World) -> None:
    world.pod.answer = lambda: web.Response(status=500)
    await world.after(0)
    while world.now + 2 * INTERVAL_SECONDS < FIRST_ANSWER_SECONDS:
        await world.after(2 * INTERVAL_SECONDS)
    assert world.recorder.events == []
    for _ in range(4):
        await world.after(2 * INTERVAL_SECONDS)
    assert [event.reason for event in world.recorder.events] == ["ProgressUnreachable"]


@on_a_pod
async def test_a_document_of_another_attempt_is_no_answer(world: World) -> None:
    world.pod.answer = lambda: web.json_response({**world.pod.document(), "attempt": 2})
    await world.after(0)
    await world.after(2)
    assert world.reconciler.readings == []


@on_a_pod
async def test_answers_beyond_the_bounds_are_none(world: World) -> None:
    target = world.reconciler.targets()[0]
    world.pod.answer = lambda: web.Response(body=b"x" * (MAX_PROGRESS_BYTES + 1))
    assert await fetch(world.session, target.url) is None
    world.pod.answer = lambda: web.Response(status=302, headers={"Location": "http://169.254.169.254/"})
    assert await fetch(world.session, target.url) is None
    assert await fetch(world.session, "http://127.0.0.1:1/progress") is None
    world.pod.answer = lambda: web.Response(body=b"ok")
    assert await fetch(world.session, target.url) == b"ok"


@pytest.mark.parametrize(("address", "url"), [("10.0.0.1", "http://10.0.0.1:9400/progress"), ("fd00::1", "http://[fd00::1]:9400/progress")])
def test_both_families_have_urls(address: str, url: str) -> None:
    assert Target(KEY, "uid", "sft", 1, address, 9400).url == url
