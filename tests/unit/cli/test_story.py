"""What `rlhf describe` answers: what happened, to whom, what to do."""

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from rlhf_cli.job_tables import print_story
from rlhf_cli.story import event_lines, to_whom, what_happened, what_to_do
from tests.support.statuses import a_job, a_stage

NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
OOM = {
    "attempt": 3,
    "jobName": "hello-ppo-r3",
    "outcome": "HostOutOfMemory",
    "budget": "Attempt",
    "exitCode": 137,
    "pod": "hello-ppo-r3-1-x7k2p",
    "node": "gpu-17",
    "startTime": "2026-01-01T11:00:00Z",
    "endTime": "2026-01-01T11:50:00Z",
    "message": "rank 9 was killed at step 120",
}


def command(verb: str, name: str, *rest: str) -> str:
    return " ".join(["rlhf", verb, name, *rest])


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-01-01T11:59:00Z"}


def failed_job() -> dict[str, Any]:
    ppo = a_stage(
        "ppo", "PPO", phase="Failed", reason="MaxAttemptsExceeded", message="3 of 3 attempts", attempt=3, countedFailures=3, attempts=[OOM]
    )
    conditions = [condition("Accepted", "True", "Valid"), condition("Failed", "True", "MaxAttemptsExceeded", "stage ppo")]
    return a_job(a_stage(phase="Succeeded"), ppo, phase="Failed", reason="MaxAttemptsExceeded", conditions=conditions, observedGeneration=1)


def test_a_failed_stage_is_named_with_pod_node_and_code() -> None:
    job = failed_job()
    assert what_happened(job, NOON) == ["ppo: MaxAttemptsExceeded: 3 of 3 attempts"]
    assert to_whom(job, NOON) == [
        "ppo/r3: HostOutOfMemory, exit 137, pod hello-ppo-r3-1-x7k2p on node gpu-17, 10m00s ago",
        "  rank 9 was killed at step 120",
        "  counted failures 3, disruptions 0; budget used by this one: Attempt",
    ]


def test_the_advice_is_for_the_budget_and_for_the_cause() -> None:
    assert what_to_do(failed_job(), NOON, command) == [
        "It failed as often as maxAttempts allows. Repair the cause, then rlhf resume hello.",
        "The pod's memory limit was reached: more memory in the profile, or a smaller batch.",
        "Read its log: rlhf logs hello ppo",
    ]


def test_a_refused_job_says_only_that() -> None:
    conditions = [condition("Accepted", "False", "ProfileNotFound", "there is no profile gpu"), condition("Stalled", "True", "Backoff")]
    job = a_job(a_stage(phase="Pending"), conditions=conditions, observedGeneration=1)
    assert what_happened(job, NOON) == ["job: ProfileNotFound: there is no profile gpu"]
    assert what_to_do(job, NOON, command) == ["Name an existing profile in spec.profile (kubectl get rlhfprofile), or ask for one."]


@pytest.mark.parametrize(
    ("conditions", "happened"),
    [
        pytest.param(
            [condition("Stalled", "True", "Unschedulable", "3 of 4 pods placed")], "job: Unschedulable: 3 of 4 pods placed", id="stalled"
        ),
        pytest.param([condition("Suspended", "True", "User")], "job: User", id="suspended"),
        pytest.param([condition("StorageReady", "False", "Pending", "no class")], "job: Pending: no class", id="storage"),
        pytest.param(
            [condition("Stalled", "False", "NotStalled")], "it is Running in sft, 1/4 stages done; nothing holds it up", id="it moves"
        ),
    ],
)
def test_what_happened(conditions: list[dict[str, Any]], happened: str) -> None:
    job = a_job(a_stage(), conditions=conditions, currentStage="sft", stagesSummary="1/4", observedGeneration=1)
    assert what_happened(job, NOON) == [happened]


def test_a_job_that_moves_needs_nothing() -> None:
    job = a_job(a_stage(), observedGeneration=1)
    assert what_to_do(job, NOON, command) == ["Nothing. Watch it: rlhf logs hello -f"]
    assert to_whom(job, NOON) == []


def test_a_complete_job_says_where_its_artifact_is() -> None:
    artifact = {"stage": "publish", "uri": "pvc://models/hello", "digest": "sha256:0"}
    job = a_job(a_stage(phase="Succeeded"), phase="Succeeded", artifacts=[artifact], observedGeneration=1)
    assert what_to_do(job, NOON, command) == ["Nothing: it is complete. Published: pvc://models/hello"]


def test_a_job_that_nobody_looks_at_is_the_platform_teams() -> None:
    job = a_job(a_stage())
    del job["status"]
    assert what_happened(job, NOON) == ["no operator has looked at this job"]
    assert "whether the operator runs" in what_to_do(job, NOON, command)[0]


def test_a_new_job_has_time_to_be_seen() -> None:
    job = a_job(a_stage())
    del job["status"]
    just_now = datetime(2026, 1, 1, 10, 0, 5, tzinfo=UTC)
    assert what_happened(job, just_now) == ["it is Pending, 0 stages done; nothing holds it up"]


def test_a_stage_that_recovered_is_not_blamed() -> None:
    stage = a_stage(phase="Succeeded", attempts=[{**OOM, "attempt": 1}, {"attempt": 2, "jobName": "x", "outcome": "Succeeded"}])
    assert to_whom(a_job(stage), NOON) == []


def test_events_are_counted_and_cut_to_the_newest() -> None:
    events = [
        {
            "metadata": {},
            "type": "Normal",
            "reason": f"R{number}",
            "message": "m",
            "lastTimestamp": f"2026-01-01T11:{number:02}:00Z",
            "count": 1,
        }
        for number in range(20)
    ]
    events.append(
        {"metadata": {}, "type": "Warning", "reason": "AttemptFailed", "note": "exit 1", "series": {"count": 4}, "eventTime": None}
    )
    lines = event_lines(events, NOON)
    assert len(lines) == 12
    assert lines[0].split() == ["51m00s", "ago", "Normal", "R9", "m"]
    assert lines[-1].split() == ["Warning", "AttemptFailed", "(x4)", "exit", "1"]


def test_the_whole_page_begins_with_the_answers() -> None:
    text = io.StringIO()
    print_story(Console(file=text, width=140), failed_job(), [], NOON, command)
    lines = text.getvalue().splitlines()
    assert [line for line in lines if line in ("What happened", "To whom", "What to do", "Conditions", "Events")] == [
        *("What happened", "To whom", "What to do", "Conditions")
    ]
    assert "  Failed         True    MaxAttemptsExceeded  1m00s ago    stage ppo" in lines
