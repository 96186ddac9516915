"""The platform ends an attempt: never the user's fault, never counted, and the stage goes on (operator.md sections 4 and 11)."""

from collections.abc import Callable

import pytest

from tests.support.cluster import ControlPlane
from tests.support.eventually import eventually
from tests.support.jobs import SFT
from tests.support.node import testbed, volumes
from tests.support.node.live import NAMESPACE, STEP_SECONDS, LiveJob, eventually_gone

NewJob = Callable[[str], LiveJob]


def evict(plane: ControlPlane, job: LiveJob) -> None:
    job.evict(job.pods("sft", 1)[1])


def delete_pod(plane: ControlPlane, job: LiveJob) -> None:
    plane.kubectl("delete", "pod", "--namespace", NAMESPACE, "--wait=false", job.pods("sft", 1)[1]["metadata"]["name"])


def delete_job(plane: ControlPlane, job: LiveJob) -> None:
    plane.kubectl("delete", "job", "--namespace", NAMESPACE, "--wait=false", f"{job.name}-sft-r1")


@pytest.mark.parametrize(
    ("name", "hurt", "outcomes"),
    [
        pytest.param("evicted", evict, {"Disrupted"}, id="an eviction"),
        pytest.param("pod-deleted", delete_pod, {"Disrupted", "Preempted", "Communication"}, id="kubectl delete pod"),
        pytest.param("job-deleted", delete_job, {"Disrupted"}, id="kubectl delete job"),
    ],
)
def test_a_disruption_does_not_count(
    plane: ControlPlane, new_job: NewJob, name: str, hurt: Callable[[ControlPlane, LiveJob], None], outcomes: set[str]
) -> None:
    job = new_job(name)
    job.act({"sft/r1": {"until": "never"}})
    job.apply({"sft": SFT}, runPolicy={"maxAttempts": 1})
    job.wait_for_running_pods("sft", 1)
    hurt(plane, job)
    job.wait_for_completion()
    first, stage = job.attempt("sft", 1), job.stage("sft")
    assert first["outcome"] in outcomes
    assert (first["budget"], stage.get("countedFailures", 0), stage["disruptions"], stage["attempt"]) == ("Disruption", 0, 1, 2)


def test_a_deleted_job_takes_everything_with_it_but_its_volume(plane: ControlPlane, new_job: NewJob) -> None:
    waiting = [{"name": "FAKE_ACTIONS", "value": '{"sft": {"until": "never"}}'}]
    volumes.apply(plane.kubectl, testbed.fake_profile("waiting", env=waiting))
    job = new_job("deleted")
    job.apply({"sft": SFT}, profile="waiting", storage={"size": "1Gi"})
    job.wait_for_running_pods("sft", 1)
    claim = job.status()["volume"]["claimName"]
    job.delete()
    eventually_gone(job)
    services = ["get", "services", "--namespace", NAMESPACE, "--selector", f"rlhf.dev/job={job.name}", "-o", "name"]
    eventually(lambda: plane.kubectl(*services) == "", STEP_SECONDS, "the Service is gone")
    assert f"persistentvolumeclaim/{claim}" in plane.kubectl("get", "pvc", "--namespace", NAMESPACE, "-o", "name").split()
