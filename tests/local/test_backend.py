"""Job semantics as they were measured on Kubernetes (operator.md section 3). The cases are written for any cluster; this file runs them
against the embedded one, with real processes. A difference to a real cluster is a bug of the backend.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_api import names
from rlhf_operator.local.processes import POD_UID, LocalRuntime, PodProcess
from rlhf_operator.shell.kube import Invalid
from tests.support.backend import NAMESPACE, LocalBackend
from tests.support.eventually import eventually

HANG = {"hang": True}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalBackend]:
    backend = LocalBackend(tmp_path)
    yield backend
    backend.close()


def test_a_job_whose_indexes_all_succeed_is_complete(cluster: LocalBackend) -> None:
    cluster.start("ok", [{}, {}])
    cluster.until(lambda: "Complete" in cluster.conditions("ok"), "the Job completes")
    status = cluster.job("ok")["status"]
    assert (status["succeeded"], status.get("failed", 0), status["active"]) == (2, 0, 0)
    assert status["startTime"] <= status["completionTime"]
    assert [pod["status"]["phase"] for pod in cluster.pods("ok")] == ["Succeeded", "Succeeded"]


def test_pods_know_their_index_and_their_host_name(cluster: LocalBackend) -> None:
    cluster.start("gang", [HANG, HANG])
    cluster.until(lambda: cluster.all_run("gang"), "both pods run")
    pods = cluster.pods("gang")
    assert [pod["metadata"]["labels"][names.LABEL_COMPLETION_INDEX] for pod in pods] == ["0", "1"]
    assert [pod["spec"]["hostname"] for pod in pods] == ["gang-0", "gang-1"]
    assert cluster.job("gang")["status"]["active"] == 2


def test_the_first_failure_ends_the_job_and_keeps_the_failed_pod(cluster: LocalBackend) -> None:
    cluster.start("fails", [HANG, {"exit": 1}])
    cluster.until(lambda: "Failed" in cluster.conditions("fails"), "the Job fails")
    assert cluster.conditions("fails") == {"FailureTarget": "BackoffLimitExceeded", "Failed": "BackoffLimitExceeded"}
    (kept,) = cluster.pods("fails")
    assert kept["metadata"]["labels"][names.LABEL_COMPLETION_INDEX] == "1"
    assert cluster.exit_code(kept) == 1


def test_the_jobs_reason_does_not_tell_the_code_but_the_pod_does(cluster: LocalBackend) -> None:
    cluster.start("config", [{"exit": 64}])
    cluster.until(lambda: "Failed" in cluster.conditions("config"), "the Job fails")
    assert cluster.conditions("config")["Failed"] == "BackoffLimitExceeded"
    assert cluster.exit_code(cluster.pods("config")[0]) == 64


@pytest.mark.parametrize("grace", [None, 0])
def test_a_deleted_pod_ends_the_job_and_leaves_no_pod(cluster: LocalBackend, grace: int | None) -> None:
    cluster.start("deleted", [HANG, HANG])
    cluster.until(lambda: cluster.all_run("deleted"), "both pods run")
    cluster.delete_pod(cluster.pods("deleted")[0], grace)
    cluster.until(lambda: "Failed" in cluster.conditions("deleted"), "the Job fails")
    assert cluster.conditions("deleted")["Failed"] == "BackoffLimitExceeded"
    assert cluster.pods("deleted") == []


def test_an_evicted_pod_is_marked_and_then_gone(cluster: LocalBackend) -> None:
    cluster.start("evicted", [HANG])
    cluster.until(lambda: cluster.all_run("evicted"), "the pod runs")
    pod = cluster.pods("evicted")[0]
    cluster.kubelet.evict(pod["metadata"]["name"])
    marked = cluster.pods("evicted")[0]["status"]["conditions"]
    assert [c["reason"] for c in marked if c["type"] == "DisruptionTarget"] == ["EvictionByEvictionAPI"]
    cluster.until(lambda: "Failed" in cluster.conditions("evicted"), "the Job fails")
    assert cluster.pods("evicted") == []


def test_failed_comes_only_after_the_last_pod_has_ended(cluster: LocalBackend) -> None:
    cluster.start("deaf", [{**HANG, "deaf": True}, {"exit": 1, "until": str(cluster.directory / "go")}], grace=1)
    cluster.until(lambda: cluster.all_run("deaf") and "arguments" in cluster.log("deaf"), "both pods run")
    (cluster.directory / "go").touch()
    cluster.until(lambda: "FailureTarget" in cluster.conditions("deaf"), "the failure is certain")
    assert "Failed" not in cluster.conditions("deaf")
    began = time.monotonic()
    cluster.until(lambda: "Failed" in cluster.conditions("deaf"), "the deaf pod is killed after its grace period")
    assert time.monotonic() - began > 0.5


def test_a_lost_node_fails_the_job_only_when_its_pod_is_gone(cluster: LocalBackend) -> None:
    cluster.start("lost", [HANG, HANG])
    cluster.until(lambda: cluster.all_run("lost"), "both pods run")
    lost = cluster.pods("lost")[0]["metadata"]["name"]
    cluster.kubelet.lose_node(lost)
    cluster.until(lambda: "FailureTarget" in cluster.conditions("lost") and len(cluster.pods("lost")) == 1, "the peer is deleted")
    assert "Failed" not in cluster.conditions("lost")
    assert cluster.kubelet.is_busy()  # the zombie goes on
    cluster.kubelet.return_node(lost)
    cluster.until(lambda: "Failed" in cluster.conditions("lost"), "the pod leaves with its node's return")
    assert cluster.pods("lost") == []


def test_suspension_deletes_the_pods_and_resume_starts_anew(cluster: LocalBackend) -> None:
    cluster.start("queued", [HANG], suspend=True)
    cluster.until(lambda: "Suspended" in cluster.conditions("queued"), "the Job is held")
    assert cluster.pods("queued") == []
    cluster.suspend("queued", False)
    cluster.until(lambda: cluster.all_run("queued"), "the pod runs")
    first = cluster.pods("queued")[0]["metadata"]["uid"]
    assert "Suspended" not in cluster.conditions("queued")
    cluster.suspend("queued", True)
    cluster.until(lambda: not cluster.pods("queued"), "the pod is gone")
    assert "startTime" not in cluster.job("queued")["status"]
    assert "FailureTarget" not in cluster.conditions("queued")
    cluster.suspend("queued", False)
    cluster.until(lambda: cluster.all_run("queued"), "a new pod runs")
    assert cluster.pods("queued")[0]["metadata"]["uid"] != first
    assert "startTime" in cluster.job("queued")["status"]


def test_the_template_is_immutable(cluster: LocalBackend) -> None:
    cluster.start("fixed", [HANG])
    job = cluster.job("fixed")
    job["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    with pytest.raises(Invalid, match=r"spec\.template: field is immutable"):
        cluster.store.update("Job", NAMESPACE, job)


def test_the_active_deadline_ends_the_job(cluster: LocalBackend) -> None:
    cluster.start("slow", [HANG], activeDeadlineSeconds=1)
    cluster.until(lambda: "Failed" in cluster.conditions("slow"), "the deadline passes")
    assert cluster.conditions("slow")["Failed"] == "DeadlineExceeded"


def test_foreground_deletion_keeps_the_job_until_its_pods_are_gone(cluster: LocalBackend) -> None:
    cluster.start("going", [HANG])
    cluster.until(lambda: cluster.all_run("going"), "the pod runs")
    cluster.store.delete("Job", NAMESPACE, "going", propagation="Foreground")
    assert "deletionTimestamp" in cluster.job("going")["metadata"]
    cluster.until(lambda: not cluster.exists("going"), "the Job leaves")
    assert cluster.pods("going") == []
    assert not cluster.kubelet.is_busy()


def test_background_deletion_takes_the_job_at_once_and_its_pods_after(cluster: LocalBackend) -> None:
    cluster.start("gone", [HANG])
    cluster.until(lambda: cluster.all_run("gone"), "the pod runs")
    cluster.store.delete("Job", NAMESPACE, "gone")
    assert not cluster.exists("gone")
    cluster.until(lambda: not cluster.pods("gone"), "the pods leave")


class TestPods:
    """What a pod sees, and what becomes of its processes."""

    def test_environment_arguments_and_files(self, cluster: LocalBackend) -> None:
        cluster.start("sees", [{}, {}])
        cluster.until(lambda: "Complete" in cluster.conditions("sees"), "the Job completes")
        seen = [dict(line.split(" ", 1) for line in cluster.log("sees", index).splitlines()) for index in (0, 1)]
        environments = [json.loads(lines["environment"]) for lines in seen]
        assert [env["PET_NODE_RANK"] for env in environments] == ["0", "1"]
        assert {env["PET_MASTER_ADDR"] for env in environments} == {"127.0.0.1"}
        assert len({env["PET_MASTER_PORT"] for env in environments}) == 1
        arguments = [json.loads(lines["arguments"]) for lines in seen]
        assert {options["--workspace"] for options in arguments} == {str(cluster.directory / "volume")}
        assert len({options["--progress-port"] for options in arguments}) == 2
        assert Path(arguments[0]["--secrets"]).is_dir()

    def test_a_signal_is_128_plus_its_number(self, cluster: LocalBackend) -> None:
        cluster.start("killed", [HANG])
        cluster.until(lambda: cluster.all_run("killed"), "the pod runs")
        (process,) = _processes(cluster.pods("killed")[0]["metadata"]["uid"])
        os.kill(process, signal.SIGKILL)
        cluster.until(lambda: "Failed" in cluster.conditions("killed"), "the Job fails")
        assert cluster.exit_code(cluster.pods("killed")[0]) == 137

    def test_the_end_of_a_pod_is_seen_at_once(self, cluster: LocalBackend) -> None:
        cluster.start("quick", [HANG])
        cluster.until(lambda: cluster.all_run("quick"), "the pod runs")
        (process,) = _processes(cluster.pods("quick")[0]["metadata"]["uid"])
        began = time.monotonic()
        os.kill(process, signal.SIGKILL)
        cluster.until(lambda: cluster.exit_code(cluster.pods("quick")[0]) == 137, "the end is reported")
        assert time.monotonic() - began < 2.0  # 20 ms on a quiet machine

    def test_memory_is_a_reason_of_its_own(self, cluster: LocalBackend) -> None:
        cluster.start("big", [HANG])
        cluster.until(lambda: cluster.all_run("big"), "the pod runs")
        cluster.kubelet.run_out_of_memory(cluster.pods("big")[0]["metadata"]["name"])
        cluster.until(lambda: "Failed" in cluster.conditions("big"), "the Job fails")
        ended = cluster.pods("big")[0]["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)

    def test_a_termination_message_has_at_most_four_kibibytes(self, cluster: LocalBackend) -> None:
        cluster.start("long", [{"exit": 1, "message": "x" * 100_000}])
        cluster.until(lambda: "Failed" in cluster.conditions("long"), "the Job fails")
        assert cluster.message(cluster.pods("long")[0]) == "x" * 4096

    def test_the_first_process_takes_all_others_along(self, cluster: LocalBackend) -> None:
        cluster.start("family", [{"child": True, "until": str(cluster.directory / "go")}])
        cluster.until(lambda: cluster.all_run("family"), "the pod runs")
        uid = cluster.pods("family")[0]["metadata"]["uid"]
        cluster.until(lambda: len(_processes(uid)) == 2, "the child runs in its own session")
        (cluster.directory / "go").touch()
        cluster.until(lambda: "Complete" in cluster.conditions("family"), "the Job completes")
        assert _processes(uid) == []

    def test_what_an_earlier_process_left_running_is_ended_and_lost(self, cluster: LocalBackend) -> None:
        cluster.start("orphan", [{**HANG, "child": True}])
        cluster.until(lambda: cluster.all_run("orphan"), "the pod runs")
        pod = cluster.pods("orphan")[0]
        cluster.until(lambda: len(_processes(pod["metadata"]["uid"])) == 2, "the child runs")
        restarted = LocalBackend(cluster.directory)
        restarted.store = restarted.kubelet.store = cluster.store
        assert restarted.kubelet.adopt() == [pod["metadata"]["name"]]
        assert _processes(pod["metadata"]["uid"]) == []
        lost = cluster.store.get("Pod", NAMESPACE, pod["metadata"]["name"])
        assert lost["status"]["phase"] == "Failed"
        assert [c["reason"] for c in lost["status"]["conditions"] if c["type"] == "DisruptionTarget"] == ["TerminationByKubelet"]
        assert restarted.kubelet.adopt() == []
        restarted.loop.close()

    def test_gpus_are_handed_out_and_waited_for(self, tmp_path: Path) -> None:
        backend = LocalBackend(tmp_path, gpus=("0", "1"))
        go = tmp_path / "go"
        backend.start("one", [{"until": str(go)}], gpus=2)
        backend.start("two", [{}], gpus=1)
        backend.until(lambda: backend.all_run("one") and "environment" in backend.log("one"), "the first takes both")
        assert '"CUDA_VISIBLE_DEVICES": "0,1"' in backend.log("one")
        (waiting,) = backend.pods("two")
        assert [c["reason"] for c in waiting["status"]["conditions"]] == ["Unschedulable"]
        go.touch()
        backend.until(lambda: "Complete" in backend.conditions("two"), "the second gets one when they are free")
        assert '"CUDA_VISIBLE_DEVICES": "0"' in backend.log("two")
        backend.close()

    def test_pods_without_gpus_see_none(self, cluster: LocalBackend) -> None:
        cluster.start("cpu", [{}])
        cluster.until(lambda: "Complete" in cluster.conditions("cpu"), "the Job completes")
        assert '"CUDA_VISIBLE_DEVICES": ""' in cluster.log("cpu")

    @pytest.mark.parametrize("reason", ["ErrImagePull", "CreateContainerConfigError"])
    def test_a_pod_can_be_held_and_repaired(self, cluster: LocalBackend, reason: str) -> None:
        cluster.kubelet.held["held"] = reason
        cluster.start("held", [{}])
        cluster.until(lambda: cluster.pods("held") and "containerStatuses" in cluster.pods("held")[0]["status"], "the pod waits")
        assert cluster.pods("held")[0]["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
        cluster.kubelet.held.clear()
        cluster.until(lambda: "Complete" in cluster.conditions("held"), "the Job completes")

    def test_a_pod_that_never_started_leaves_at_once(self, cluster: LocalBackend) -> None:
        cluster.kubelet.held["never"] = "Unschedulable"
        cluster.start("never", [{}])
        cluster.until(lambda: cluster.pods("never"), "the pod exists")
        cluster.delete_pod(cluster.pods("never")[0])
        cluster.until(lambda: "Failed" in cluster.conditions("never"), "the Job fails")
        assert cluster.pods("never") == []


def test_a_command_that_does_not_exist_fails_the_pod(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    backend.kubelet.runtime = LocalRuntime((str(tmp_path / "missing"),))
    backend.start("broken", [{}])
    backend.until(lambda: "Failed" in backend.conditions("broken"), "the Job fails")
    assert backend.exit_code(backend.pods("broken")[0]) == 128
    assert "cannot start the pod's process" in backend.message(backend.pods("broken")[0])
    backend.close()


def test_ending_leftovers_of_a_pod_without_any_is_harmless() -> None:
    assert LocalRuntime().end_leftovers("no-such-pod") is False
    assert PodProcess.__dataclass_fields__.keys() == {"uid", "arguments", "environment", "directory", "log"}


def _processes(pod_uid: str) -> list[int]:
    """Living processes of a pod, found as the backend finds them but without its code."""
    wanted = f"{POD_UID}={pod_uid}"

    def find() -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (entry / "environ").read_text(errors="replace").split("\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    return eventually(lambda: (find(),), what="/proc can be read")[0]
