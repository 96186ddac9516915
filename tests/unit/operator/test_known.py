"""What pacing knows of jobs: by phase, by stall, and which of them count as running."""

from typing import Any

import pytest

from rlhf_api.status import Condition, JobStatus, StageStatus
from rlhf_operator.core.status import holds_slot
from rlhf_operator.shell.known import Known, read_seen


def a_job(name: str = "chat", **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "uid": name, "generation": 1, "creationTimestamp": "2026-07-28T12:00:00Z"}
    return {"metadata": metadata, "spec": {"profile": "cpu"}, "status": status}


@pytest.mark.parametrize(
    ("status", "is_running"),
    [
        ({}, False),
        ({"phase": "Starting", "stages": [{"attempt": 1}]}, True),
        ({"phase": "Suspended", "stages": [{"attempt": 1}]}, False),
        ({"phase": "Succeeded", "stages": [{"attempt": 1}]}, False),
        ({"phase": "Pending", "stages": [{"attempt": 0}]}, False),
        ({"phase": "Starting", "stages": [{"attempt": 1}], "conditions": [{"type": "Stalled", "reason": "Backoff"}]}, True),
        ({"phase": "Pending", "stages": [{"attempt": 1}], "conditions": [{"type": "QuotaReserved", "reason": "ConcurrencyLimit"}]}, False),
    ],
)
def test_a_job_runs_from_its_first_attempt_to_its_end(status: dict[str, Any], is_running: bool) -> None:
    assert read_seen(a_job(**status)).is_running is is_running
    stages = tuple(StageStatus(name="sft", type="SFT", attempt=stage["attempt"]) for stage in status.get("stages", ()))
    conditions = tuple(Condition(type=found["type"], status="True", reason=found["reason"]) for found in status.get("conditions", ()))
    assert holds_slot(JobStatus(phase=status.get("phase", "Pending"), stages=stages, conditions=conditions)) is is_running


def test_phases_and_stalls_are_counted() -> None:
    known = Known()
    waiting = {"attempt": 1, "reason": "ImagePull", "phase": "Starting"}
    strange = {"attempt": 1, "reason": "made-up", "phase": "Starting"}
    failed = {"attempt": 1, "reason": "AppError", "phase": "Restarting"}
    known.put(("team", "a"), read_seen(a_job("a", phase="Starting", stages=[waiting, strange, failed])))
    known.put(("team", "b"), read_seen(a_job("b", phase="Succeeded", stages=[waiting])))
    assert known.phases() == {"Starting": 1, "Succeeded": 1}
    assert known.stalls() == {"ImagePull": 1, "Other": 1}
    known.drop(("team", "a"))
    assert known.phases() == {"Succeeded": 1}


def test_another_object_of_the_same_name_has_no_past() -> None:
    known = Known()
    assert known.put(("team", "a"), read_seen(a_job("a"))) is None
    assert known.put(("team", "a"), read_seen(a_job("a"))) is not None
    assert known.put(("team", "a"), read_seen(a_job("b"))) is None


def test_jobs_that_wait_for_a_profile_are_found() -> None:
    known = Known()
    known.put(("team", "a"), read_seen(a_job("a")))
    known.put(("team", "b"), read_seen(a_job("b", phase="Running", stages=[{"attempt": 1}])))
    assert known.waiting_for("cpu") == [("team", "a")]
    assert known.waiting_for("gpu") == []
    assert (known.num_running("cpu"), known.num_running("gpu")) == (1, 0)
