"""Rules about single stages: each is obeyed and broken once. The Python and the API server judge the same cases."""

from tests.support.manifests import REMOVE
from tests.support.rules import NF4, PPO, PUBLISH, RM, ROWS, SFT, Cases

CASES: Cases = {
    "the name 'prepare' belongs to the implicit first stage": ({}, {f"{NF4}.name": "prepare"}, f"{NF4}.name"),
    "sft is required for type SFT and allowed for no other type": ({}, {f"{SFT}.sft": REMOVE}, f"{SFT}.sft"),
    "rewardModel is required for type RewardModel and allowed for no other type": (
        {},
        {f"{RM}.rewardModel": REMOVE},
        f"{RM}.rewardModel",
    ),
    "ppo is required for type PPO and allowed for no other type": ({}, {f"{PPO}.ppo": REMOVE}, f"{PPO}.ppo"),
    "quantize is required for type Quantize and allowed for no other type": (
        {f"{NF4}.quantize": {}},
        {f"{SFT}.quantize": {}},
        f"{SFT}.quantize",
    ),
    "publish is required for type Publish and allowed for no other type": (
        {},
        {f"{PUBLISH}.publish": REMOVE},
        f"{PUBLISH}.publish",
    ),
    "a Publish stage runs on one CPU pod: it takes no topology": (
        {},
        {f"{PUBLISH}.topology": {"gpusPerNode": 0}},
        f"{PUBLISH}.topology",
    ),
    "a Quantize stage runs one process on one node: nodes 1, gpusPerNode at most 1, processesPerNode unset or 1": (
        {f"{NF4}.topology": {"gpusPerNode": 1}},
        {f"{NF4}.topology": {"nodes": 2, "gpusPerNode": 1}},
        f"{NF4}.topology.nodes",
    ),
    "strategy is only for training stages": ({f"{RM}.strategy": "zero2"}, {f"{NF4}.strategy": "ddp"}, f"{NF4}.strategy"),
    "sft.dataset.format must be auto, instruction, messages or alpaca": (
        {f"{ROWS}.format": "alpaca"},
        {f"{ROWS}.format": "prompts"},
        f"{ROWS}.format",
    ),
    "rewardModel.dataset.format must be auto or preference": (
        {f"{RM}.rewardModel.dataset.format": "preference"},
        {f"{RM}.rewardModel.dataset.format": "messages"},
        f"{RM}.rewardModel.dataset.format",
    ),
    "minAccuracy needs held-out rows: set evalFraction above 0, or minAccuracy to 0": (
        {f"{RM}.rewardModel.evalFraction": 0, f"{RM}.rewardModel.minAccuracy": 0},
        {f"{RM}.rewardModel.evalFraction": 0},
        f"{RM}.rewardModel.minAccuracy",
    ),
    "kl.target is required with the adaptive controller and not allowed with the fixed one": (
        {f"{PPO}.ppo.kl": {}},
        {f"{PPO}.ppo.kl": {"controller": "adaptive"}},
        f"{PPO}.ppo.kl.target",
    ),
    "kl.horizon must be above rolloutBatchSize / 5, or one rollout could turn the adaptive coefficient to 0 or below": (
        {f"{PPO}.ppo.kl.horizon": 103},
        {f"{PPO}.ppo.kl.horizon": 102, f"{PPO}.ppo.rolloutBatchSize": 510, f"{PPO}.ppo.minibatchSize": 10},
        f"{PPO}.ppo.kl.horizon",
    ),
    "ppo.prompts.format cannot be preference": (
        {f"{PPO}.ppo.prompts.format": "messages"},
        {f"{PPO}.ppo.prompts.format": "preference"},
        f"{PPO}.ppo.prompts.format",
    ),
    "pretrainDataset and ptxCoefficient > 0 belong together: set both or none": (
        {f"{PPO}.ppo.pretrainDataset": REMOVE, f"{PPO}.ppo.ptxCoefficient": REMOVE},
        {f"{PPO}.ppo.ptxCoefficient": 0},
        f"{PPO}.ppo.ptxCoefficient",
    ),
    "ppo.pretrainDataset.format must be auto, instruction, messages or alpaca": (
        {f"{PPO}.ppo.pretrainDataset.format": "auto"},
        {f"{PPO}.ppo.pretrainDataset.format": "preference"},
        f"{PPO}.ppo.pretrainDataset.format",
    ),
    "set only one of episodes and steps": (
        {f"{PPO}.ppo.steps": REMOVE, f"{PPO}.ppo.episodes": 2},
        {f"{PPO}.ppo.episodes": 2},
        f"{PPO}.ppo.episodes",
    ),
    "criticWarmupSteps must be below steps, or the policy never learns": (
        {f"{PPO}.ppo.steps": 21},
        {f"{PPO}.ppo.steps": 20},
        f"{PPO}.ppo.criticWarmupSteps",
    ),
    "minibatchSize must divide rolloutBatchSize": (
        {f"{PPO}.ppo.rolloutBatchSize": 256},
        {f"{PPO}.ppo.rolloutBatchSize": 200},
        f"{PPO}.ppo.minibatchSize",
    ),
    "topK and topP change what is sampled but not the log-probabilities: keep topK 0 and topP 1, or set importanceCorrection": (
        {f"{PPO}.ppo.topP": 0.9, f"{PPO}.ppo.importanceCorrection": True},
        {f"{PPO}.ppo.topP": 0.9},
        f"{PPO}.ppo.importanceCorrection",
    ),
    "doubleQuant is only for method nf4": (
        {f"{NF4}.quantize.doubleQuant": False},
        {f"{NF4}.quantize": {"method": "int8", "doubleQuant": True}},
        f"{NF4}.quantize.doubleQuant",
    ),
    "quantize.evalDataset.format must be auto, instruction, messages or alpaca": (
        {f"{NF4}.quantize.evalDataset": {"uri": "s3://a/b"}},
        {f"{NF4}.quantize.evalDataset": {"uri": "s3://a/b", "format": "prompts"}},
        f"{NF4}.quantize.evalDataset.format",
    ),
    "publish.model must name a stage of this job": (
        {},
        {f"{PUBLISH}.publish.model": {"source": {"uri": "s3://a/b"}}},
        f"{PUBLISH}.publish.model",
    ),
}
