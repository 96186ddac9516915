"""Errors of the API: what each does to the pace, that nothing is decided from missing data, and that rights may be missing."""

from typing import Any

import pytest

from rlhf_api.status import StagePhase
from rlhf_operator.shell.kube import (
    ApiError,
    Conflict,
    Forbidden,
    KubeApi,
    NotFound,
    Throttled,
    Unauthorized,
    Unavailable,
)
from rlhf_operator.shell.reconciler import FIRST_STATUS_SECONDS
from tests.support.rig import PROFILE, Rig, one_stage


def test_the_embedded_api_is_a_kube_api() -> None:
    api: KubeApi = Rig().api
    assert api


def test_a_job_that_is_gone_is_forgotten() -> None:
    rig = Rig(one_stage())
    rig.settle()
    rig.store.delete("RLHFJob", "team-a", "chat")
    assert rig.run_once() is None
    assert rig.reconciler._soft == {}


@pytest.mark.parametrize("error", [Unavailable("timeout"), Unauthorized("expired")])
def test_an_answer_that_says_nothing_delays_ever_more_and_decides_nothing(error: ApiError) -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare")
    rig.run("sft")
    before = rig.body()
    rig.api.faults.fail("list", "Job", error, every=True)
    assert [rig.run_once() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert rig.body() == before
    rig.api.faults.clear()
    rig.settle()
    assert rig.stage("sft").phase is StagePhase.RUNNING
    assert rig.run_once() != 60


def test_a_frozen_api_changes_no_attempt() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare")
    rig.run("sft")
    rig.api.faults.frozen = True
    rig.run_once()
    rig.api.faults.clear()
    rig.settle()
    assert rig.stage("sft").attempt == 1


def test_throttling_waits_as_long_as_the_server_says() -> None:
    rig = Rig(one_stage())
    rig.api.faults.fail("get", "RLHFJob", Throttled("slow down", retry_after_seconds=7))
    assert rig.run_once() == 7
    rig.api.faults.fail("get", "RLHFJob", Throttled("slow down"))
    assert rig.run_once() == 1


def test_a_stale_status_is_tried_again_at_once_five_times() -> None:
    rig = Rig(one_stage())
    rig.run_once()  # the very first round leaves its status to the second
    rig.api.faults.fail("apply_status", "RLHFJob", Conflict("stale"), every=True)
    paces = [rig.run_once() for _ in range(7)]
    assert paces == [0, 0, 0, 0, 0, 16, 32]
    assert rig.jobs() == ["chat-prepare-r1"]  # and nothing is decided from the refused status


def test_a_terminating_namespace_stops_until_the_next_event() -> None:
    rig = Rig(one_stage())
    rig.api.faults.fail("create", "*", Forbidden("unable to create new content in namespace team-a because it is being terminated"))
    assert rig.run_once() is None


class TestRefusedObjects:
    """What the server does not take is said with its own words, whichever object it is, and tried again ever more slowly."""

    QUOTA = Forbidden("exceeded quota: small, requested: count=1, used: count=1, limited: count=1")

    @pytest.mark.parametrize("kind", ["PersistentVolumeClaim", "ControllerRevision", "NetworkPolicy"])
    def test_before_the_first_attempt(self, kind: str) -> None:
        rig = Rig(one_stage())
        rig.api.faults.fail("create", kind, self.QUOTA, every=True)
        rig.settle(checks=False)
        assert rig.condition("Stalled")[:2] == ("True", "QuotaExceeded")
        assert "exceeded quota: small" in rig.condition("Stalled")[2]
        assert rig.stage("prepare").reason == "QuotaExceeded"
        assert (rig.jobs(), rig.stage("prepare").attempt) == ([], 0)
        assert [rig.run_once() for _ in range(3)][-1] == 60
        rig.api.faults.clear()
        rig.settle()
        assert rig.condition("Stalled")[0] == "False"
        assert rig.jobs() == ["chat-prepare-r1"]

    def test_a_service(self) -> None:
        rig = Rig(one_stage(topology={"nodes": 2, "gpusPerNode": 0}))
        rig.api.faults.fail("create", "Service", Forbidden("denied by a webhook"), every=True)
        rig.checks = False
        rig.succeed("prepare")
        assert rig.condition("Stalled")[:2] == ("True", "ApiRejected")
        assert rig.stage("sft").message == "denied by a webhook"
        rig.api.faults.clear()
        rig.checks = True
        rig.settle()
        assert rig.condition("PodsReady")[1] != "ApiRejected"


class TestRefusedInOtherWordsEachTime:
    """A webhook may put the id of each request into its message: that is news for a reader, and no reason to ask again at once."""

    def test_the_pace_grows_all_the_same(self) -> None:
        rig = Rig(one_stage())
        deny(rig, "chat-prepare-r1")
        assert [rig.run_once() for _ in range(7)] == [0, 60, 120, 240, 300, 300, 300]

    def test_each_round_asks_once_and_shows_the_newest_words_by_one_write(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rig = Rig(one_stage())
        denied = deny(rig, "chat-prepare-r1")
        rig.run_once()
        original, written = rig.api.apply_status, []

        async def apply_status(*args: Any, **options: Any) -> Any:
            written.append(args[2])
            return await original(*args, **options)

        monkeypatch.setattr(rig.api, "apply_status", apply_status)
        for _ in range(4):
            newest = denied[-1]
            rig.run_once()
            assert rig.condition("PodsReady")[1:] == ("ApiRejected", f"stage prepare: {newest}")
        assert (len(denied), len(written)) == (5, 4)

    def test_another_reason_is_told_at_once(self) -> None:
        rig = Rig(one_stage())
        denied = deny(rig, "chat-prepare-r1")
        assert [rig.run_once(), rig.run_once()] == [0, 60]
        denied.words = "exceeded quota: small, request {}"
        assert [rig.run_once(), rig.run_once(), rig.run_once()] == [0, 15, 30]


class TestRefusedBesideOthers:
    """One attempt that the server does not take keeps no other from its Job; what every attempt needs does."""

    def rig(self) -> Rig:
        spec = one_stage(runPolicy={"maxParallelStages": 2})
        spec["stages"] = [{**spec["stages"][0], "name": name} for name in ("first", "second")]
        rig = Rig(spec)
        rig.settle()
        rig.run("prepare")
        return rig

    def test_the_other_stage_gets_its_job_in_the_same_round(self) -> None:
        rig = self.rig()
        deny(rig, "chat-first-r1", words="denied")
        rig.checks = False
        rig.finish("prepare")
        assert rig.jobs() == ["chat-prepare-r1", "chat-second-r1"]
        assert (rig.stage("first").reason, rig.stage("second").reason) == ("ApiRejected", "")
        assert rig.event("AttemptStarted") == "Stage second attempt 1: Job chat-second-r1"
        assert "Stalled" in rig.events()
        rig.run("second")
        rig.finish("second")
        assert rig.phases() == "prepare Succeeded, first Starting, second Succeeded"

    def test_both_start_once_the_server_takes_them(self) -> None:
        rig = self.rig()
        denied = deny(rig, "chat-first-r1", "chat-second-r1", words="denied")
        rig.checks = False
        rig.finish("prepare")
        assert rig.jobs() == ["chat-prepare-r1"]
        denied.names = frozenset()
        rig.checks = True
        rig.settle()
        assert rig.jobs() == ["chat-first-r1", "chat-prepare-r1", "chat-second-r1"]
        assert rig.condition("Stalled")[0] == "False"

    def test_beside_a_foreign_job_nothing_new_starts(self) -> None:
        rig = self.rig()
        rig.store.create("Job", "team-a", {"metadata": {"name": "chat-first-r1"}, "spec": {"completions": 1, "suspend": True}})
        rig.checks = False
        rig.finish("prepare")
        assert rig.condition("Accepted")[:2] == ("False", "NameConflict")
        assert "chat-second-r1" not in rig.jobs()

    def test_without_its_claim_no_attempt_gets_a_job(self) -> None:
        rig = Rig(one_stage())
        denied = deny(rig, "chat-prepare-r1")
        rig.run_once()
        rig.run_once()
        assert rig.stage("prepare").attempt == 1
        claim = rig.store.find("PersistentVolumeClaim", "team-a")[0]["metadata"]["name"]
        rig.store.delete("PersistentVolumeClaim", "team-a", claim)
        denied.names = frozenset({claim})
        rig.reconciler = rig.new_reconciler()
        for _ in range(3):
            rig.run_once()
            assert rig.jobs() == []
        denied.names = frozenset()
        rig.settle()
        assert rig.jobs() == ["chat-prepare-r1"]


class Denied(list[str]):
    """What a webhook said so far, and which creates it denies."""

    def __init__(self, names: frozenset[str], words: str) -> None:
        super().__init__()
        self.names, self.words = names, words

    def check(self, name: str) -> None:
        if name in self.names:
            self.append(self.words.format(len(self)))
            raise Forbidden(self[-1])


def deny(rig: Rig, *names: str, words: str = "admission webhook denied the request {}") -> Denied:
    """Deny the creates of these objects, with the number of the refusal in the words."""
    denied, original = Denied(frozenset(names), words), rig.api.create

    async def create(kind: str, namespace: str, body: Any) -> Any:
        denied.check(body["metadata"]["name"])
        return await original(kind, namespace, body)

    rig.api.create = create  # type: ignore[method-assign]  # the faults of the embedded API say the same each time
    return denied


def test_an_answer_that_was_lost_after_the_create_is_no_second_job() -> None:
    rig = Rig(one_stage())
    rig.api.faults.fail("create", "Job", Unavailable("connection lost"), applied=True)
    assert rig.run_once() == 0.5
    rig.settle()
    assert rig.jobs() == ["chat-prepare-r1"]
    assert rig.stage("prepare").attempt == 1


def test_a_job_that_appears_between_the_listing_and_the_create_is_compared() -> None:
    rig = Rig(one_stage())
    rig.run_once()
    created = rig.store.get("Job", "team-a", "chat-prepare-r1")
    rig.store.delete("Job", "team-a", "chat-prepare-r1")
    rig.reconciler = rig.new_reconciler()
    original = rig.api.list

    async def list_before_it_appears(kind: str, *args: Any, **options: Any) -> Any:
        page = await original(kind, *args, **options)
        if kind == "Job" and not rig.jobs():
            rig.store.create("Job", "team-a", created)
        return page

    rig.api.list = list_before_it_appears  # type: ignore[method-assign]  # the race that a real server can lose
    assert rig.run_once() is not None
    rig.settle()
    assert rig.stage("prepare").attempt == 1


def test_deleting_what_is_gone_is_fine() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare")
    rig.run("sft")
    rig.api.faults.fail("delete", "Job", NotFound("gone"))
    rig.change(suspend=True)
    assert rig.status.stages[1].attempts[0].outcome == "Cancelled"


def on_a_shared_claim() -> Rig:
    rig = Rig(one_stage(storage={"existingClaim": "shared"}), {**PROFILE, "storage": {"allowExistingClaims": True}})
    claim = {"metadata": {"name": "shared"}, "spec": {"storageClassName": "fast"}, "status": {"phase": "Bound"}}
    rig.store.create("PersistentVolumeClaim", "team-a", claim)
    return rig


def test_the_round_that_writes_the_first_status_does_not_read_the_bound_claim_again() -> None:
    rig = on_a_shared_claim()
    rig.run_once()
    rig.api.faults.fail("get", "PersistentVolumeClaim", Unavailable("timeout"), every=True)
    rig.run_once()
    assert rig.stage("prepare").attempt == 1
    assert rig.run_once() == 0.5, "afterwards every round reads it"


def test_a_job_created_anew_under_a_known_name_starts_from_nothing() -> None:
    rig = on_a_shared_claim()
    rig.run_once()
    before = rig.body()
    rig.store.delete("RLHFJob", "team-a", "chat")
    for job in rig.jobs():
        rig.store.delete("Job", "team-a", job)
    profile = rig.store.get("ClusterRLHFProfile", "", "default")
    rig.store.update("ClusterRLHFProfile", "", {**profile, "spec": {**profile["spec"], "retry": {"backoffSeconds": 11}}})
    rig.store.create("RLHFJob", "team-a", {"metadata": {"name": "chat"}, "spec": before["spec"]})
    rig.settle()
    assert rig.jobs() == ["chat-prepare-r1"]
    assert rig.store.get("Job", "team-a", "chat-prepare-r1")["metadata"]["ownerReferences"][0]["uid"] == rig.body()["metadata"]["uid"]
    revision = rig.store.get("ControllerRevision", "team-a", rig.body()["status"]["profile"]["revision"])
    assert revision["data"]["retry"]["backoffSeconds"] == 11


class TestMissingRights:
    def test_without_nodes_a_deleted_pod_is_gone_fifteen_seconds_after_its_time(self) -> None:
        rig = Rig(one_stage())
        rig.succeed("prepare")
        rig.run("sft")
        rig.ends_deleted_pods = False
        rig.api.faults.fail("get", "Node", Forbidden("nodes"), every=True)
        pod = rig.pods("sft")[0]
        rig.report(pod, phase="Running", disrupted="DeletionByTaintManager")
        rig.delete_pod(pod)
        rig.settle()
        assert rig.stage("sft").attempt == 1
        rig.wait(120 + 14)
        assert rig.stage("sft").attempt == 1
        rig.wait(2)
        assert rig.stage("sft").attempt == 2

    def test_without_storage_classes_the_pod_shows_whether_the_claim_binds(self) -> None:
        rig = Rig(one_stage(storage={"size": "1Gi", "storageClassName": "slow"}), {**PROFILE, "storage": {"allowedClasses": ["slow"]}})
        rig.api.faults.fail("get", "StorageClass", Forbidden("storageclasses"), every=True)
        rig.settle()
        name = rig.store.find("PersistentVolumeClaim", "team-a")[0]["metadata"]["name"]
        rig.store.update_status("PersistentVolumeClaim", "team-a", name, {"phase": "Pending"})
        rig.succeed("prepare")
        assert rig.stage("sft").attempt == 1

    def test_without_the_secret_it_is_not_permitted(self) -> None:
        spec = one_stage()
        spec["stages"][0]["sft"]["dataset"] = {"uri": "https://example.com/rows.jsonl", "sha256": "0" * 64, "secretName": "token"}
        rig = Rig(spec, {**PROFILE, "sources": {"allow": ["https://example.com/"]}})
        rig.api.faults.fail("get", "Secret", Forbidden("secrets"), every=True)
        rig.settle()
        assert rig.condition("Accepted")[:2] == ("False", "SecretNotPermitted")


def test_progress_that_ended_is_forgotten() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare")
    rig.run("sft")
    rig.progress("sft", 3)
    rig.reconciler.report_progress(rig.key, "sft", None)
    assert rig.observed().progress == {}


def test_crash_points_stand_between_all_writes() -> None:
    seen: list[str] = []
    rig = Rig(one_stage())
    rig.reconciler._crash_here = seen.append
    rig.run_once()
    assert seen == ["observed", "before", "status", "action", "after"]


class TestTheFirstAttempt:
    """A new job costs three writes: the snapshot, the Job, and one status that has seen the Job."""

    def calls(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        made: list[str] = []
        original = rig.api._check
        monkeypatch.setattr(rig.api, "_check", lambda verb, kind: (made.append(f"{verb} {kind}"), original(verb, kind))[1])
        return made

    def test_its_job_is_there_before_the_status(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rig = Rig(
            one_stage(storage={"existingClaim": "files"}), {**PROFILE, "networkPolicy": "None", "storage": {"allowExistingClaims": True}}
        )
        rig.store.create("PersistentVolumeClaim", "team-a", {"metadata": {"name": "files"}, "spec": {"accessModes": ["ReadWriteMany"]}})
        made = self.calls(rig, monkeypatch)
        assert rig.run_once() == FIRST_STATUS_SECONDS
        assert [call for call in made if not call.startswith(("get", "list"))] == ["create ControllerRevision", "create Job"]
        assert "list Job" not in made
        assert "status" not in rig.body()

    def test_the_second_round_writes_one_status_with_the_uid_of_the_job(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rig = Rig(one_stage())
        rig.run_once()
        made = self.calls(rig, monkeypatch)
        rig.run_once()
        assert [call for call in made if not call.startswith(("get", "list"))] == ["apply_status RLHFJob"]
        assert rig.attempt("prepare").job_uid == rig.job("prepare")["metadata"]["uid"]
        assert rig.events()[0].startswith("AttemptStarted")

    def test_a_new_process_creates_nothing_twice(self) -> None:
        rig = Rig(one_stage())
        rig.run_once()
        uid = rig.store.get("Job", "team-a", "chat-prepare-r1")["metadata"]["uid"]
        rig.reconciler = rig.new_reconciler()
        rig.settle()
        assert rig.jobs() == ["chat-prepare-r1"]
        assert rig.attempt("prepare").job_uid == uid
