"""Every problem at once, in words that a user can act on; and no document whatever that makes validation fail itself."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_api.outcome import ExitCode
from rlhf_api.validate import (
    UNSET,
    InvalidJob,
    InvalidProfile,
    Problem,
    exit_code_of,
    find_problems,
    find_profile_problems,
    parse_job,
    parse_profile,
)
from tests.support.manifests import REMOVE, chat_7b, h100_profile, hello_rlhf
from tests.support.rules import MODEL, NF4, PPO, PUBLISH, RM, ROWS, SFT, Changes


def test_all_problems_come_at_once() -> None:
    broken: Changes = {
        "spec.strategy": "zero3",
        f"{SFT}.sft.epochs": "two",
        f"{RM}.topology": {"gpusPerNode": 8, "processesPerNode": 2},
        f"{PPO}.ppo.kl": {"controller": "adaptive"},
        f"{PPO}.ppo.minibatchSize": 3,
        f"{NF4}.quantize.model": {"stage": "publish"},
        f"{PUBLISH}.publish.destination.uri": "file:///x",
    }
    paths = {problem.path for problem in find_problems(chat_7b(broken))}
    assert paths == {
        "spec.strategy",
        f"{SFT}.sft.epochs",
        f"{RM}.topology.processesPerNode",
        f"{PPO}.ppo.kl.target",
        f"{PPO}.ppo.minibatchSize",
        f"{NF4}.quantize.model.stage",
        f"{PUBLISH}.publish.destination.uri",
    }


def test_a_list_whose_items_are_all_broken_is_not_too_short() -> None:
    # pydantic drops the broken items, counts what is left and says that the list is empty: it is not, and its rules still hold.
    broken: Changes = {
        f"{SFT}.sft.epochs": 0,
        f"{RM}.rewardModel.epochs": 0,
        f"{PPO}.ppo.steps": 0,
        f"{NF4}.quantize.maxEvalRows": 0,
        f"{PUBLISH}.publish.sign": "yes",
        f"{PPO}.ppo.minibatchSize": 3,
    }
    assert [problem.path for problem in find_problems(chat_7b(broken))] == list(broken)


def test_a_broken_field_raises_no_second_problem_by_its_default() -> None:
    # minibatchSize 128 divides the default of rolloutBatchSize, but nobody knows what "lots" would have been.
    problems = find_problems(chat_7b({f"{PPO}.ppo.rolloutBatchSize": "lots", f"{PPO}.ppo.minibatchSize": 100}))
    assert [problem.path for problem in problems] == [f"{PPO}.ppo.rolloutBatchSize"]


def test_a_problem_shows_the_default_that_is_to_blame() -> None:
    (problem,) = find_problems(chat_7b({f"{PPO}.ppo.steps": 5}))
    assert (problem.path, problem.value) == (f"{PPO}.ppo.criticWarmupSteps", 20)


def test_a_long_value_is_cut() -> None:
    assert len(str(Problem("spec.x", "a" * 5000, "is long"))) < 200


@pytest.mark.parametrize("document", [None, 3, "text", [], [{"kind": "RLHFJob"}]])
def test_a_document_must_be_a_mapping(document: object) -> None:
    (problem,) = find_problems(document)
    assert problem.path == ""
    assert "must be a mapping" in problem.rule


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({}, ExitCode.SUCCEEDED, id="nothing is wrong"),
        pytest.param({f"{SFT}.sft.epochs": 0}, ExitCode.CONFIG, id="a value is wrong"),
        pytest.param({"spec.model.lora": {}, "spec.strategy": "gemini"}, ExitCode.UNSUPPORTED, id="only a combination is"),
        pytest.param({"spec.model.lora": {}, "spec.strategy": "gemini", f"{SFT}.sft.epochs": 0}, ExitCode.CONFIG, id="both are"),
    ],
)
def test_exit_code(changes: Changes, code: ExitCode) -> None:
    assert exit_code_of(find_problems(chat_7b(changes))) == code


def test_parse_gives_the_job_or_all_problems() -> None:
    assert parse_job(hello_rlhf()).spec.stages[2].name == "ppo"
    with pytest.raises(InvalidJob, match=r"spec\.seed: -1 must be an integer") as caught:
        parse_job(hello_rlhf({"spec.seed": -1, "spec.queueName": ""}))
    assert len(caught.value.problems) == 2
    assert caught.value.exit_code is ExitCode.CONFIG


def test_parse_gives_the_profile_or_all_problems() -> None:
    assert parse_profile(h100_profile()).spec.limits.max_gpus == 8
    with pytest.raises(InvalidProfile, match=r"spec\.image"):
        parse_profile(h100_profile({"spec.image": REMOVE}))


def test_unset_is_shown_as_such() -> None:
    assert repr(UNSET) == "(unset)"


# Any document: real field names, so that the inner parts are reached, and any JSON below them.
_NAMES = st.sampled_from(
    [
        "spec",
        "metadata",
        "status",
        "name",
        "model",
        "source",
        "uri",
        "lora",
        "topology",
        "nodes",
        "gpusPerNode",
        "stages",
        "type",
        "sft",
        "dataset",
        "ppo",
        "prompts",
        "kl",
        "target",
        "publish",
        "destination",
        "rewardModel",
        "quantize",
        "storage",
        "size",
        "rerun",
        "fromStage",
        "after",
        "env",
        "x",
    ]
)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["SFT", "PPO", "hf://a", "sft"])
_ANY = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES | st.text(max_size=4), inner, max_size=6), max_leaves=30
)


@given(_ANY)
def test_no_document_makes_validation_fail(document: Any) -> None:
    find_problems(document)
    find_profile_problems(document)


@given(
    st.sampled_from([SFT, RM, PPO, NF4, PUBLISH, MODEL, ROWS, "spec.topology", "spec.storage", f"{PPO}.ppo", f"{RM}.rewardModel.dataset"]),
    _ANY,
)
def test_no_part_of_a_job_makes_validation_fail(path: str, value: Any) -> None:
    for problem in find_problems(chat_7b({path: value})):
        assert str(problem)


_CHANGES = st.sampled_from(
    [
        {},
        {"spec.model.lora": {}},
        {"spec.topology": {"gpusPerNode": 0}},
        {f"{PPO}.ppo.kl": {}},
        {f"{PPO}.ppo.steps": REMOVE},
        {f"{NF4}.quantize": {"method": "int8"}},
        {f"{ROWS}.format": "prompts"},
        {f"{PUBLISH}.publish.model": REMOVE},
    ]
)


@given(_CHANGES, _CHANGES)
def test_a_valid_document_parses_and_comes_back_unchanged(one: Changes, other: Changes) -> None:
    wire = chat_7b(one | other)
    if not find_problems(wire):
        complete = parse_job(wire).to_wire()
        assert parse_job(json.loads(json.dumps(complete))).to_wire() == complete
