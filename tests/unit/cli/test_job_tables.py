"""`rlhf get`."""

import io
from datetime import UTC, datetime

from rich.console import Console

from rlhf_cli.job_tables import print_details, print_list
from tests.support.statuses import a_job, a_stage

NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def test_the_columns_are_those_of_kubectl() -> None:
    text = io.StringIO()
    jobs = [
        a_job(a_stage(), currentStage="sft", stagesSummary="1/4"),
        a_job(name="other", phase="Failed", reason="DataInvalid", stagesSummary="0/2"),
    ]
    print_list(Console(file=text, width=120), jobs, NOON)
    assert [line.split() for line in text.getvalue().splitlines()] == [
        ["NAME", "PHASE", "STAGE", "DONE", "REASON", "AGE"],
        ["hello", "Running", "sft", "1/4", "2h00m"],
        ["other", "Failed", "0/2", "DataInvalid", "2h00m"],
    ]


def test_without_jobs_it_says_how_to_start_one() -> None:
    text = io.StringIO()
    print_list(Console(file=text, width=120), [], NOON)
    assert text.getvalue() == "no jobs below .rlhf; start one: rlhf run JOB_FILE\n"


def test_details_have_every_attempt() -> None:
    attempts = [
        {
            "attempt": 1,
            "outcome": "HostOutOfMemory",
            "budget": "Attempt",
            "exitCode": 137,
            "startTime": "2026-01-01T10:00:00Z",
            "endTime": "2026-01-01T10:05:00Z",
            "message": "[rank0] killed",
        },
        {"attempt": 2, "startTime": "2026-01-01T11:00:00Z", "resumedFrom": {"path": "stages/sft/r1/checkpoints/40", "step": 40}},
    ]
    text = io.StringIO()
    job = a_job(a_stage(attempt=2, attempts=attempts, progress={"step": 41, "percent": 41}), stagesSummary="1/4", reason="")
    print_details(Console(file=text, width=160), job, NOON)
    first, second, said = [line.split() for line in text.getvalue().splitlines() if line.startswith("sft/r")]
    assert first == ["sft/r1", "HostOutOfMemory", "137", "Attempt", "5m00s", "–"]
    assert said == ["sft/r1:", "[rank0]", "killed"]
    assert second == ["sft/r2", "–", "–", "–", "1h00m", "stages/sft/r1/checkpoints/40"]
    assert text.getvalue().startswith("hello  Running  1/4\n")


def test_details_say_why_a_job_waits_and_what_it_published() -> None:
    refused = {"type": "Accepted", "status": "False", "reason": "ProfileNotFound", "message": 'no ClusterRLHFProfile "x"'}
    artifact = {"stage": "publish", "uri": "pvc://models/a", "digest": "sha256:1", "sizeBytes": 10}
    text = io.StringIO()
    print_details(Console(file=text, width=120), a_job(a_stage(), conditions=[refused], artifacts=[artifact]), NOON)
    assert 'ProfileNotFound: no ClusterRLHFProfile "x"' in text.getvalue()
    assert "artifact pvc://models/a  10 B  sha256:1" in text.getvalue()


def test_a_job_without_status_is_pending() -> None:
    job = a_job(a_stage())
    del job["status"], job["metadata"]["creationTimestamp"]
    text = io.StringIO()
    print_list(Console(file=text, width=120), [job], NOON)
    assert text.getvalue().splitlines()[1].split() == ["hello", "Pending", "–"]
