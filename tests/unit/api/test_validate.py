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


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {f"{SFT}.sft.epoch": 3},
            "spec.stages[0].sft.epoch: 3 is not a field: did you mean epochs?",
            id="a misspelt field is named with its neighbour",
        ),
        pytest.param(
            {f"{SFT}.sft.learning_rate": 0.1},
            "spec.stages[0].sft.learning_rate: 0.1 is not a field: did you mean learningRate?",
            id="Python's spelling is not the API's",
        ),
        pytest.param(
            {f"{PPO}.clip": 0.1}, "spec.stages[2].clip: 0.1 is not a field here: it belongs in ppo", id="a field one level too high"
        ),
        pytest.param(
            {f"{PPO}.ppo.coefficient": 0.1},
            "spec.stages[2].ppo.coefficient: 0.1 is not a field here: it belongs in kl",
            id="the name of a field in a block goes before one that is spelt like it",
        ),
        pytest.param(
            {f"{PPO}.ppo.klCoefficient": 0.1},
            "spec.stages[2].ppo.klCoefficient: 0.1 is not a field: did you mean kl.coefficient?",
            id="a block and its field in one word",
        ),
        pytest.param(
            {"spec.model.lora_rank": 4}, "spec.model.lora_rank: 4 is not a field: did you mean lora.rank?", id="the same with an underscore"
        ),
        pytest.param(
            {f"{NF4}.quantize.maxRows": 4},
            "spec.stages[3].quantize.maxRows: 4 is not a field; the fields here are model, evalDataset, method, doubleQuant, maxEvalRows, "
            "maxPerplexityIncrease",
            id="a name that is not near enough to any",
        ),
        pytest.param(
            {"spec.podTemplate": {"hostPID": True}},
            "spec.podTemplate: {'hostPID': True} is not a field; the fields here are profile, model, topology, strategy, seed, storage, "
            "checkpoint, runPolicy, suspend, managedBy, queueName, priorityClassName, rerun, stages",
            id="a field of another world",
        ),
        pytest.param(
            {f"{SFT}.sft.learningRate": "2e-5"},
            "spec.stages[0].sft.learningRate: '2e-5' must be a number, above 0, up to 1, not text: write 2e-5 without quotes",
            id="a number in quotes",
        ),
        pytest.param(
            {f"{SFT}.sft.epochs": "3"},
            "spec.stages[0].sft.epochs: '3' must be an integer, 1 to 100, not text: write 3 without quotes",
            id="an integer in quotes",
        ),
        pytest.param(
            {f"{SFT}.sft.epochs": "2.5"},
            "spec.stages[0].sft.epochs: '2.5' must be an integer, 1 to 100: Passes over the dataset.",
            id="a fraction in quotes would be no integer without them",
        ),
        pytest.param(
            {f"{SFT}.sft.warmupFraction": "NaN"},
            "spec.stages[0].sft.warmupFraction: 'NaN' must be a number, 0 to below 1: Part of all optimizer steps spent warming up.",
            id="NaN in quotes would be text without them",
        ),
        pytest.param(
            {f"{SFT}.sft.warmupFraction": "inf"},
            "spec.stages[0].sft.warmupFraction: 'inf' must be a number, 0 to below 1: Part of all optimizer steps spent warming up.",
            id="an infinity in quotes",
        ),
        pytest.param(
            {f"{SFT}.sft.epochs": 0},
            "spec.stages[0].sft.epochs: 0 must be an integer, 1 to 100: Passes over the dataset.",
            id="a number out of range",
        ),
        pytest.param(
            {f"{SFT}.sft.epochs": 1.5},
            "spec.stages[0].sft.epochs: 1.5 must be an integer, 1 to 100: Passes over the dataset.",
            id="a fraction where steps are counted",
        ),
        pytest.param(
            {f"{SFT}.sft.warmupFraction": float("nan")},
            "spec.stages[0].sft.warmupFraction: nan must be a number, 0 to below 1: Part of all optimizer steps spent warming up.",
            id="not a number",
        ),
        pytest.param(
            {f"{SFT}.sft.packing": "yes"},
            "spec.stages[0].sft.packing: 'yes' must be true or false: Put several rows into one sequence, isolated from each other.",
            id="text where a boolean is meant",
        ),
        pytest.param(
            {"spec.strategy": "zero3"},
            "spec.strategy: 'zero3' must be one of auto, ddp, zero1, zero2, zero2-offload, gemini, gemini-offload, 3d: did you mean zero2?",
            id="an unknown choice",
        ),
        pytest.param(
            {"spec.topology": {}},
            "spec.topology.gpusPerNode: (unset) is required: GPUs and processes of each pod; 0 = CPU only.",
            id="a missing field",
        ),
        pytest.param(
            {"spec.stages": []},
            "spec.stages: [] must be a list, 1 to 10 items: Stages in order; an input may only name an earlier stage.",
            id="a list without items",
        ),
        pytest.param(
            {"spec.checkpoint": [1]},
            "spec.checkpoint: [1] must be a mapping with the fields everySteps, everySeconds, keep",
            id="a list where a mapping is meant",
        ),
        pytest.param(
            {"metadata.name": "Chat"},
            "metadata.name: 'Chat' must be text, at most 36 characters, matching ^[a-z]([-a-z0-9]*[a-z0-9])?$",
            id="a name that no pod could have",
        ),
        pytest.param(
            {"spec.checkpoint": {3: 4}},
            "spec.checkpoint.3: (unset) is not a field; the fields here are everySteps, everySeconds, keep",
            id="a number where a field name is meant",
        ),
        pytest.param({"kind": REMOVE}, "kind: (unset) is required: write kind: RLHFJob", id="no kind"),
        pytest.param(
            {f"{PPO}.after": "sft"},
            "spec.stages[2].after: 'sft' must be a list, at most 9 items: Earlier stages to wait for in addition to those named as inputs.",
            id="text where a list is meant",
        ),
        pytest.param(
            {f"{PPO}.after": [3]},
            "spec.stages[2].after[0]: 3 must be text, at most 15 characters, matching ^[a-z]([-a-z0-9]*[a-z0-9])?$: "
            "Earlier stages to wait for in addition to those named as inputs.",
            id="an item of the wrong type",
        ),
    ],
)
def test_words(changes: Changes, expected: str) -> None:
    assert [str(problem) for problem in find_problems(chat_7b(changes))] == [expected]


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
