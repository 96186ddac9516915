"""What of a job may change, and when."""

from typing import Any

import pytest

from rlhf_api.job import RLHFJob
from rlhf_api.rules.changes import IMMUTABLE_FIELDS
from rlhf_api.validate import find_change_problems
from tests.support.manifests import chat_7b, hello_rlhf
from tests.support.rule_cases.changes import ANY_TIME, AT_REST, NEVER, OTHER_STAGES, PHASES, SET, SUCCEEDED, TOKEN
from tests.support.rules import SFT


def refusals(
    changes: dict[str, object], phase: str | None = None, succeeded: tuple[str, ...] = (), old: dict[str, object] | None = None
) -> Any:
    before = chat_7b(old)
    after = chat_7b((old or {}) | changes)
    if phase is not None:
        stages = [{"name": name, "type": "SFT", "phase": "Succeeded"} for name in succeeded]
        before["status"] = {"phase": phase, "stages": [*stages, {"name": "publish", "type": "Publish", "phase": "Pending"}]}
    problems = find_change_problems(RLHFJob.from_wire(before), RLHFJob.from_wire(after))
    return [(problem.path, problem.rule) for problem in problems]


@pytest.mark.parametrize(("field", "value"), NEVER.items())
@pytest.mark.parametrize("phase", [None, "Suspended", "Failed"])
def test_some_fields_never_change(field: str, value: object, phase: str | None) -> None:
    assert field in IMMUTABLE_FIELDS
    assert refusals({f"spec.{field}": value}, phase) == [(f"spec.{field}", f"spec.{field} is immutable: create a new job")]


@pytest.mark.parametrize("changes", ANY_TIME.values(), ids=ANY_TIME)
@pytest.mark.parametrize("phase", PHASES)
def test_some_fields_change_at_any_time(changes: dict[str, object], phase: str) -> None:
    assert refusals(changes, phase) == []


@pytest.mark.parametrize(("changes", "path", "message", "allowed"), AT_REST.values(), ids=AT_REST)
@pytest.mark.parametrize("phase", PHASES)
def test_some_fields_change_at_rest(changes: dict[str, object], path: str, message: str, allowed: frozenset[str], phase: str) -> None:
    assert refusals(changes, phase) == ([] if phase in allowed else [(path, message)])


def test_a_job_without_status_is_pending() -> None:
    assert refusals({"spec.strategy": "zero2", "spec.rerun": TOKEN}) == []


@pytest.mark.parametrize("changes", OTHER_STAGES.values(), ids=OTHER_STAGES)
def test_stages_stay_what_they_are(changes: dict[str, object]) -> None:
    assert ("spec.stages", SET) in refusals(changes, "Failed")


def test_a_succeeded_stage_changes_only_with_a_new_token() -> None:
    change: dict[str, object] = {f"{SFT}.sft.epochs": 5}
    assert refusals(change, "Failed", succeeded=("sft",)) == [(SFT, SUCCEEDED)]
    assert refusals(change, "Failed", succeeded=("rm",)) == []
    assert refusals(change | {"spec.rerun": TOKEN}, "Failed", succeeded=("sft",)) == []
    assert refusals(change, "Failed", succeeded=("sft",), old={"spec.rerun": TOKEN}) == [(SFT, SUCCEEDED)]
    newer = {"fromStage": "rm", "token": "3"}
    assert refusals(change | {"spec.rerun": newer}, "Failed", succeeded=("sft",), old={"spec.rerun": TOKEN}) == []


def test_the_same_job_changes_nothing() -> None:
    job = RLHFJob.from_wire(hello_rlhf())
    assert find_change_problems(job, job) == []
