"""The embedded API: server-side apply of a status, bound claims, and faults that tests inject."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from rlhf_operator.core.model import EventRecord
from rlhf_operator.local.memory import MemoryApi
from rlhf_operator.local.recorder import LocalRecorder
from rlhf_operator.local.store import Store
from rlhf_operator.shell.crash import crash_here
from rlhf_operator.shell.kube import Conflict, Forbidden, Unavailable


@pytest.fixture
def api() -> MemoryApi:
    store = Store(lambda: datetime(2026, 1, 1, 12, tzinfo=UTC))
    store.create("RLHFJob", "ns", {"metadata": {"name": "a"}, "spec": {}})
    return MemoryApi(store)


def apply(api: MemoryApi, status: dict[str, Any], **changed: str) -> dict[str, Any]:
    metadata = {**api.store.get("RLHFJob", "ns", "a")["metadata"], **changed}
    applied = api.apply_status("RLHFJob", "ns", "a", status, uid=metadata["uid"], resource_version=metadata["resourceVersion"])
    return dict(asyncio.run(applied)["status"])


class TestApplyStatus:
    def test_own_fields_that_are_missing_now_are_removed(self, api: MemoryApi) -> None:
        apply(api, {"phase": "Running", "reason": "x", "profile": {"name": "a", "hash": "h"}})
        assert apply(api, {"phase": "Failed", "profile": {"name": "a"}}) == {"phase": "Failed", "profile": {"name": "a"}}

    def test_fields_of_other_managers_stay(self, api: MemoryApi) -> None:
        api.store.update_status("RLHFJob", "ns", "a", {"foreign": 1, "conditions": [{"type": "Theirs", "status": "True"}]})
        status = apply(api, {"phase": "Running", "conditions": [{"type": "Ours", "status": "True"}]})
        assert status["foreign"] == 1
        assert [condition["type"] for condition in status["conditions"]] == ["Theirs", "Ours"]
        status = apply(api, {"phase": "Running", "conditions": []})
        assert [condition["type"] for condition in status["conditions"]] == ["Theirs"]

    def test_other_lists_are_one_value(self, api: MemoryApi) -> None:
        apply(api, {"stages": [{"name": "sft"}, {"name": "rm"}]})
        assert apply(api, {"stages": [{"name": "sft"}]}) == {"stages": [{"name": "sft"}]}

    @pytest.mark.parametrize("stale", [{"resourceVersion": "0"}, {"uid": "other"}])
    def test_it_fails_on_a_stale_read(self, api: MemoryApi, stale: dict[str, str]) -> None:
        with pytest.raises(Conflict):
            apply(api, {"phase": "Running"}, **stale)

    def test_equal_statuses_are_no_write(self, api: MemoryApi) -> None:
        apply(api, {"phase": "Running"})
        version = api.store.version
        apply(api, {"phase": "Running"})
        assert api.store.version == version

    def test_field_managers_are_not_shown_and_survive_an_edit(self, api: MemoryApi) -> None:
        apply(api, {"phase": "Running", "reason": "x"})
        body = asyncio.run(api.get("RLHFJob", "ns", "a"))
        assert "managedFields" not in body["metadata"]
        asyncio.run(api.replace("RLHFJob", "ns", {**body, "spec": {"seed": 2}}))
        assert apply(api, {"phase": "Running"}) == {"phase": "Running"}


def test_a_claim_is_bound_at_once(api: MemoryApi) -> None:
    created = asyncio.run(api.create("PersistentVolumeClaim", "ns", {"metadata": {"name": "c"}, "spec": {}}))
    assert created["status"] == {"phase": "Bound"}


def test_an_edit_of_an_object_without_status_is_plain(api: MemoryApi) -> None:
    replaced = asyncio.run(api.replace("RLHFJob", "ns", {"metadata": {"name": "a"}, "spec": {"seed": 1}}))
    assert replaced["metadata"]["generation"] == 2


class TestFaults:
    def test_the_nth_call_fails(self, api: MemoryApi) -> None:
        api.faults.fail("list", "Job", Unavailable("lost"), nth=2)
        asyncio.run(api.list("Job", "ns"))
        with pytest.raises(Unavailable):
            asyncio.run(api.list("Job", "ns"))
        asyncio.run(api.list("Job", "ns"))

    def test_an_applied_call_takes_effect_before_its_answer_is_lost(self, api: MemoryApi) -> None:
        api.faults.fail("create", "Job", Unavailable("lost"), applied=True)
        with pytest.raises(Unavailable):
            asyncio.run(api.create("Job", "ns", {"metadata": {"name": "j"}}))
        assert api.store.find("Job", "ns")

    def test_any_kind_can_fail(self, api: MemoryApi) -> None:
        api.faults.fail("delete", "*", Forbidden("no"), every=True)
        with pytest.raises(Forbidden):
            asyncio.run(api.delete("RLHFJob", "ns", "a"))


def test_without_a_crash_point_nobody_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_CRASH_POINT", "elsewhere")
    crash_here("status")


def test_the_same_event_again_is_counted_up() -> None:
    store = Store(lambda: datetime(2026, 1, 1, 12, tzinfo=UTC))
    event = EventRecord("Warning", "Stalled", "Backoff")
    asyncio.run(LocalRecorder(store).record("ns", "a", "u", [event, event]))
    (known,) = store.find("Event", "ns")
    assert (known["count"], known["reason"], known["involvedObject"]["uid"]) == (2, "Stalled", "u")
