"""The blocks of the stages: documented defaults, values that depend on LoRA, and the block that belongs to a type."""

import pytest

from rlhf_api.inputs import Dataset, Source
from rlhf_api.stages import (
    PPO,
    SFT,
    Block,
    Destination,
    Publish,
    Quantize,
    RewardModel,
    Stage,
    StageType,
    block_field,
    resolved_block,
    resolved_critic_learning_rate,
    resolved_learning_rate,
)

ROWS = Dataset(uri="builtin://datasets/tiny-chat-sft")
OPTIMIZATION = {
    "schedule": "cosine",
    "minLearningRateFraction": 0.1,
    "warmupFraction": 0.03,
    "weightDecay": 0.0,
    "gradientClip": 1.0,
    "gradientCheckpointing": True,
    "maxDropFraction": 0.05,
}
SUPERVISED = {**OPTIMIZATION, "epochs": 1, "maxLength": 2048, "overlong": "drop"}


@pytest.mark.parametrize(
    ("block", "defaults"),
    [
        pytest.param(
            SFT(dataset=ROWS),
            {**SUPERVISED, "globalBatchSize": 128, "evalFraction": 0.01, "packing": True, "lossOn": "assistant"},
            id="SFT",
        ),
        pytest.param(
            RewardModel(dataset=ROWS),
            {
                **SUPERVISED,
                "globalBatchSize": 64,
                "evalFraction": 0.05,
                "centerCoefficient": 0.01,
                "normalize": True,
                "minAccuracy": 0.55,
            },
            id="RewardModel",
        ),
        pytest.param(
            PPO(prompts=ROWS),
            {
                **OPTIMIZATION,
                "ptxCoefficient": 0.0,
                "rolloutBatchSize": 512,
                "minibatchSize": 128,
                "epochsPerRollout": 1,
                "maxPromptLength": 1024,
                "maxNewTokens": 512,
                "temperature": 1.0,
                "topK": 0,
                "topP": 1.0,
                "importanceCorrection": False,
                "criticWarmupSteps": 20,
                "kl": {"coefficient": 0.02, "estimator": "k1", "controller": "fixed", "horizon": 10000},
                "maxKl": 50.0,
                "missingEosPenalty": 1.0,
                "gamma": 1.0,
                "lambda": 0.95,
                "clip": 0.2,
                "valueClip": 0.2,
                "normalizeReward": True,
                "rewardClip": 5.0,
                "lossMean": "token",
                "emaDecay": 0.0,
            },
            id="PPO",
        ),
        pytest.param(Quantize(), {"method": "nf4", "maxEvalRows": 512, "maxPerplexityIncrease": 0.1}, id="Quantize"),
        pytest.param(Publish(destination=Destination(uri="pvc://models/a")), {"sign": False}, id="Publish"),
    ],
)
def test_defaults(block: Block, defaults: dict[str, object]) -> None:
    wire = block.to_wire()
    for given in ("dataset", "prompts", "destination"):
        wire.pop(given, None)
    assert wire == defaults


def test_defaults_of_a_dataset() -> None:
    assert ROWS.to_wire() == {"uri": "builtin://datasets/tiny-chat-sft", "format": "auto", "split": "train"}


@pytest.mark.parametrize(
    ("block", "has_lora", "rate"),
    [
        pytest.param(SFT(dataset=ROWS), False, 2e-5, id="SFT"),
        pytest.param(SFT(dataset=ROWS), True, 2e-4, id="SFT with LoRA"),
        pytest.param(RewardModel(dataset=ROWS), False, 9e-6, id="reward model"),
        pytest.param(RewardModel(dataset=ROWS), True, 9e-5, id="reward model with LoRA"),
        pytest.param(PPO(prompts=ROWS), False, 1e-6, id="PPO"),
        pytest.param(PPO(prompts=ROWS), True, 1e-5, id="PPO with LoRA"),
        pytest.param(SFT(dataset=ROWS, learning_rate=1e-3), True, 1e-3, id="used exactly as written"),
    ],
)
def test_learning_rate(block: SFT | RewardModel | PPO, has_lora: bool, rate: float) -> None:
    assert resolved_learning_rate(block, has_lora) == rate


def test_learning_rate_of_the_critic() -> None:
    assert resolved_critic_learning_rate(PPO(prompts=ROWS), has_lora=False) == 9e-6
    assert resolved_critic_learning_rate(PPO(prompts=ROWS), has_lora=True) == 9e-5
    assert resolved_critic_learning_rate(PPO(prompts=ROWS, critic_learning_rate=0.5), has_lora=True) == 0.5


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        pytest.param(SFT(dataset=ROWS), {"learning_rate": 2e-4}, id="SFT"),
        pytest.param(PPO(prompts=ROWS), {"learning_rate": 1e-5, "critic_learning_rate": 9e-5, "episodes": 1, "steps": None}, id="PPO"),
        pytest.param(PPO(prompts=ROWS, steps=30), {"episodes": None, "steps": 30}, id="PPO by steps"),
        pytest.param(PPO(prompts=ROWS, episodes=2), {"episodes": 2}, id="PPO by episodes"),
        pytest.param(Quantize(), {"double_quant": True}, id="nf4 quantizes its scales too"),
        pytest.param(Quantize(double_quant=False), {"double_quant": False}, id="unless told otherwise"),
        pytest.param(Quantize(method="int8"), {"double_quant": None}, id="int8 has no such scales"),
        pytest.param(Publish(destination=Destination(uri="pvc://a/b")), {"sign": False}, id="Publish"),
    ],
)
def test_nothing_is_left_to_resolve(block: Block, expected: dict[str, object]) -> None:
    resolved = resolved_block(block, has_lora=True)
    assert {name: getattr(resolved, name) for name in expected} == expected
    assert type(resolved).from_wire(resolved.to_wire()) == resolved


def test_the_type_of_a_stage_is_an_enum() -> None:
    stage = Stage.from_wire({"name": "rm", "type": "RewardModel", "rewardModel": {"dataset": {"uri": "s3://a/b"}}})
    assert stage.type is StageType.REWARD_MODEL
    assert stage.type.is_training
    assert not StageType.QUANTIZE.is_training
    assert isinstance(stage.block, RewardModel)


def test_prepare_is_no_type_that_a_user_can_write() -> None:
    with pytest.raises(ValueError, match="type"):
        Stage.from_wire({"name": "a", "type": "Prepare"})


def test_a_stage_without_its_block_says_so() -> None:
    stage = Stage(name="q", type="Quantize")
    assert stage.own_block is None
    with pytest.raises(ValueError, match="stage q of type Quantize has no block quantize"):
        _ = stage.block


def test_block_names() -> None:
    assert [block_field(stage_type) for stage_type in list(StageType)[1:]] == ["sft", "rewardModel", "ppo", "quantize", "publish"]


@pytest.mark.parametrize(("uri", "scheme"), [("pvc://a/b", "pvc"), ("nothing", ""), ("https://h/f", "https")])
def test_scheme(uri: str, scheme: str) -> None:
    assert Source(uri=uri).scheme == Destination(uri=uri).scheme == scheme
