"""Logs of pods: which ones, in which order, and that no line is lost or repeated when streams break."""

from typing import Any

import pytest

from rlhf_cli.cluster.connection import connect
from rlhf_cli.cluster.jobs import Jobs
from rlhf_cli.cluster.pod_logs import follow, read, sources
from rlhf_cli.cluster.target import Target
from rlhf_cli.errors import CommandError
from tests.support.small_api import JOBS, PODS, Request, SmallApi, status
from tests.support.statuses import a_job, a_stage

POLL = 0.01


def a_pod(stage: str, attempt: int, index: int = 0, state: str = "terminated") -> dict[str, Any]:
    labels = {"rlhf.dev/stage": stage, "rlhf.dev/attempt": str(attempt), "batch.kubernetes.io/job-completion-index": str(index)}
    return {
        "metadata": {"name": f"hello-{stage}-r{attempt}-{index}", "labels": labels},
        "status": {"containerStatuses": [{"state": {state: {}}}]},
    }


def a_log(*numbers: int) -> str:
    return "".join(f"2026-01-01T10:00:{number:02}.5Z line {number}\n" for number in numbers)


@pytest.fixture
def jobs(api: SmallApi) -> Jobs:
    return Jobs(connect(Target(kubeconfig=api.kubeconfig)))


def serve(api: SmallApi, job: dict[str, Any], *pods: dict[str, Any]) -> None:
    job["metadata"]["uid"] = "u-1"
    api.on("GET", f"{JOBS}/hello", job)
    api.on("GET", PODS, {"items": list(pods)})
    for pod in pods:
        name = pod["metadata"]["name"]
        api.on("GET", f"{PODS}/{name}", pod)
        api.on("GET", f"{PODS}/{name}/log", a_log(1, 2))


JOB = a_job(a_stage("prepare", "Prepare"), a_stage("sft"), a_stage("ppo", "PPO", attempt=2))
ALL = [a_pod("ppo", 2, 1), a_pod("ppo", 2, 0), a_pod("ppo", 1), a_pod("prepare", 1), a_pod("sft", 1, state="waiting")]


@pytest.mark.parametrize(
    ("stage", "attempt", "labels"),
    [
        pytest.param(None, None, ["prepare/r1/0", "ppo/r2/0", "ppo/r2/1"], id="the newest attempt of every stage, in the order of the job"),
        pytest.param("ppo", None, ["ppo/r2/0", "ppo/r2/1"], id="one stage"),
        pytest.param("ppo", 1, ["ppo/r1/0"], id="an attempt that is over"),
        pytest.param("sft", None, [], id="a pod that waits has written nothing"),
    ],
)
def test_sources(stage: str | None, attempt: int | None, labels: list[str]) -> None:
    assert [source.label for source in sources(JOB, ALL, stage, attempt)] == labels


def test_pods_of_others_are_left_out() -> None:
    assert sources(JOB, [{"metadata": {"name": "x"}, "status": {"containerStatuses": [{"state": {"running": {}}}]}}], None, None) == []


def test_an_unknown_stage_names_those_of_the_job() -> None:
    with pytest.raises(CommandError, match="STAGE: 'pp0' is no stage of this job: prepare, sft, ppo"):
        sources(JOB, [], "pp0", None)


def test_every_line_says_where_it_comes_from(api: SmallApi, jobs: Jobs) -> None:
    serve(api, a_job(a_stage()), a_pod("sft", 1))
    assert list(read(jobs, "hello", None, None)) == ["sft/r1/0 line 1\n", "sft/r1/0 line 2\n"]
    assert next(request for request in api.requests if request.path == PODS).query["labelSelector"] == "rlhf.dev/job-uid=u-1"


@pytest.mark.parametrize(
    ("stage", "attempt", "said"),
    [(None, None, "JOB: 'hello' has no pod"), ("sft", None, "STAGE: 'sft' has no pod"), ("sft", 3, "--attempt: 3 has no pod")],
)
def test_no_pods_no_logs(api: SmallApi, jobs: Jobs, stage: str | None, attempt: int | None, said: str) -> None:
    serve(api, a_job(a_stage()))
    with pytest.raises(CommandError, match=said):
        list(read(jobs, "hello", stage, attempt))


def test_a_pod_that_may_not_be_read(api: SmallApi, jobs: Jobs) -> None:
    serve(api, a_job(a_stage()), a_pod("sft", 1))
    api.on("GET", f"{PODS}/hello-sft-r1-0/log", status(403, "Forbidden", "no"), 403)
    with pytest.raises(CommandError, match="ask for the ClusterRole rlhf-user"):
        list(read(jobs, "hello", None, None))


def followed(jobs: Jobs, stage: str | None = None, attempt: int | None = None) -> list[str]:
    said: list[str] = []
    lines = list(follow(jobs, "hello", stage, attempt, said.append, poll_seconds=POLL))
    assert said == []
    return lines


def test_following_ends_with_the_job(api: SmallApi, jobs: Jobs) -> None:
    serve(api, a_job(a_stage(phase="Succeeded"), phase="Succeeded"), a_pod("sft", 1))
    assert followed(jobs) == ["sft/r1/0 line 1\n", "sft/r1/0 line 2\n"]


