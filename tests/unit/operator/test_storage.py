"""The volume: created once, used as it is, waited for, and never replaced when it is lost."""

from typing import Any, ClassVar

import pytest

from rlhf_api.status import JobPhase, StagePhase
from rlhf_operator.core.model import Settings
from rlhf_operator.local import cluster
from tests.support.rig import PROFILE, Rig, one_stage

CLAIMS = {**PROFILE, "storage": {"allowExistingClaims": True, "allowedClasses": ["slow"]}}


def claim_of(rig: Rig) -> dict[str, Any]:
    return rig.store.find("PersistentVolumeClaim", "team-a")[0]


def set_phase(rig: Rig, phase: str) -> None:
    rig.store.update_status("PersistentVolumeClaim", "team-a", claim_of(rig)["metadata"]["name"], {"phase": phase})


def test_a_retained_claim_has_no_owner() -> None:
    rig = Rig(one_stage())
    rig.settle()
    assert "ownerReferences" not in claim_of(rig)["metadata"]
    assert claim_of(rig)["metadata"]["labels"]["rlhf.dev/job-uid"] == rig.uid
    assert rig.condition("StorageReady") == ("True", "Bound", "")


def test_a_claim_that_is_not_retained_goes_with_the_job() -> None:
    rig = Rig(one_stage(storage={"size": "1Gi", "retain": False}))
    rig.settle()
    assert claim_of(rig)["metadata"]["ownerReferences"][0]["uid"] == rig.uid


def test_the_access_mode_follows_from_who_uses_the_volume_together() -> None:
    for changes, mode in (
        ({}, "ReadWriteOnce"),
        ({"topology": {"nodes": 2, "gpusPerNode": 0}}, "ReadWriteMany"),
        ({"runPolicy": {"maxParallelStages": 2}}, "ReadWriteMany"),
        ({"storage": {"size": "1Gi", "accessMode": "ReadWriteMany"}}, "ReadWriteMany"),
    ):
        rig = Rig(one_stage(**changes))
        rig.settle()
        assert claim_of(rig)["spec"]["accessModes"] == [mode]


def test_a_class_that_binds_at_once_is_waited_for() -> None:
    rig = Rig(one_stage(storage={"size": "1Gi", "storageClassName": "slow"}), CLAIMS)
    rig.store.create("StorageClass", "", {"metadata": {"name": "slow"}, "volumeBindingMode": "Immediate"})
    rig.settle()
    rig.finish("prepare")
    set_phase(rig, "Pending")
    rig.finish("sft", 1)
    assert rig.stage("sft").attempt == 1
    assert rig.condition("StorageReady")[:2] == ("False", "Pending")
    assert rig.requeue == 5
    set_phase(rig, "Bound")
    rig.settle()
    assert rig.stage("sft").attempt == 2


def test_a_class_that_waits_for_a_pod_is_bound_by_it() -> None:
    rig = Rig(one_stage(storage={"size": "1Gi", "storageClassName": "slow"}), CLAIMS)
    rig.store.create("StorageClass", "", {"metadata": {"name": "slow"}, "volumeBindingMode": "WaitForFirstConsumer"})
    rig.settle()
    set_phase(rig, "Pending")
    rig.succeed("prepare")
    assert rig.stage("sft").attempt == 1
    assert rig.condition("StorageReady") == ("False", "Pending", "the first pod binds the claim")


def lose(rig: Rig) -> None:
    rig.store.delete("PersistentVolumeClaim", "team-a", claim_of(rig)["metadata"]["name"])


def test_when_the_volume_is_lost_running_pods_go_on_and_then_the_stage_fails() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare")
    rig.run("sft")
    lose(rig)
    rig.settle()
    assert rig.stage("sft").phase is StagePhase.RUNNING
    assert rig.condition("StorageReady")[:2] == ("False", "Lost")
    rig.finish("sft", 1)
    assert rig.stage("sft").phase is StagePhase.FAILED
    assert rig.condition("Failed")[:2] == ("True", "Lost")
    assert "the files of this job with it: create the job again" in rig.condition("Failed")[2]
    assert rig.condition("StorageReady")[:2] == ("False", "Lost")
    assert rig.store.find("PersistentVolumeClaim", "team-a") == []


