"""Which stage needs which: as written, and by default."""

import pytest

from rlhf_api.graph import (
    ModelRef,
    OutsideModel,
    StageOutput,
    datasets_of,
    dependants,
    dependencies,
    inputs_of,
    list_earlier,
    order,
    origin_of,
)
from rlhf_api.job import RLHFJobSpec
from tests.support.manifests import REMOVE, chat_7b, hello_rlhf

EXTERNAL = {"source": {"uri": "s3://models/other"}}


def chat(changes: dict[str, object] | None = None) -> RLHFJobSpec:
    return RLHFJobSpec.from_wire(chat_7b(changes)["spec"])


def shown(refs: dict[str, ModelRef]) -> dict[str, str]:
    return {role: f"stage {ref.stage}" if isinstance(ref, StageOutput) else ref.key for role, ref in refs.items()}


@pytest.mark.parametrize(
    ("changes", "stage", "inputs"),
    [
        pytest.param({}, "sft", {"init": "model"}, id="SFT starts from the base model"),
        pytest.param({}, "rm", {"init": "stage sft"}, id="a reward model from the nearest SFT"),
        pytest.param(
            {}, "ppo", {"policy": "stage sft", "reward": "stage rm", "critic": "stage rm"}, id="PPO from SFT and reward model, critic too"
        ),
        pytest.param({}, "nf4", {"model": "stage ppo"}, id="Quantize takes the nearest SFT or PPO"),
        pytest.param({"spec.stages[4].publish.model": REMOVE}, "publish", {"model": "stage nf4"}, id="Publish the nearest of three types"),
        pytest.param(
            {"spec.stages[2].ppo.policy": EXTERNAL},
            "ppo",
            {"policy": "ppo.policy", "reward": "stage rm", "critic": "stage rm"},
            id="a model from outside has the key of its stage and role",
        ),
        pytest.param(
            {"spec.stages[2].ppo.reward": EXTERNAL},
            "ppo",
            {"policy": "stage sft", "reward": "ppo.reward", "critic": "ppo.reward"},
            id="the critic follows the reward model, fetched once",
        ),
        pytest.param(
            {"spec.stages[2].ppo.critic": {"stage": "rm"}},
            "ppo",
            {"policy": "stage sft", "reward": "stage rm", "critic": "stage rm"},
            id="a critic as written",
        ),
        pytest.param(
            {"spec.stages[0]": {"name": "nf", "type": "Quantize", "quantize": {}}}, "nf", {"model": "model"}, id="nothing earlier"
        ),
    ],
)
def test_inputs(changes: dict[str, object], stage: str, inputs: dict[str, str]) -> None:
    spec = chat(changes)
    assert shown(inputs_of(spec, spec.stage(stage))) == inputs


def test_no_reward_model_at_all() -> None:
    spec = chat({"spec.stages[1]": {"name": "rm", "type": "SFT", "sft": {"dataset": {"uri": "s3://a/b"}}}})
    with pytest.raises(ValueError, match="stage ppo has no earlier stage for its input reward"):
        inputs_of(spec, spec.stage("ppo"))


@pytest.mark.parametrize(
    ("changes", "stage", "keys"),
    [
        pytest.param({}, "sft", {"dataset": "sft.dataset"}, id="SFT"),
        pytest.param({}, "ppo", {"prompts": "ppo.prompts", "pretrainDataset": "ppo.pretrainDataset"}, id="PPO with pretraining rows"),
        pytest.param(
            {"spec.stages[2].ppo.pretrainDataset": REMOVE, "spec.stages[2].ppo.ptxCoefficient": 0},
            "ppo",
            {"prompts": "ppo.prompts"},
            id="PPO without",
        ),
        pytest.param({}, "nf4", {"evalDataset": "sft.dataset"}, id="the gate borrows rows of the nearest SFT"),
        pytest.param(
            {"spec.stages[3].quantize.evalDataset": {"uri": "s3://a/b"}}, "nf4", {"evalDataset": "nf4.evalDataset"}, id="or has its own"
        ),
        pytest.param({"spec.stages[0].sft.evalFraction": 0}, "nf4", {}, id="an SFT that holds nothing out lends nothing"),
        pytest.param({}, "publish", {}, id="Publish reads no rows"),
    ],
)
def test_datasets(changes: dict[str, object], stage: str, keys: dict[str, str]) -> None:
    spec = chat(changes)
    assert {role: ref.key for role, ref in datasets_of(spec, spec.stage(stage)).items()} == keys


def test_dependencies_of_the_documented_job() -> None:
    assert dependencies(chat()) == {
        "prepare": set(),
        "sft": {"prepare"},
        "rm": {"prepare", "sft"},
        "ppo": {"prepare", "sft", "rm"},
        "nf4": {"prepare", "ppo", "sft"},
        "publish": {"prepare", "nf4"},
    }


def test_after_is_one_more_dependency() -> None:
    assert dependencies(chat({"spec.stages[1].rewardModel.init": EXTERNAL, "spec.stages[1].after": ["sft"]}))["rm"] == {"prepare", "sft"}
    assert dependencies(chat({"spec.stages[1].rewardModel.init": EXTERNAL}))["rm"] == {"prepare"}


def test_every_stage_stands_after_what_it_needs() -> None:
    spec = chat()
    names = order(spec)
    assert names[0] == "prepare"
    for name, needed in dependencies(spec).items():
        assert all(names.index(other) < names.index(name) for other in needed)


@pytest.mark.parametrize(
    ("stage", "found"),
    [
        pytest.param("prepare", {"sft", "rm", "ppo", "nf4", "publish"}, id="all need Prepare"),
        pytest.param("rm", {"ppo", "nf4", "publish"}, id="through others"),
        pytest.param("publish", set(), id="the last"),
    ],
)
def test_dependants(stage: str, found: set[str]) -> None:
    assert dependants(chat(), stage) == found


def test_earlier_stages_come_nearest_first() -> None:
    spec = chat()
    assert [stage.name for stage in list_earlier(spec, spec.stage("ppo"))] == ["rm", "sft"]


def test_the_origin_gives_the_tokenizer() -> None:
    spec = chat()
    assert origin_of(spec, StageOutput("ppo")) == OutsideModel("model", spec.model.source)
    spec = chat({"spec.stages[0].sft.init": EXTERNAL})
    assert origin_of(spec, StageOutput("nf4")).key == "sft.init"


def test_the_smallest_job() -> None:
    assert order(RLHFJobSpec.from_wire(hello_rlhf()["spec"])) == ("prepare", "sft", "rm", "ppo")