def test_following_goes_on_to_the_next_stage(api: SmallApi, jobs: Jobs) -> None:
    serve(api, a_job(a_stage("sft", phase="Succeeded"), a_stage("rm", "RewardModel", phase="Succeeded"), phase="Succeeded"))
    finished = api.routes["GET", f"{JOBS}/hello"](Request("GET", "", {}, None, {}))[1]
    running = a_job(a_stage("sft", phase="Succeeded"), a_stage("rm", "RewardModel"))
    running["metadata"]["uid"] = "u-1"
    api.on_each("GET", f"{JOBS}/hello", (200, running), (200, running), (200, finished))
    pods = [a_pod("sft", 1), a_pod("rm", 1)]
    api.on_each("GET", PODS, (200, {"items": pods[:1]}), (200, {"items": pods}))
    for pod in pods:
        api.on("GET", f"{PODS}/{pod['metadata']['name']}", pod)
        api.on("GET", f"{PODS}/{pod['metadata']['name']}/log", a_log(1))
    assert sorted(followed(jobs)) == ["rm/r1/0 line 1\n", "sft/r1/0 line 1\n"]  # pods are read side by side


def test_what_a_deleted_job_had_said_comes_before_the_error(api: SmallApi, jobs: Jobs) -> None:
    serve(api, a_job(a_stage()), a_pod("sft", 1))
    running = api.routes["GET", f"{JOBS}/hello"](Request("GET", "", {}, None, {}))[1]
    gone = status(404, "NotFound", "not found", name="hello", kind="rlhfjobs")
    api.on_each("GET", f"{JOBS}/hello", (200, running), (404, gone))
    lines = follow(jobs, "hello", None, None, pytest.fail, poll_seconds=POLL)
    read: list[str] = []
    with pytest.raises(CommandError, match="was deleted meanwhile"):
        read.extend(lines)
    assert sorted(read) == ["sft/r1/0 line 1\n", "sft/r1/0 line 2\n"]


def test_attempts_that_come_and_go_between_two_looks_are_shown_too(api: SmallApi, jobs: Jobs) -> None:
    serve(api, a_job(a_stage(phase="Succeeded", attempt=3), phase="Succeeded"))
    finished = api.routes["GET", f"{JOBS}/hello"](Request("GET", "", {}, None, {}))[1]
    running = a_job(a_stage())
    running["metadata"]["uid"] = "u-1"
    api.on_each("GET", f"{JOBS}/hello", (200, running), (200, finished))
    pods = [a_pod("sft", number) for number in (1, 2, 3)]
    api.on_each("GET", PODS, (200, {"items": []}), (200, {"items": pods}))
    for pod in pods:
        api.on("GET", f"{PODS}/{pod['metadata']['name']}", pod)
        api.on("GET", f"{PODS}/{pod['metadata']['name']}/log", a_log(1))
    assert sorted(followed(jobs)) == [f"sft/r{number}/0 line 1\n" for number in (1, 2, 3)]


def test_an_attempt_that_was_over_before_is_not_followed(api: SmallApi, jobs: Jobs) -> None:
    serve(api, a_job(a_stage(phase="Succeeded", attempt=2), phase="Succeeded"), a_pod("sft", 1), a_pod("sft", 2))
    assert followed(jobs) == ["sft/r2/0 line 1\n", "sft/r2/0 line 2\n"]


def test_a_broken_stream_costs_no_line_and_repeats_none(api: SmallApi, jobs: Jobs) -> None:
    serve(api, a_job(a_stage(phase="Succeeded"), phase="Succeeded"), a_pod("sft", 1))
    path = f"{PODS}/hello-sft-r1-0"
    api.on_each("GET", path, (200, a_pod("sft", 1, state="running")), (200, a_pod("sft", 1)))
    api.on_each("GET", f"{path}/log", (200, a_log(1, 2)), (200, a_log(2, 3)))
    assert followed(jobs) == [f"sft/r1/0 line {number}\n" for number in (1, 2, 3)]
    reads = [request.query for request in api.requests if request.path == f"{path}/log"]
    assert [query.get("sinceTime") for query in reads] == [None, "2026-01-01T10:00:02.5Z"]
    assert [query.get("follow") for query in reads] == ["true", None]


def test_a_container_that_does_not_run_yet_is_asked_again(api: SmallApi, jobs: Jobs) -> None:
    serve(api, a_job(a_stage(phase="Succeeded"), phase="Succeeded"), a_pod("sft", 1))
    path = f"{PODS}/hello-sft-r1-0"
    api.on_each("GET", path, (200, a_pod("sft", 1, state="running")), (200, a_pod("sft", 1)))
    api.on_each("GET", f"{path}/log", (400, status(400, "BadRequest", "is waiting to start")), (200, a_log(1)))
    assert followed(jobs) == ["sft/r1/0 line 1\n"]


@pytest.mark.parametrize(
    ("code", "said"),
    [pytest.param(404, [], id="a pod that is gone is silent"), pytest.param(403, ["sft/r1/0 (no log: no)\n"], id="others say why")],
)
def test_a_log_that_cannot_be_read(api: SmallApi, jobs: Jobs, code: int, said: list[str]) -> None:
    serve(api, a_job(a_stage(phase="Succeeded"), phase="Succeeded"), a_pod("sft", 1))
    api.on("GET", f"{PODS}/hello-sft-r1-0/log", status(code, "Reason", "no"), code)
    assert [line for line in followed(jobs) if line] == said


def test_following_one_attempt_ends_with_it(api: SmallApi, jobs: Jobs) -> None:
    serve(api, a_job(a_stage(attempt=2)), a_pod("sft", 1), a_pod("sft", 2, state="running"))
    assert followed(jobs, "sft", 1) == ["sft/r1/0 line 1\n", "sft/r1/0 line 2\n"]
