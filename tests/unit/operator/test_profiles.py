"""The status of a profile: usable or not, with every problem, and without a write when nothing changed."""

from datetime import UTC, datetime, timedelta

from rlhf_api import names
from rlhf_operator.local.memory import MemoryApi
from rlhf_operator.local.store import Store
from rlhf_operator.shell.profiles import reconcile_profile
from tests.support.rig import PROFILE, at_once

NOON = datetime(2026, 7, 28, 12, tzinfo=UTC)


def a_store(**changes: object) -> Store:
    store = Store(lambda: NOON)
    store.create(names.KIND_PROFILE, "", {"metadata": {"name": "cpu"}, "spec": {**PROFILE, **changes}})
    return store


def ready(store: Store) -> dict[str, str]:
    (condition,) = store.get(names.KIND_PROFILE, "", "cpu")["status"]["conditions"]
    return dict(condition)


def test_a_good_profile_is_ready() -> None:
    store = a_store()
    at_once(reconcile_profile(MemoryApi(store), "cpu", NOON))
    assert (ready(store)["type"], ready(store)["status"], ready(store)["reason"]) == ("Ready", "True", "Valid")


def test_a_second_look_writes_nothing() -> None:
    store = a_store()
    api = MemoryApi(store)
    at_once(reconcile_profile(api, "cpu", NOON))
    version = store.version
    at_once(reconcile_profile(api, "cpu", NOON + timedelta(hours=1)))
    assert store.version == version


def test_a_bad_profile_says_all_that_is_wrong_and_since_when() -> None:
    store = a_store(limits={"maxNodes": 0, "maxGpus": -1})
    at_once(reconcile_profile(MemoryApi(store), "cpu", NOON))
    found = ready(store)
    assert (found["status"], found["reason"], found["lastTransitionTime"]) == ("False", "Invalid", "2026-07-28T12:00:00Z")
    assert "maxNodes" in found["message"]
    assert "maxGpus" in found["message"]


def test_an_edit_that_leaves_the_answer_moves_no_time() -> None:
    store = a_store()
    api = MemoryApi(store)
    at_once(reconcile_profile(api, "cpu", NOON))
    body = store.get(names.KIND_PROFILE, "", "cpu")
    body["spec"]["description"] = "other words"
    store.update(names.KIND_PROFILE, "", body)
    at_once(reconcile_profile(api, "cpu", NOON + timedelta(hours=1)))
    assert ready(store)["lastTransitionTime"] == "2026-07-28T12:00:00Z"
    assert store.get(names.KIND_PROFILE, "", "cpu")["status"]["observedGeneration"] == 2


def test_the_number_of_running_jobs_is_told() -> None:
    store = a_store()
    assert at_once(reconcile_profile(MemoryApi(store), "cpu", NOON, 3))
    assert store.get(names.KIND_PROFILE, "", "cpu")["status"]["runningJobs"] == 3


def test_a_profile_that_is_gone_is_nobody() -> None:
    assert not at_once(reconcile_profile(MemoryApi(Store(lambda: NOON)), "cpu", NOON))