def test_a_volume_that_is_lost_between_two_stages_fails_the_next_one() -> None:
    rig = Rig(one_stage())
    rig.settle()
    rig.run("prepare")
    lose(rig)
    rig.finish("prepare")
    assert rig.phases() == "prepare Succeeded, sft Failed"


def test_the_pods_of_the_last_attempt_end_before_the_stage_fails() -> None:
    rig = Rig(one_stage(topology={"nodes": 2, "gpusPerNode": 0}))
    rig.succeed("prepare")
    rig.run("sft")
    lose(rig)
    rig.ends_deleted_pods = False
    rig.finish("sft", 1, index=1)
    assert rig.stage("sft").phase is StagePhase.RESTARTING
    assert rig.condition("Stalled")[:2] == ("True", "Lost")
    rig.ends_deleted_pods = True
    rig.settle()
    assert rig.stage("sft").phase is StagePhase.FAILED


def test_only_a_rerun_of_every_stage_gets_a_new_volume() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare")
    rig.run("sft")
    lose(rig)
    rig.finish("sft", 1)
    rig.change(rerun={"fromStage": "sft", "token": "1"})
    assert rig.condition("Failed")[:2] == ("True", "Lost")
    stages = one_stage()["stages"]
    stages[0]["sft"]["dataset"] = {"uri": "builtin://datasets/tiny-chat-other"}
    rig.change(stages=stages, rerun={"fromStage": "sft", "token": "2"})
    assert rig.phases() == "prepare Starting, sft Pending"
    assert len(rig.store.find("PersistentVolumeClaim", "team-a")) == 1
    rig.succeed("prepare", "sft")
    assert rig.condition("Complete")[0] == "True"


def test_a_claim_that_is_lost_or_being_deleted_counts_as_lost() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare")
    rig.run("sft")
    set_phase(rig, "Lost")
    rig.finish("sft", 1)
    assert "is lost" in rig.condition("StorageReady")[2]


class TestMoreNodesThanTheClaimWasMadeFor:
    """An own claim has the access mode of the spec as it was when it was created; topology and maxParallelStages may change later."""

    GANG: ClassVar = {"nodes": 2, "gpusPerNode": 0}

    def running(self, settings: Settings | None = None, **changes: Any) -> Rig:
        rig = Rig(one_stage(**changes), settings=settings)
        rig.succeed("prepare")
        rig.run("sft")
        return rig

    def assert_refused(self, rig: Rig) -> None:
        words = "several nodes or parallel stages need ReadWriteMany: create the job again, or with accessMode: ReadWriteMany"
        assert rig.condition("StorageReady") == ("False", "AccessModeMismatch", f"claim chat-{rig.uid[:8]} is ReadWriteOnce; {words}")

    def test_a_rerun_on_more_nodes_is_refused_instead_of_hanging(self) -> None:
        rig = self.running()
        rig.finish("sft", 64)
        rig.change(topology=self.GANG, rerun={"fromStage": "sft", "token": "2"})
        self.assert_refused(rig)
        assert rig.condition("Stalled")[:2] == ("True", "AccessModeMismatch")
        assert rig.jobs() == ["chat-prepare-r1", "chat-sft-r1"]
        rig.change(topology={"nodes": 1, "gpusPerNode": 0})
        assert rig.condition("StorageReady") == ("True", "Bound", "")
        assert rig.stage("sft").attempt == 2

    def test_one_stage_on_several_nodes_is_enough(self) -> None:
        rig = self.running()
        rig.finish("sft", 64)
        stages = one_stage()["stages"]
        rig.change(stages=[{**stages[0], "topology": self.GANG}], rerun={"fromStage": "sft", "token": "2"})
        self.assert_refused(rig)
        assert rig.stage("sft").attempt == 1

    def test_more_stages_at_once_disturb_nothing_that_runs(self) -> None:
        rig = self.running()
        rig.change(runPolicy={"maxParallelStages": 2})
        self.assert_refused(rig)
        assert rig.stage("sft").phase is StagePhase.RUNNING
        rig.finish("sft", 1)
        assert (rig.stage("sft").phase, rig.stage("sft").attempt) == (StagePhase.RESTARTING, 1)
        rig.change(runPolicy={"maxParallelStages": 1})
        assert rig.stage("sft").attempt == 2

    @pytest.mark.parametrize(
        "changes",
        [{"storage": {"size": "1Gi", "accessMode": "ReadWriteMany"}}, {"topology": GANG}, {"runPolicy": {"maxParallelStages": 2}}],
    )
    def test_a_claim_that_may_be_shared_takes_them(self, changes: dict[str, Any]) -> None:
        rig = self.running(**changes)
        rig.finish("sft", 64)
        rig.change(topology={"nodes": 4, "gpusPerNode": 0}, rerun={"fromStage": "sft", "token": "2"})
        assert rig.condition("StorageReady")[0] == "True"
        assert rig.stage("sft").attempt == 2

    def test_the_directory_of_rlhf_run_is_shared_whatever_its_claim_says(self) -> None:
        rig = self.running(cluster.SETTINGS)
        rig.finish("sft", 64)
        rig.change(topology=self.GANG, rerun={"fromStage": "sft", "token": "2"})
        assert claim_of(rig)["spec"]["accessModes"] == ["ReadWriteOnce"]
        assert rig.condition("StorageReady") == ("True", "Bound", "")
        assert rig.stage("sft").attempt == 2


