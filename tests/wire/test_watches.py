"""From an event to a Job, and what happens to a watch: dropped, too old, with an expired token, or with the whole API server."""

import pytest

from rlhf_api import names
from rlhf_operator.shell import workers
from tests.support.wire import Wire, eventually, on_the_wire


async def _operator_with_a_job(wire: Wire) -> None:
    wire.add_profile()
    await wire.start_operator()
    await wire.until_watching()
    wire.add_job()
    await eventually(lambda: wire.condition("Accepted") == "True/Valid", "a status")


@on_the_wire
async def test_a_new_job_gets_its_first_job_and_a_status(wire: Wire) -> None:
    await _operator_with_a_job(wire)
    assert wire.find("Job", "chat-prepare-r1")
    assert wire.status()["stages"][0]["phase"] == "Starting"


@on_the_wire
async def test_a_job_that_was_there_before_is_found_by_the_listing(wire: Wire) -> None:
    wire.add_profile()
    wire.add_job()
    await wire.start_operator()
    await eventually(lambda: wire.find("Job", "chat-prepare-r1"), "the Job")


@on_the_wire
async def test_kopf_leaves_no_trace_on_any_object(wire: Wire) -> None:
    await _operator_with_a_job(wire)
    for kind, namespace in ((names.KIND_JOB, "team-a"), ("Job", "team-a"), (names.KIND_PROFILE, "")):
        for body in wire.server.store.find(kind, namespace):
            assert "finalizers" not in body["metadata"]
            assert not any("kopf" in key for key in body["metadata"].get("annotations", {}))
            assert "kopf" not in body.get("status", {})


@on_the_wire
async def test_a_job_event_brings_the_next_round(wire: Wire) -> None:
    await _operator_with_a_job(wire)
    wire.set_job_status("chat-prepare-r1", startTime=wire.server.store.now(), active=1, ready=1)
    await eventually(lambda: wire.status()["phase"] == "Running", "phase Running")


@on_the_wire
async def test_own_status_writes_cause_no_work(wire: Wire) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "RESYNC_SECONDS", (60.0, 60.0))  # rounds that come by themselves are not what is counted
        await _operator_with_a_job(wire)
        written = wire.server.count("apply RLHFJob")
        read = wire.server.count("get RLHFJob")
        wire.add_job("other")
        await eventually(lambda: wire.condition("Accepted", "other"), "the status of the other job")
        assert wire.server.count("apply RLHFJob") == written + 1
        assert wire.server.count("get RLHFJob") - read <= 3


@on_the_wire
async def test_an_edit_is_seen(wire: Wire) -> None:
    await _operator_with_a_job(wire)
    body = wire.server.store.get(names.KIND_JOB, "team-a", "chat")
    body["spec"]["suspend"] = True
    wire.server.store.update(names.KIND_JOB, "team-a", body)
    await eventually(lambda: wire.condition("Suspended").startswith("True"), "the suspension")


@on_the_wire
async def test_a_job_of_somebody_else_is_not_followed(wire: Wire) -> None:
    wire.add_profile()
    await wire.start_operator()
    await wire.until_watching()
    owner = {"apiVersion": "example.com/v1", "kind": "RLHFJob", "name": "chat", "uid": "1", "controller": True}
    body = {"metadata": {"name": "theirs", "labels": {names.LABEL_JOB_UID: "1"}, "ownerReferences": [owner]}, "spec": {}}
    wire.server.store.create("Job", "team-a", body)
    wire.add_job("mine")
    await eventually(lambda: wire.condition("Accepted", "mine"), "a status")
    assert "get RLHFJob chat" not in wire.server.paths


@on_the_wire
async def test_a_dropped_watch_is_opened_again(wire: Wire) -> None:
    await _operator_with_a_job(wire)
    wire.server.drop_watches()
    wire.add_job("later")
    await eventually(lambda: wire.find("Job", "later-prepare-r1"), "the Job of a job made while no watch was open")


@on_the_wire
async def test_a_watch_that_is_too_old_lists_again(wire: Wire) -> None:
    await _operator_with_a_job(wire)
    wire.server.drop_watches()
    wire.add_job("later")
    wire.server.forget_history()
    await eventually(lambda: wire.find("Job", "later-prepare-r1"), "the Job of a job made in the gap")


@on_the_wire
async def test_a_job_deleted_in_a_gap_is_found_by_the_resync(wire: Wire) -> None:
    await _operator_with_a_job(wire)
    wire.server.drop_watches()
    wire.server.store.delete("Job", "team-a", "chat-prepare-r1")
    wire.server.forget_history()
    await eventually(lambda: wire.find("Job", "chat-prepare-r2"), "the next attempt")
    assert wire.status()["stages"][0]["attempts"][0]["message"].startswith("JobDeleted")


@on_the_wire
async def test_an_rlhfjob_deleted_in_a_gap_is_forgotten_by_the_resync(wire: Wire) -> None:
    await _operator_with_a_job(wire)
    (process,) = wire.operators.values()
    wire.server.drop_watches()
    wire.server.store.delete(names.KIND_JOB, "team-a", "chat")
    wire.server.forget_history()
    await eventually(lambda: process._known.get(("team-a", "chat")) is None, "the job to be forgotten")


@on_the_wire
async def test_an_expired_token_is_read_anew(wire: Wire) -> None:
    await _operator_with_a_job(wire)
    wire.server.tokens = {"second"}
    wire.server.kubeconfig(wire.directory / "kubeconfig", "second")
    wire.server.drop_watches()
    wire.add_job("later")
    await eventually(lambda: wire.find("Job", "later-prepare-r1"), "the Job of a job made after the token expired")


@on_the_wire
async def test_an_api_server_that_was_away_changes_no_attempt(wire: Wire) -> None:
    await _operator_with_a_job(wire)
    port = wire.server.port
    await wire.server.stop()
    wire.set_job_status("chat-prepare-r1", startTime=wire.server.store.now(), active=1, ready=1)
    wire.add_job("later")
    await wire.server.start(port)
    await eventually(lambda: wire.status()["phase"] == "Running", "what happened meanwhile")
    await eventually(lambda: wire.find("Job", "later-prepare-r1"), "a job made meanwhile")
    assert [job["metadata"]["name"] for job in wire.server.store.find("Job", "team-a")] == ["chat-prepare-r1", "later-prepare-r1"]


@on_the_wire
async def test_without_definitions_it_says_so_and_waits(wire: Wire) -> None:
    wire.server.hidden = {names.KIND_JOB}
    await wire.start_operator()
    await eventually(lambda: wire.server.count("list RLHFJob") > 1, "a second try")
    assert not wire.server.watches
    wire.server.hidden = set()
    await wire.until_watching()


@on_the_wire
async def test_only_listed_namespaces_are_watched(wire: Wire) -> None:
    wire.add_profile()
    await wire.start_operator(namespaces=("team-a",))
    await wire.until_watching()
    wire.add_job("elsewhere", namespace="team-b")
    wire.add_job("here")
    await eventually(lambda: wire.condition("Accepted", "here"), "a status")
    assert wire.status("elsewhere", "team-b") == {}
