"""What of a job may change, and when."""

from typing import Any

import pytest

from rlhf_api.job import RLHFJob
from rlhf_api.rules.changes import CHANGE_RULES, IMMUTABLE_FIELDS
from rlhf_api.validate import find_change_problems
from tests.support.manifests import REMOVE, chat_7b, hello_rlhf
from tests.support.rules import RM, SFT

TOPOLOGY, STAGES, SET, SUCCEEDED, RERUN = (rule.message for rule in CHANGE_RULES)
PHASES = ("Pending", "Queued", "Starting", "Running", "Suspended", "Succeeded", "Failed")
TOKEN = {"fromStage": "rm", "token": "2"}


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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("profile", "a100"),
        ("model", {"source": {"uri": "builtin://models/tiny-llama"}}),
        ("seed", 7),
        ("storage", {"size": "1Gi"}),
        ("managedBy", "kueue.x-k8s.io/multikueue"),
    ],
)
@pytest.mark.parametrize("phase", [None, "Suspended", "Failed"])
def test_some_fields_never_change(field: str, value: object, phase: str | None) -> None:
    assert field in IMMUTABLE_FIELDS
    assert refusals({f"spec.{field}": value}, phase) == [(f"spec.{field}", f"spec.{field} is immutable: create a new job")]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"spec.suspend": True}, id="suspend"),
        pytest.param({"spec.queueName": "other"}, id="queue"),
        pytest.param({"spec.priorityClassName": "high"}, id="priority"),
        pytest.param({"spec.runPolicy.maxAttempts": 9}, id="run policy"),
        pytest.param({"spec.checkpoint.keep": 3}, id="checkpoint"),
        pytest.param({"metadata.labels": {"a": "b"}}, id="labels"),
        pytest.param({"spec.strategy": "auto", "spec.seed": 42}, id="defaults written out"),
    ],
)
@pytest.mark.parametrize("phase", PHASES)
def test_some_fields_change_at_any_time(changes: dict[str, object], phase: str) -> None:
    assert refusals(changes, phase) == []


@pytest.mark.parametrize(
    ("changes", "path", "message", "allowed"),
    [
        pytest.param({"spec.strategy": "zero2"}, "spec.strategy", TOPOLOGY, {"Pending", "Suspended", "Failed"}, id="strategy"),
        pytest.param({"spec.topology.nodes": 4}, "spec.topology", TOPOLOGY, {"Pending", "Suspended", "Failed"}, id="topology"),
        pytest.param({f"{RM}.rewardModel.epochs": 2}, "spec.stages", STAGES, {"Pending", "Suspended", "Failed"}, id="stages"),
        pytest.param({"spec.rerun": TOKEN}, "spec.rerun", RERUN, {"Pending", "Suspended", "Failed", "Succeeded"}, id="rerun"),
    ],
)
@pytest.mark.parametrize("phase", PHASES)
def test_some_fields_change_at_rest(changes: dict[str, object], path: str, message: str, allowed: set[str], phase: str) -> None:
    assert refusals(changes, phase) == ([] if phase in allowed else [(path, message)])


def test_a_job_without_status_is_pending() -> None:
    assert refusals({"spec.strategy": "zero2", "spec.rerun": TOKEN}) == []


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"spec.stages[4]": REMOVE}, id="removed"),
        pytest.param({"spec.stages[5]": {"name": "q8", "type": "Quantize", "quantize": {}}}, id="added"),
        pytest.param({f"{SFT}.name": "first"}, id="renamed"),
        pytest.param({RM: {"name": "rm", "type": "SFT", "sft": {"dataset": {"uri": "s3://a/b"}}}}, id="another type"),
    ],
)
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
