"""Events for people: sent in the background, counted up when they repeat, dropped when there are too many, never in the way."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from rlhf_operator.core.model import EventRecord
from rlhf_operator.shell import recorder
from rlhf_operator.shell.kube import NotFound, Unavailable
from rlhf_operator.shell.metrics import Metrics
from rlhf_operator.shell.recorder import EventRecorder

STALLED = EventRecord("Warning", "Stalled", "ImagePull: pod x")


class Api:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.created: list[Mapping[str, Any]] = []
        self.merged: list[tuple[str, Mapping[str, Any]]] = []
        self.error: Exception | None = None

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self._raise()
        self.created.append(body)
        return dict(body)

    async def merge(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        self._raise()
        self.merged.append((name, patch))
        return dict(patch)

    def _raise(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def sent(api: Api, clock: Clock, metrics: Metrics, *steps: tuple[float, EventRecord]) -> None:
    """Record each event at its time and send it."""

    async def scenario() -> None:
        sender = EventRecorder(api, metrics, clock=clock)  # type: ignore[arg-type]
        for at, event in steps:
            clock.now = at
            await sender.record("team-a", "chat", "uid", [event])
            task = asyncio.create_task(sender.run())
            for _ in range(10):  # turns of the loop until it is sent
                await asyncio.sleep(0)
            task.cancel()

    asyncio.run(scenario())


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_an_event_is_about_the_job(api: Api, metrics: Metrics) -> None:
    sent(api, Clock(), metrics, (0, STALLED))
    (body,) = api.created
    assert body["involvedObject"]["kind"] == "RLHFJob"
    assert (body["involvedObject"]["name"], body["type"], body["reason"], body["count"]) == ("chat", "Warning", "Stalled", 1)


def test_the_same_event_is_counted_up_for_ten_minutes(api: Api, metrics: Metrics) -> None:
    sent(api, Clock(), metrics, (0, STALLED), (60, STALLED), (599, STALLED), (1300, STALLED))
    assert [patch["count"] for _, patch in api.merged] == [2, 3]
    assert len(api.created) == 2


def test_another_message_is_another_event(api: Api, metrics: Metrics) -> None:
    sent(api, Clock(), metrics, (0, STALLED), (1, EventRecord("Warning", "Stalled", "NoPods")))
    assert (len(api.created), len(api.merged)) == (2, 0)


def test_an_event_that_expired_begins_anew(api: Api, metrics: Metrics) -> None:
    async def scenario() -> None:
        sender = EventRecorder(api, metrics)  # type: ignore[arg-type]
        item = recorder._Item("team-a", "chat", "uid", STALLED)
        await sender._send(item)
        api.error = NotFound("gone")
        await sender._send(item)

    asyncio.run(scenario())
    assert (len(api.created), len(api.merged)) == (2, 0)


def test_a_refused_event_is_dropped_and_counted(api: Api, metrics: Metrics) -> None:
    api.error = Unavailable("away")
    sent(api, Clock(), metrics, (0, STALLED))
    assert metrics.registry.get_sample_value("rlhf_events_dropped_total") == 1


def test_too_many_are_dropped_and_counted(api: Api, metrics: Metrics) -> None:
    async def scenario() -> None:
        sender = EventRecorder(api, metrics)  # type: ignore[arg-type]
        await sender.record("team-a", "chat", "uid", [STALLED] * (recorder.MAX_WAITING + 2))

    asyncio.run(scenario())
    assert metrics.registry.get_sample_value("rlhf_events_dropped_total") == 2


def test_what_is_remembered_has_a_bound(api: Api, metrics: Metrics) -> None:
    async def scenario() -> int:
        sender = EventRecorder(api, metrics)  # type: ignore[arg-type]
        for number in range(recorder.MAX_REMEMBERED + 5):
            await sender._send(recorder._Item("team-a", "chat", str(number), STALLED))
        return len(sender._sent)

    assert asyncio.run(scenario()) == recorder.MAX_REMEMBERED
