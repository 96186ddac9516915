"""Which events cause work: new, edited and deleted jobs, Jobs that move, profiles; and which never do."""

import copy
from typing import Any

import pytest

from rlhf_operator.shell.handlers import Handlers, fingerprint
from rlhf_operator.shell.known import Known, read_seen
from rlhf_operator.shell.slots import Slots
from rlhf_operator.shell.workqueue import Key, Lane, WorkQueue

KEY = ("team-a", "chat")


def an_rlhfjob(**changes: Any) -> dict[str, Any]:
    metadata = {"namespace": "team-a", "name": "chat", "uid": "1", "generation": 1, "creationTimestamp": "2026-07-28T12:00:00Z"}
    return {"metadata": metadata, "spec": {"profile": "cpu"}, **changes}


def a_job(**status: Any) -> dict[str, Any]:
    owner = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "name": "chat", "uid": "1", "controller": True}
    return {
        "metadata": {"namespace": "team-a", "name": "chat-sft-r1", "uid": "2", "ownerReferences": [owner]},
        "spec": {"completions": 2},
        "status": status,
    }


@pytest.fixture
def handlers() -> Handlers:
    return Handlers(WorkQueue(), Known(), Slots())


def taken(handlers: Handlers) -> list[tuple[Key, Lane]]:
    """What the events enqueued."""
    found = []
    while (key := handlers.queue.take()) is not None:
        found.append((key, handlers.queue.lane_of(key)))
        handlers.queue.done(key)
    return found


def test_a_new_job_is_work_and_its_status_is_not(handlers: Handlers) -> None:
    body = an_rlhfjob()
    handlers.on_rlhfjob({"type": "ADDED", "object": body})
    assert taken(handlers) == [(KEY, Lane.NORMAL)]
    handlers.on_rlhfjob({"type": "MODIFIED", "object": {**body, "status": {"phase": "Starting", "stages": [{"attempt": 1}]}}})
    assert taken(handlers) == []


def test_an_edit_and_a_deletion_are_work(handlers: Handlers) -> None:
    body = an_rlhfjob()
    handlers.on_rlhfjob({"type": "ADDED", "object": body})
    taken(handlers)
    body = copy.deepcopy(body)
    body["metadata"]["generation"] = 2
    handlers.on_rlhfjob({"type": "MODIFIED", "object": body})
    assert taken(handlers) == [(KEY, Lane.NORMAL)]
    body = copy.deepcopy(body)
    body["metadata"]["deletionTimestamp"] = "2026-07-28T13:00:00Z"
    handlers.on_rlhfjob({"type": "MODIFIED", "object": body})
    assert taken(handlers) == [(KEY, Lane.NORMAL)]
    handlers.on_rlhfjob({"type": "DELETED", "object": body})
    assert handlers.known.get(KEY) is None


def test_the_first_listing_is_not_urgent(handlers: Handlers) -> None:
    handlers.on_rlhfjob({"type": None, "object": an_rlhfjob()})
    assert taken(handlers) == [(KEY, Lane.LOW)]


@pytest.mark.parametrize(
    ("status", "spec", "is_work"),
    [
        ({"phase": "Succeeded", "observedGeneration": 1}, {}, False),
        ({"phase": "Failed", "observedGeneration": 1}, {}, False),
        ({"phase": "Succeeded"}, {}, True),
        ({"phase": "Succeeded", "observedGeneration": 1}, {"runPolicy": {"ttlSecondsAfterFinished": 60}}, True),
        ({"phase": "Running", "observedGeneration": 1}, {}, True),
    ],
)
def test_a_finished_job_is_left_alone(handlers: Handlers, status: dict[str, Any], spec: dict[str, Any], is_work: bool) -> None:
    handlers.on_rlhfjob({"type": None, "object": an_rlhfjob(spec=spec, status=status)})
    assert bool(taken(handlers)) is is_work


