"""`submit`, `cancel` and `resume` on a cluster: one change of the spec each, and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from rlhf_cli.cluster import control
from rlhf_cli.cluster.connection import connect
from rlhf_cli.cluster.jobs import Jobs
from rlhf_cli.cluster.target import Target
from rlhf_cli.errors import CommandError
from tests.support.jobs import SFT, a_job_file
from tests.support.small_api import JOBS, SmallApi, status
from tests.support.statuses import a_job, a_stage


@pytest.fixture
def jobs(api: SmallApi) -> Jobs:
    return Jobs(connect(Target(kubeconfig=api.kubeconfig)))


def serve(api: SmallApi, job: dict[str, Any]) -> None:
    path = f"{JOBS}/{job['metadata']['name']}"
    api.on("GET", path, job)
    api.on("PATCH", path, job)


def patched(api: SmallApi) -> list[object]:
    assert all(request.headers["Content-Type"] == "application/merge-patch+json" for request in api.sent("PATCH"))
    return [request.body for request in api.sent("PATCH")]


def test_cancel_suspends(api: SmallApi, jobs: Jobs) -> None:
    serve(api, a_job(a_stage()))
    assert control.cancel(jobs, "hello") == "hello stops after a checkpoint and gives its nodes back"
    assert patched(api) == [{"spec": {"suspend": True}}]


@pytest.mark.parametrize(
    ("job", "said"),
    [
        pytest.param(
            a_job(a_stage(phase="Succeeded"), phase="Succeeded"), "hello has ended (Succeeded); there is nothing to cancel", id="ended"
        ),
        pytest.param(a_job(a_stage()) | {"spec": {"suspend": True}}, "hello is suspended already", id="suspended"),
    ],
)
def test_cancel_changes_nothing_that_stands_still(api: SmallApi, jobs: Jobs, job: dict[str, Any], said: str) -> None:
    serve(api, job)
    assert control.cancel(jobs, "hello") == said
    assert patched(api) == []


def test_resume_clears_the_suspension(api: SmallApi, jobs: Jobs) -> None:
    job = a_job(a_stage(phase="Suspended"), phase="Suspended")
    job["spec"]["suspend"] = True
    serve(api, job)
    assert control.resume(jobs, "hello") == "hello goes on from its newest checkpoint"
    assert patched(api) == [{"spec": {"suspend": None}}]


def test_resume_of_a_failed_job_runs_its_failed_stage_again(api: SmallApi, jobs: Jobs) -> None:
    serve(api, a_job(a_stage("sft", phase="Succeeded"), a_stage("ppo", "PPO", phase="Failed"), phase="Failed"))
    assert control.resume(jobs, "hello") == "hello runs again from its stage ppo"
    [body] = patched(api)
    assert body["spec"]["rerun"]["fromStage"] == "ppo"  # type: ignore[index]
    assert len(body["spec"]["rerun"]["token"]) == 12  # type: ignore[index]


def test_a_failed_prepare_is_repeated_through_the_first_stage(api: SmallApi, jobs: Jobs) -> None:
    serve(api, a_job(a_stage("prepare", "Prepare", phase="Failed"), a_stage("sft", phase="Skipped"), phase="Failed"))
    assert control.resume(jobs, "hello") == "hello runs again from its stage sft"


def test_resume_leaves_a_running_job_alone(api: SmallApi, jobs: Jobs) -> None:
    serve(api, a_job(a_stage()))
    assert control.resume(jobs, "hello") == "hello is not suspended (Running); there is nothing to resume"
    assert patched(api) == []


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    return a_job_file(tmp_path / "hello.json", stages={"sft": SFT})


def test_submit_creates_strictly(api: SmallApi, jobs: Jobs, job_file: Path) -> None:
    api.on("POST", JOBS, {"metadata": {"name": "hello"}}, 201)
    control.submit(jobs, job_file, is_namespace_given=False)
    [request] = api.sent("POST")
    assert request.query == {"fieldValidation": "Strict"}
    assert request.body["spec"]["stages"][0]["name"] == "sft"


def test_what_the_contract_refuses_is_never_sent(api: SmallApi, jobs: Jobs, tmp_path: Path) -> None:
    file = a_job_file(tmp_path / "hello.json", stages={"sft": SFT | {"epochs": 0, "maxSteps": -1}})
    with pytest.raises(CommandError) as caught:
        control.submit(jobs, file, is_namespace_given=False)
    assert caught.value.exit_code == 64
    assert {line.split(":")[0] for line in caught.value.lines} >= {"spec.stages[0].sft.epochs", "spec.stages[0].sft.maxSteps"}
    assert api.requests == []


def test_the_server_has_the_last_word(api: SmallApi, jobs: Jobs, job_file: Path) -> None:
    causes = [{"field": "spec.stages[0]", "message": "Invalid value: a rule of tomorrow"}]
    api.on("POST", JOBS, status(422, "Invalid", "…", causes=causes), 422)
    with pytest.raises(CommandError, match=r"spec\.stages\[0\]: a rule of tomorrow"):
        control.submit(jobs, job_file, is_namespace_given=False)


def test_the_namespace_of_the_file_counts(api: SmallApi, jobs: Jobs, job_file: Path) -> None:
    job_file.write_text(job_file.read_text().replace('"name": "hello"', '"name": "hello", "namespace": "team-b"'))
    path = JOBS.replace("team-a", "team-b")
    api.on("POST", path, {"metadata": {"name": "hello"}}, 201)
    control.submit(jobs, job_file, is_namespace_given=False)
    assert jobs.namespace == "team-b"


def test_two_namespaces_are_one_too_many(api: SmallApi, jobs: Jobs, job_file: Path) -> None:
    job_file.write_text(job_file.read_text().replace('"name": "hello"', '"name": "hello", "namespace": "team-b"'))
    with pytest.raises(CommandError, match=r"metadata\.namespace: 'team-b' is not the namespace of -n \(team-a\)"):
        control.submit(jobs, job_file, is_namespace_given=True)
    assert api.requests == []


def test_lists_are_read_page_by_page(api: SmallApi, jobs: Jobs) -> None:
    pages = ({"items": [{"n": 1}], "metadata": {"continue": "more"}}, {"items": [{"n": 2}], "metadata": {}})
    api.on_each("GET", JOBS, *((200, page) for page in pages))
    assert jobs.every() == [{"n": 1}, {"n": 2}]
    assert [request.query.get("continue") for request in api.requests] == [None, "more"]
