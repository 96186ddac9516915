"""Job semantics as they were measured on Kubernetes (operator.md section 3), written for any cluster.

`tests/local` runs these cases against the embedded backend with real processes, `tests/cluster` against the real controllers with played
pods. A difference is a bug of the embedded backend, or of the kubelet that plays.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pytest

from rlhf_api import names

HANG = {"hang": True}
Object = dict[str, Any]


class Cluster(Protocol):
    """What the cases ask of a cluster. An action is one of `tiny_pod.py`."""

    def start(self, name: str, actions: Sequence[Mapping[str, Any]], *, gpus: int = 0, grace: int = 30, **spec: Any) -> None:
        """Create an Indexed Job as the operator writes them, with one pod for each action."""

    def until(self, condition: Any, what: str) -> Any:
        """Let the cluster move until the condition holds."""

    def job(self, name: str) -> Object:
        """The Job."""

    def exists(self, name: str) -> bool:
        """Whether the Job is there."""

    def conditions(self, name: str) -> dict[str, str]:
        """Reasons of the Job's conditions that are True."""

    def pods(self, name: str) -> list[Object]:
        """The Job's pods by index."""

    def all_run(self, name: str) -> bool:
        """Every pod runs, and can be told to stop."""

    def exit_code(self, pod: Object) -> int | None:
        """Exit code of a pod's container."""

    def message(self, pod: Object) -> str:
        """Termination message of a pod."""

    def gate(self) -> str:
        """A file that actions may wait for with `until`."""

    def open_gate(self) -> None:
        """Make that file."""

    def delete_pod(self, pod: Object, grace: int | None = None) -> None:
        """kubectl delete pod; grace 0 is --force."""

    def delete_job(self, name: str, propagation: str) -> None:
        """Delete the Job."""

    def evict(self, pod: Object) -> None:
        """The eviction API."""

    def lose_node(self, pod: Object) -> None:
        """The node of a pod stops answering."""

    def return_node(self, pod: Object) -> None:
        """It is back."""

    def run_out_of_memory(self, pod: Object) -> None:
        """The kernel kills the pod's container."""

    def hold(self, name: str, reason: str) -> None:
        """Pods of this Job cannot start from now on."""

    def repair(self, name: str) -> None:
        """Now they can."""

    def suspend(self, name: str, value: bool) -> None:
        """A queue writes spec.suspend."""

    def change_template(self, name: str) -> str:
        """Try to change the pod template; what the API says to it."""


def fails(cluster: Cluster, name: str) -> None:
    """Wait until the Job has failed."""
    cluster.until(lambda: "Failed" in cluster.conditions(name), f"the Job {name} fails")