def test_a_new_object_of_the_same_name_is_new(handlers: Handlers) -> None:
    handlers.on_rlhfjob({"type": "ADDED", "object": an_rlhfjob()})
    taken(handlers)
    body = an_rlhfjob()
    body["metadata"]["uid"] = "another"
    handlers.on_rlhfjob({"type": "ADDED", "object": body})
    assert taken(handlers) == [(KEY, Lane.NORMAL)]


def test_a_job_that_was_just_created_is_no_news(handlers: Handlers) -> None:
    handlers.on_job({"type": "ADDED", "object": a_job()})
    assert taken(handlers) == []


def test_a_job_that_moves_is_work_once(handlers: Handlers) -> None:
    steps: list[dict[str, Any]] = [
        {"startTime": "t", "active": 2},
        {"startTime": "t", "active": 2, "ready": 2},
        {"startTime": "t", "active": 1, "ready": 0},
        {"startTime": "t", "active": 1, "conditions": [{"type": "FailureTarget", "status": "True"}]},
        {"startTime": "t", "conditions": [{"type": "FailureTarget", "status": "True"}, {"type": "Failed", "status": "True"}]},
    ]
    for number, status in enumerate(steps):
        handlers.on_job({"type": "MODIFIED", "object": a_job(**status)})
        assert taken(handlers) == [(KEY, Lane.NORMAL if number else Lane.LOW)], "its start is less urgent than its end"
        handlers.on_job({"type": "MODIFIED", "object": a_job(**status, terminating=1)})
        assert taken(handlers) == []
    handlers.on_job({"type": "DELETED", "object": a_job(**steps[-1])})
    assert taken(handlers) == [(KEY, Lane.NORMAL)]


def test_a_job_of_somebody_else_is_nothing(handlers: Handlers) -> None:
    body = a_job(startTime="t")
    body["metadata"]["ownerReferences"][0]["apiVersion"] = "example.com/v1"
    handlers.on_job({"type": "ADDED", "object": body})
    body["metadata"]["ownerReferences"] = []
    handlers.on_job({"type": "ADDED", "object": body})
    assert taken(handlers) == []


def test_what_a_queue_holds_has_not_started() -> None:
    held = a_job(conditions=[{"type": "Suspended", "status": "True"}])
    held["spec"]["suspend"] = True
    assert fingerprint(held) == fingerprint(a_job())


def test_a_profile_is_work_when_it_is_new_or_edited(handlers: Handlers) -> None:
    body = {"metadata": {"name": "cpu", "generation": 1}, "spec": {"limits": {"maxRunningJobsPerNamespace": 1}}}
    handlers.on_profile({"type": None, "object": body})
    assert taken(handlers) == [(("", "cpu"), Lane.NORMAL)]
    handlers.on_profile({"type": "MODIFIED", "object": body})
    assert taken(handlers) == []


def test_a_job_that_will_have_to_wait_does_not_push(handlers: Handlers) -> None:
    handlers.on_profile({"type": None, "object": {"metadata": {"name": "cpu"}, "spec": {"limits": {"maxRunningJobsPerNamespace": 1}}}})
    running = an_rlhfjob(status={"phase": "Running", "stages": [{"attempt": 1}]})
    running["metadata"] |= {"name": "running", "uid": "9"}
    handlers.on_rlhfjob({"type": None, "object": running})
    taken(handlers)
    handlers.on_rlhfjob({"type": "ADDED", "object": an_rlhfjob()})
    assert taken(handlers) == [(KEY, Lane.LOW)]
    handlers.slots.take(KEY, "cpu", read_seen(an_rlhfjob()).created)
    handlers.on_rlhfjob({"type": "MODIFIED", "object": {**running, "status": {"phase": "Succeeded", "stages": [{"attempt": 1}]}}})
    assert taken(handlers) == [(KEY, Lane.NORMAL)]


def test_a_strange_status_is_no_error() -> None:
    assert read_seen(an_rlhfjob(status={"stages": [{}], "phase": 7})).phase == "7"
