"""Nothing is broken yet and nothing moves: the reason is in the conditions within seconds, and leaves when the cause does."""

from datetime import timedelta
from typing import Any

import pytest

from rlhf_api.status import StagePhase
from rlhf_operator.shell.kube import Forbidden, Invalid
from tests.support.rig import Rig, one_stage


def starting() -> Rig:
    rig = Rig(one_stage())
    rig.succeed("prepare")
    return rig


@pytest.mark.parametrize(
    ("reason", "condition"),
    [
        ("ErrImagePull", "ImagePull"),
        ("ImagePullBackOff", "ImagePull"),
        ("InvalidImageName", "ImagePull"),
        ("CreateContainerConfigError", "CreateContainerConfig"),
        ("CreateContainerError", "CreateContainerConfig"),
        ("RunContainerError", "CreateContainerConfig"),
    ],
)
def test_a_container_that_cannot_start_says_why_and_may_be_repaired(reason: str, condition: str) -> None:
    rig = starting()
    rig.report(rig.pods("sft")[0], phase="Pending", waiting={"reason": reason, "message": "the words of the kubelet"})
    rig.settle()
    assert rig.condition("Stalled")[0] == "False"
    assert rig.requeue == 10, "pods are asked ten seconds after their Job has started"
    rig.wait(10)
    assert rig.condition("PodsReady")[:2] == ("False", condition)
    assert rig.condition("Stalled")[:2] == ("True", condition)
    assert rig.stage("sft").reason == condition
    assert rig.stage("sft").message.endswith(f"{reason}: the words of the kubelet")
    assert rig.status.reason == condition
    rig.run("sft")
    assert rig.condition("Stalled")[0] == "False"
    assert rig.stage("sft").reason == ""
    assert rig.events()[-2:] == ["Stalled", "StallCleared"]


def test_a_pod_that_is_placed_and_does_not_start_is_initializing() -> None:
    rig = starting()
    rig.report(rig.pods("sft")[0], phase="Pending", waiting={"reason": "ContainerCreating"})
    rig.wait(20)
    assert rig.condition("Stalled")[0] == "False"
    rig.wait(1)
    assert rig.condition("PodsReady")[:2] == ("False", "Initializing")


def test_missing_pods_are_noticed_after_ten_seconds() -> None:
    rig = starting()
    pod = rig.pods("sft")[0]
    rig.store.remove_finalizer("Pod", "team-a", pod["metadata"]["name"], "batch.kubernetes.io/job-tracking")
    rig.store.delete("Pod", "team-a", pod["metadata"]["name"], grace=0)
    rig.run_once()
    assert rig.condition("Stalled")[0] == "False"
    rig.now = rig.now.replace(second=11)
    rig.run_once()
    assert rig.condition("PodsReady") == ("False", "NoPods", "stage sft: 0 of 1 pods exist: the Job has no event that says why")
    warn(rig, rig.job("sft"), "FailedCreate", "pods are forbidden: exceeded quota")
    rig.run_once()
    assert rig.condition("PodsReady")[2] == "stage sft: 0 of 1 pods exist: FailedCreate: pods are forbidden: exceeded quota"


def test_a_pod_that_cannot_start_is_explained_by_its_newest_warning() -> None:
    rig = starting()
    pod = rig.pods("sft")[0]
    rig.report(pod, phase="Pending", waiting={"reason": "ContainerCreating"})
    warn(rig, pod, "FailedMount", "an older warning")
    rig.now += timedelta(seconds=1)
    warn(rig, pod, "FailedMount", "volume is not attached")
    rig.wait(21)
    assert rig.condition("PodsReady")[2].endswith("is placed but not ready: FailedMount: volume is not attached")


def test_without_the_right_to_read_events_a_stall_is_told_without_them() -> None:
    rig = starting()
    rig.report(rig.pods("sft")[0], phase="Pending", waiting={"reason": "ContainerCreating"})
    rig.api.faults.fail("list", "Event", Forbidden("no"), every=True)
    rig.wait(21)
    assert rig.condition("PodsReady")[2].endswith("is placed but not ready")


def warn(rig: Rig, about: Any, reason: str, message: str) -> None:
    """A Warning event of the cluster."""
    body = {
        "metadata": {"name": f"{about['metadata']['name']}.{rig.store.version}"},
        "involvedObject": {"uid": about["metadata"]["uid"]},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "lastTimestamp": rig.store.now(),
    }
    rig.store.create("Event", "team-a", body)


def test_a_starting_attempt_is_looked_at_ever_less_often() -> None:
    rig = starting()
    looks = [rig.requeue]
    for seconds in (10, 20, 700):
        rig.wait(seconds)
        looks.append(rig.requeue)
    assert looks == [10, 15, 15, 60]


class TestRefusedByTheServer:
    def refuse(self, rig: Rig, error: Any) -> None:
        rig.api.faults.fail("create", "Job", error, every=True)

    def test_quota_keeps_the_attempt_number_and_retries_ever_more_slowly(self) -> None:
        rig = Rig(one_stage())
        self.refuse(rig, Forbidden('jobs "chat" is forbidden: exceeded quota: pods=10'))
        paces = [rig.run_once() for _ in range(5)]
        assert paces == [0, 15, 30, 60, 60]
        assert rig.condition("PodsReady")[:2] == ("False", "QuotaExceeded")
        assert "exceeded quota" in rig.condition("Stalled")[2]
        assert rig.stage("prepare").attempt == 1
        rig.api.faults.clear()
        rig.settle()
        assert rig.jobs() == ["chat-prepare-r1"]
        assert rig.condition("Stalled")[0] == "False"

    def test_a_manifest_that_the_server_rejects_says_so(self) -> None:
        rig = Rig(one_stage())
        self.refuse(rig, Invalid("spec.template: denied by a policy"))
        assert [rig.run_once(), rig.run_once()] == [0, 60]
        assert rig.condition("PodsReady")[1:] == ("ApiRejected", "stage prepare: spec.template: denied by a policy")
        assert rig.stage("prepare").phase is StagePhase.STARTING

    def test_any_other_403_too(self) -> None:
        rig = Rig(one_stage())
        self.refuse(rig, Forbidden("may not create jobs"))
        rig.settle(checks=False)
        assert rig.condition("PodsReady")[1] == "ApiRejected"