class JobSemantics:
    """The cases. A subclass brings the fixture `cluster`."""

    def test_a_job_whose_indexes_all_succeed_is_complete(self, cluster: Cluster) -> None:
        cluster.start("ok", [{}, {}])
        cluster.until(lambda: "Complete" in cluster.conditions("ok"), "the Job completes")
        status = cluster.job("ok")["status"]
        assert (status["succeeded"], status.get("failed", 0), status.get("active", 0)) == (2, 0, 0)
        assert status["startTime"] <= status["completionTime"]
        assert [pod["status"]["phase"] for pod in cluster.pods("ok")] == ["Succeeded", "Succeeded"]

    def test_pods_know_their_index_and_their_host_name(self, cluster: Cluster) -> None:
        cluster.start("gang", [HANG, HANG])
        cluster.until(lambda: cluster.all_run("gang"), "both pods run")
        pods = cluster.pods("gang")
        assert [pod["metadata"]["labels"][names.LABEL_COMPLETION_INDEX] for pod in pods] == ["0", "1"]
        assert [pod["spec"]["hostname"] for pod in pods] == ["gang-0", "gang-1"]
        assert cluster.job("gang")["status"]["active"] == 2

    def test_the_first_failure_ends_the_job_and_keeps_the_failed_pod(self, cluster: Cluster) -> None:
        cluster.start("fails", [HANG, {"exit": 1}])
        fails(cluster, "fails")
        assert cluster.conditions("fails") == {"FailureTarget": "BackoffLimitExceeded", "Failed": "BackoffLimitExceeded"}
        cluster.until(lambda: len(cluster.pods("fails")) == 1, "the peer is deleted")
        (kept,) = cluster.pods("fails")
        assert kept["metadata"]["labels"][names.LABEL_COMPLETION_INDEX] == "1"
        assert cluster.exit_code(kept) == 1

    def test_the_jobs_reason_does_not_tell_the_code_but_the_pod_does(self, cluster: Cluster) -> None:
        cluster.start("config", [{"exit": 64}])
        fails(cluster, "config")
        assert cluster.conditions("config")["Failed"] == "BackoffLimitExceeded"
        assert cluster.exit_code(cluster.pods("config")[0]) == 64

    @pytest.mark.parametrize("grace", [None, 0])
    def test_a_deleted_pod_ends_the_job_and_leaves_no_pod(self, cluster: Cluster, grace: int | None) -> None:
        cluster.start("deleted", [HANG, HANG])
        cluster.until(lambda: cluster.all_run("deleted"), "both pods run")
        cluster.delete_pod(cluster.pods("deleted")[0], grace)
        fails(cluster, "deleted")
        assert cluster.conditions("deleted")["Failed"] == "BackoffLimitExceeded"
        cluster.until(lambda: cluster.pods("deleted") == [], "no pod is left")

    def test_an_evicted_pod_is_marked_and_then_gone(self, cluster: Cluster) -> None:
        cluster.start("evicted", [{**HANG, "deaf": True}], grace=5)
        cluster.until(lambda: cluster.all_run("evicted"), "the pod runs")
        cluster.evict(cluster.pods("evicted")[0])
        marked = cluster.pods("evicted")[0]["status"]["conditions"]
        assert [c["reason"] for c in marked if c["type"] == "DisruptionTarget"] == ["EvictionByEvictionAPI"]
        fails(cluster, "evicted")
        cluster.until(lambda: cluster.pods("evicted") == [], "the pod is gone")

    def test_failed_comes_only_after_the_last_pod_has_ended(self, cluster: Cluster) -> None:
        cluster.start("deaf", [{**HANG, "deaf": True}, {"exit": 1, "until": cluster.gate()}], grace=5)
        cluster.until(lambda: cluster.all_run("deaf"), "both pods run")
        cluster.open_gate()
        cluster.until(lambda: "FailureTarget" in cluster.conditions("deaf"), "the failure is certain")
        assert "Failed" not in cluster.conditions("deaf")
        began = time.monotonic()
        fails(cluster, "deaf")
        assert time.monotonic() - began > 0.5  # the deaf pod had its grace period

    def test_a_lost_node_fails_the_job_only_when_its_pod_is_gone(self, cluster: Cluster) -> None:
        cluster.start("lost", [HANG, HANG])
        cluster.until(lambda: cluster.all_run("lost"), "both pods run")
        lost = cluster.pods("lost")[0]
        cluster.lose_node(lost)
        cluster.until(lambda: "FailureTarget" in cluster.conditions("lost") and len(cluster.pods("lost")) == 1, "the peer is deleted")
        assert "Failed" not in cluster.conditions("lost")
        cluster.return_node(lost)
        fails(cluster, "lost")
        cluster.until(lambda: cluster.pods("lost") == [], "the pod leaves with its node's return")

    def test_suspension_deletes_the_pods_and_resume_starts_anew(self, cluster: Cluster) -> None:
        cluster.start("queued", [HANG], suspend=True)
        cluster.until(lambda: "Suspended" in cluster.conditions("queued"), "the Job is held")
        assert cluster.pods("queued") == []
        cluster.suspend("queued", False)
        cluster.until(lambda: cluster.all_run("queued"), "the pod runs")
        first = cluster.pods("queued")[0]["metadata"]["uid"]
        assert "Suspended" not in cluster.conditions("queued")
        cluster.suspend("queued", True)
        cluster.until(lambda: not cluster.pods("queued"), "the pod is gone")
        cluster.until(lambda: "startTime" not in cluster.job("queued")["status"], "its time is forgotten")
        assert "FailureTarget" not in cluster.conditions("queued")
        cluster.suspend("queued", False)
        cluster.until(lambda: cluster.all_run("queued"), "a new pod runs")
        assert cluster.pods("queued")[0]["metadata"]["uid"] != first
        assert "startTime" in cluster.job("queued")["status"]

    def test_the_template_is_immutable(self, cluster: Cluster) -> None:
        cluster.start("fixed", [HANG])
        assert "field is immutable" in cluster.change_template("fixed")

    def test_the_active_deadline_ends_the_job(self, cluster: Cluster) -> None:
        cluster.start("slow", [HANG], activeDeadlineSeconds=1)
        fails(cluster, "slow")
        assert cluster.conditions("slow")["Failed"] == "DeadlineExceeded"

    def test_foreground_deletion_keeps_the_job_until_its_pods_are_gone(self, cluster: Cluster) -> None:
        cluster.start("going", [{**HANG, "deaf": True}], grace=5)
        cluster.until(lambda: cluster.all_run("going"), "the pod runs")
        cluster.delete_job("going", "Foreground")
        assert "deletionTimestamp" in cluster.job("going")["metadata"]
        cluster.until(lambda: not cluster.exists("going"), "the Job leaves")
        assert cluster.pods("going") == []

    def test_background_deletion_takes_the_job_at_once_and_its_pods_after(self, cluster: Cluster) -> None:
        cluster.start("gone", [HANG])
        cluster.until(lambda: cluster.all_run("gone"), "the pod runs")
        cluster.delete_job("gone", "Background")
        assert not cluster.exists("gone")
        cluster.until(lambda: not cluster.pods("gone"), "the pods leave")

    def test_memory_is_a_reason_of_its_own(self, cluster: Cluster) -> None:
        cluster.start("big", [HANG])
        cluster.until(lambda: cluster.all_run("big"), "the pod runs")
        cluster.run_out_of_memory(cluster.pods("big")[0])
        fails(cluster, "big")
        ended = cluster.pods("big")[0]["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)

    @pytest.mark.parametrize("reason", ["ErrImagePull", "CreateContainerConfigError"])
    def test_a_pod_can_be_held_and_repaired(self, cluster: Cluster, reason: str) -> None:
        cluster.hold("held", reason)
        cluster.start("held", [{}])
        cluster.until(lambda: any("containerStatuses" in pod.get("status", {}) for pod in cluster.pods("held")), "the pod waits")
        assert cluster.pods("held")[0]["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
        cluster.repair("held")
        cluster.until(lambda: "Complete" in cluster.conditions("held"), "the Job completes")

    def test_a_pod_that_never_started_leaves_at_once(self, cluster: Cluster) -> None:
        cluster.hold("never", "ErrImagePull")
        cluster.start("never", [{}])
        cluster.until(lambda: cluster.pods("never"), "the pod exists")
        cluster.delete_pod(cluster.pods("never")[0])
        fails(cluster, "never")
        cluster.until(lambda: cluster.pods("never") == [], "no pod is left")