class TestExistingClaim:
    def rig(self, modes: list[str], **changes: Any) -> Rig:
        rig = Rig(one_stage(storage={"existingClaim": "data"}, **changes), CLAIMS)
        if modes:
            rig.store.create("PersistentVolumeClaim", "team-a", {"metadata": {"name": "data"}, "spec": {"accessModes": modes}})
            set_phase(rig, "Bound")
        rig.settle()
        return rig

    def test_it_is_used_and_left_as_it_is(self) -> None:
        rig = self.rig(["ReadWriteOnce"])
        assert rig.jobs() == ["chat-prepare-r1"]
        assert "labels" not in claim_of(rig)["metadata"]
        assert rig.status.volume is not None
        assert (rig.status.volume.claim_name, rig.status.volume.path) == ("data", rig.uid)

    def test_until_it_exists_the_job_waits(self) -> None:
        rig = self.rig([])
        assert rig.condition("StorageReady") == ("False", "Pending", "claim data does not exist in namespace team-a")
        assert rig.condition("Stalled")[:2] == ("True", "Pending")

    def test_lost_before_anything_was_written_it_may_still_be_repaired(self) -> None:
        rig = Rig(one_stage(storage={"existingClaim": "data"}), CLAIMS)
        rig.store.create("PersistentVolumeClaim", "team-a", {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}})
        set_phase(rig, "Lost")
        rig.settle()
        assert rig.condition("Stalled")[:2] == ("True", "Lost")
        assert rig.status.phase is JobPhase.PENDING

    def test_it_must_fit_a_gang(self) -> None:
        rig = self.rig(["ReadWriteOnce"], topology={"nodes": 2, "gpusPerNode": 0})
        words = "claim data is ReadWriteOnce; several nodes or parallel stages need ReadWriteMany"
        assert rig.condition("StorageReady") == ("False", "AccessModeMismatch", words)
        assert rig.jobs() == []

    def test_being_deleted_it_is_lost(self) -> None:
        rig = self.rig(["ReadWriteOnce"])
        body = claim_of(rig)
        body["metadata"]["finalizers"] = ["kubernetes.io/pvc-protection"]
        rig.store.update("PersistentVolumeClaim", "team-a", body)
        rig.store.delete("PersistentVolumeClaim", "team-a", "data")
        rig.finish("prepare", 1)
        assert "is being deleted" in rig.condition("StorageReady")[2]
