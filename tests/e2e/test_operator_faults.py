"""The operator or its API server is away while real pods run: nothing is started twice, and nothing is lost (operator.md section 11)."""

import time
from collections.abc import Callable

from tests.support.cluster import ControlPlane
from tests.support.eventually import eventually
from tests.support.jobs import SFT
from tests.support.node import testbed
from tests.support.node.live import STEP_SECONDS, LiveJob

NewJob = Callable[[str], LiveJob]
AWAY_SECONDS = 60.0
DEPLOYMENT = ("--namespace", testbed.NAMESPACE, f"deployment/{testbed.RELEASE}")


def set_crash_point(plane: ControlPlane, change: str) -> None:
    """Give the operator's pod another environment, and wait until the old pod is gone."""
    before = operator_pods(plane)
    plane.kubectl("set", "env", *DEPLOYMENT, change)
    eventually(lambda: not before & operator_pods(plane), STEP_SECONDS, "the end of the old operator")


def operator_pods(plane: ControlPlane) -> set[str]:
    selector = "app.kubernetes.io/name=rlhf-operator"
    return set(plane.kubectl("get", "pods", "--namespace", testbed.NAMESPACE, "--selector", selector, "-o", "name").split())


def test_an_operator_killed_between_status_and_job_starts_the_same_attempt_later(plane: ControlPlane, new_job: NewJob) -> None:
    job = new_job("operator-killed")
    job.act({"sft/r1": {"until": "go", "exit": 1}})
    job.apply({"sft": SFT})
    pods = job.wait_for_running_pods("sft", 1)
    set_crash_point(plane, "RLHF_CRASH_POINT=status")
    try:
        assert [pod["metadata"]["uid"] for pod in job.pods("sft", 1)] == [pod["metadata"]["uid"] for pod in pods], "training was touched"
        job.release()
        job.wait(lambda: job.stage("sft").get("attempt") == 2, "a status that knows attempt 2")
        assert f"{job.name}-sft-r2" not in job.jobs()
    finally:
        set_crash_point(plane, "RLHF_CRASH_POINT-")
    job.wait_for_completion()
    assert (job.stage("sft")["attempt"], job.stage("sft")["countedFailures"]) == (2, 1)
    assert f"{job.name}-sft-r3" not in job.jobs()


def test_an_api_server_that_is_away_for_a_minute_changes_no_attempt(plane: ControlPlane, new_job: NewJob) -> None:
    job = new_job("api-away")
    job.act({"sft/r1": {"until": "go"}})
    job.apply({"sft": SFT})
    pods = job.wait_for_running_pods("sft", 1)
    plane.stop_apiserver()
    try:
        back = time.monotonic() + AWAY_SECONDS
        eventually(lambda: time.monotonic() > back, 2 * AWAY_SECONDS, "the end of a minute")
    finally:
        plane.start_apiserver()
    assert [pod["metadata"]["uid"] for pod in job.pods("sft", 1)] == [pod["metadata"]["uid"] for pod in pods]
    job.release()
    job.wait_for_completion()
    stage = job.stage("sft")
    assert (stage["attempt"], stage.get("countedFailures", 0), stage.get("disruptions", 0)) == (1, 0, 0)
