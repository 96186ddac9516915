"""Job semantics on the embedded backend, with real processes; `tests/cluster` runs the same cases on the real controllers.

Below them: what only the embedded one has, because its pods are processes of this machine.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_operator.local.pods import Node
from rlhf_operator.local.processes import POD_UID, LocalRuntime, PodProcess, Running
from tests.support.backend import NAMESPACE, LocalBackend
from tests.support.eventually import eventually
from tests.support.job_semantics import HANG, JobSemantics


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalBackend]:
    backend = LocalBackend(tmp_path)
    yield backend
    backend.close()


class TestEmbedded(JobSemantics):
    """The cases that the real controllers pass too."""


def test_the_processes_of_a_lost_node_go_on(cluster: LocalBackend) -> None:
    cluster.start("lost", [HANG])
    cluster.until(lambda: cluster.all_run("lost"), "the pod runs")
    lost = cluster.pods("lost")[0]
    cluster.lose_node(lost)
    cluster.until(lambda: "FailureTarget" in cluster.conditions("lost"), "the Job fails")
    assert cluster.kubelet.is_busy()  # the zombie
    cluster.return_node(lost)
    cluster.until(lambda: not cluster.kubelet.is_busy(), "it ends with its node's return")


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
        assert time.monotonic() - began < 10.0  # 20 ms on a quiet machine

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


def test_a_command_that_does_not_exist_fails_the_pod(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    backend.kubelet.runtime = LocalRuntime((str(tmp_path / "missing"),))
    backend.start("broken", [{}])
    backend.until(lambda: "Failed" in backend.conditions("broken"), "the Job fails")
    assert backend.exit_code(backend.pods("broken")[0]) == 128
    assert "cannot start the pod's process" in backend.message(backend.pods("broken")[0])
    backend.close()


def test_a_claim_without_a_directory_fails_the_pod(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    backend.kubelet.node = Node(tmp_path, {})
    backend.start("lost", [{}])
    backend.until(lambda: "Failed" in backend.conditions("lost"), "the Job fails")
    assert backend.message(backend.pods("lost")[0]) == "cannot start the pod's process: KeyError: 'data'"
    backend.close()


def test_a_defect_while_a_pod_runs_fails_it_and_ends_its_process(cluster: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(process: Running) -> int:
        raise RuntimeError("no child watcher")

    monkeypatch.setattr("rlhf_operator.local.processes._LocalProcess.wait", wait)
    cluster.start("watched", [HANG])
    cluster.until(lambda: "Failed" in cluster.conditions("watched"), "the Job fails")
    (pod,) = cluster.pods("watched")
    assert cluster.message(pod) == "lost the pod's process: RuntimeError: no child watcher"
    assert _processes(pod["metadata"]["uid"]) == []


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
