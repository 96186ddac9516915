"""The rules of the API server that the embedded store imitates: versions, uids, deletion, ownership, watch, and files."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rlhf_operator.local.store import HISTORY, Store
from rlhf_operator.shell.kube import AlreadyExists, Conflict, Gone, Invalid, NotFound


def a_store(directory: Path | None = None) -> Store:
    return Store(lambda: datetime(2026, 1, 1, 12, tzinfo=UTC), directory)


def named(name: str, **parts: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **parts.pop("metadata", {})}, **parts}


def owned_by(owner: dict[str, Any]) -> dict[str, Any]:
    return {
        "ownerReferences": [{"kind": owner["kind"], "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"], "controller": True}]
    }


class TestObjects:
    def test_a_new_object_gets_uid_version_generation_and_time(self) -> None:
        store = a_store()
        first, second = store.create("Job", "ns", named("a")), store.create("Job", "ns", named("b"))
        assert first["metadata"]["uid"] != second["metadata"]["uid"]
        assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
        assert (first["metadata"]["generation"], first["metadata"]["creationTimestamp"]) == (1, "2026-01-01T12:00:00Z")
        assert (first["apiVersion"], first["kind"]) == ("batch/v1", "Job")

    def test_a_name_is_taken_once(self) -> None:
        store = a_store()
        store.create("Job", "ns", named("a"))
        with pytest.raises(AlreadyExists, match='Job "a" already exists'):
            store.create("Job", "ns", named("a"))
        store.create("Job", "other", named("a"))

    def test_what_is_not_there_is_404(self) -> None:
        for call in (lambda s: s.get("Job", "ns", "a"), lambda s: s.update("Job", "ns", named("a")), lambda s: s.delete("Job", "ns", "a")):
            with pytest.raises(NotFound):
                call(a_store())

    def test_what_is_read_may_be_changed_without_harm(self) -> None:
        store = a_store()
        store.create("Job", "ns", named("a", spec={"list": [1]}))
        store.get("Job", "ns", "a")["spec"]["list"].append(2)
        assert store.get("Job", "ns", "a")["spec"] == {"list": [1]}

    def test_selectors_compare_and_ask_for_existence(self) -> None:
        store = a_store()
        store.create("Pod", "ns", named("a", metadata={"labels": {"stage": "sft", "x": "1"}}))
        store.create("Pod", "ns", named("b", metadata={"labels": {"stage": "rm"}}))
        assert [pod["metadata"]["name"] for pod in store.find("Pod", "ns", "stage=sft")] == ["a"]
        assert [pod["metadata"]["name"] for pod in store.find("Pod", "ns", "stage")] == ["a", "b"]
        assert [pod["metadata"]["name"] for pod in store.find("Pod", "ns", "stage,x=2")] == []


class TestUpdates:
    def test_generation_grows_with_the_spec_only(self) -> None:
        store = a_store()
        body = store.create("RLHFJob", "ns", named("a", spec={"seed": 1}))
        body["metadata"]["labels"] = {"x": "1"}
        assert store.update("RLHFJob", "ns", body)["metadata"]["generation"] == 1
        body["spec"]["seed"] = 2
        del body["metadata"]["resourceVersion"]
        assert store.update("RLHFJob", "ns", body)["metadata"]["generation"] == 2

    def test_a_stale_version_is_a_conflict(self) -> None:
        store = a_store()
        body = store.create("RLHFJob", "ns", named("a", spec={}))
        store.update_status("RLHFJob", "ns", "a", {"phase": "Running"})
        with pytest.raises(Conflict):
            store.update("RLHFJob", "ns", body)

    def test_status_and_spec_are_written_apart(self) -> None:
        store = a_store()
        store.create("RLHFJob", "ns", named("a", spec={"seed": 1}))
        store.update_status("RLHFJob", "ns", "a", {"phase": "Running"})
        store.update("RLHFJob", "ns", named("a", spec={"seed": 2}, status={"phase": "Hacked"}))
        assert store.get("RLHFJob", "ns", "a")["status"] == {"phase": "Running"}
        store.create("RLHFJob", "ns", named("b", spec={}))
        assert "status" not in store.update("RLHFJob", "ns", named("b", spec={}, status={"phase": "Hacked"}))

    def test_an_equal_write_is_no_change(self) -> None:
        store = a_store()
        store.create("RLHFJob", "ns", named("a"))
        store.update_status("RLHFJob", "ns", "a", {"phase": "Running"})
        version = store.version
        store.update_status("RLHFJob", "ns", "a", {"phase": "Running"})
        assert store.version == version

    def test_a_snapshot_cannot_be_edited(self) -> None:
        store = a_store()
        body = store.create("ControllerRevision", "ns", named("a", data={"image": "x"}))
        body["data"]["image"] = "y"
        with pytest.raises(Invalid, match="data: field is immutable"):
            store.update("ControllerRevision", "ns", body)


class TestDeletion:
    def test_a_uid_guards_against_another_object_of_that_name(self) -> None:
        store = a_store()
        store.create("Job", "ns", named("a"))
        with pytest.raises(Conflict, match="UID in the precondition"):
            store.delete("Job", "ns", "a", uid="other")

    def test_background_takes_the_owner_first(self) -> None:
        store = a_store()
        owner = store.create("Job", "ns", named("a"))
        store.create("Service", "ns", named("a", metadata=owned_by(owner)))
        store.delete("Job", "ns", "a")
        assert store.find("Job", "ns") == store.find("Service", "ns") == []

    def test_foreground_waits_for_what_it_owns(self) -> None:
        store = a_store()
        owner = store.create("Job", "ns", named("a"))
        store.create("Pod", "ns", named("p", metadata={**owned_by(owner), "finalizers": ["track"]}, spec={}))
        store.delete("Job", "ns", "a", propagation="Foreground")
        assert "deletionTimestamp" in store.get("Job", "ns", "a")["metadata"]
        store.delete("Job", "ns", "a", propagation="Foreground")
        store.remove_finalizer("Pod", "ns", "p", "track")
        assert store.find("Job", "ns") == []

    def test_a_running_pod_has_its_grace_period(self) -> None:
        store = a_store()
        store.create("Pod", "ns", named("p", spec={"nodeName": "n", "terminationGracePeriodSeconds": 120}))
        store.delete("Pod", "ns", "p")
        assert store.get("Pod", "ns", "p")["metadata"]["deletionGracePeriodSeconds"] == 120
        store.delete("Pod", "ns", "p")
        store.delete("Pod", "ns", "p", grace=0)
        assert store.find("Pod", "ns") == []

    def test_owners_of_owners_go_in_turn(self) -> None:
        store = a_store()
        top = store.create("RLHFJob", "ns", named("a"))
        middle = store.create("Job", "ns", named("a", metadata=owned_by(top)))
        store.create("Service", "ns", named("a", metadata=owned_by(middle)))
        store.delete("RLHFJob", "ns", "a")
        assert store.find("Service", "ns") == []


class TestWatch:
    def test_changes_come_in_order_with_what_happened(self) -> None:
        store = a_store()
        store.create("Job", "ns", named("a"))
        store.update_status("Job", "ns", "a", {"active": 1})
        store.delete("Job", "ns", "a")
        assert [event.type for event in store.events_since(0)] == ["ADDED", "MODIFIED", "MODIFIED", "DELETED"]
        assert [event.type for event in store.events_since(2)] == ["MODIFIED", "DELETED"]

    def test_a_version_older_than_the_history_is_gone(self) -> None:
        store = a_store()
        for number in range(HISTORY + 10):
            store.create("Event", "ns", named(f"e{number}"))
        with pytest.raises(Gone):
            store.events_since(3)
        assert len(store.events_since(HISTORY)) == 10

    def test_waiting_ends_with_the_next_change(self) -> None:
        store = a_store()

        async def wait() -> int:
            waiting = asyncio.create_task(store.wait_for_change(store.version))
            await asyncio.sleep(0)
            assert not waiting.done()
            store.create("Job", "ns", named("a"))
            return await waiting

        assert asyncio.run(wait()) == store.version


class TestFiles:
    def test_everything_is_there_again_after_a_kill(self, tmp_path: Path) -> None:
        store = a_store(tmp_path)
        store.create("RLHFJob", "ns", named("a", spec={"seed": 1}))
        store.create("Node", "", named("n"))
        store.create("Job", "ns", named("gone"))
        store.delete("Job", "ns", "gone")
        again = a_store(tmp_path)
        assert again.get("RLHFJob", "ns", "a") == store.get("RLHFJob", "ns", "a")
        assert again.get("Node", "", "n")["metadata"]["name"] == "n"
        assert again.find("Job", "ns") == []
        assert again.namespaces("RLHFJob") == ["ns"]

    def test_what_happened_before_the_start_is_not_watched(self, tmp_path: Path) -> None:
        a_store(tmp_path).create("RLHFJob", "ns", named("a"))
        again = a_store(tmp_path)
        with pytest.raises(Gone):
            again.events_since(0)
        assert again.events_since(again.version) == []

    def test_a_half_written_file_is_not_an_object(self, tmp_path: Path) -> None:
        store = a_store(tmp_path)
        store.create("RLHFJob", "ns", named("a"))
        (tmp_path / "RLHFJob" / "ns" / "b.tmp").write_text("{", encoding="utf-8")
        assert [job["metadata"]["name"] for job in a_store(tmp_path).find("RLHFJob", "ns")] == ["a"]
