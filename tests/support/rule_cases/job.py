"""Rules about a job as a whole: each is obeyed and broken once. The Python and the API server judge the same cases."""

from tests.support.manifests import REMOVE
from tests.support.rules import MODEL, NF4, PPO, PUBLISH, RM, SFT, Cases

CASES: Cases = {
    "is the name of an earlier stage: each stage needs its own": ({}, {f"{RM}.name": "sft"}, f"{RM}.name"),
    "after may only name earlier stages": ({f"{PPO}.after": ["sft", "rm"]}, {f"{PPO}.after": ["sft", "nf4"]}, f"{PPO}.after[1]"),
    "sft.init.stage must name an earlier stage of type SFT or PPO": (
        {"spec.stages[5]": {"name": "sft2", "type": "SFT", "sft": {"init": {"stage": "ppo"}, "dataset": {"uri": "s3://a/b"}}}},
        {f"{SFT}.sft.init": {"stage": "ppo"}},
        f"{SFT}.sft.init.stage",
    ),
    "rewardModel.init.stage must name an earlier stage of type SFT or PPO or RewardModel": (
        {f"{RM}.rewardModel.init": {"stage": "sft"}},
        {f"{RM}.rewardModel.init": {"stage": "rm"}},
        f"{RM}.rewardModel.init.stage",
    ),
    "ppo.policy.stage must name an earlier stage of type SFT or PPO": (
        {f"{PPO}.ppo.policy": {"stage": "sft"}},
        {f"{PPO}.ppo.policy": {"stage": "rm"}},
        f"{PPO}.ppo.policy.stage",
    ),
    "ppo.reward.stage must name an earlier stage of type RewardModel": (
        {f"{PPO}.ppo.reward": {"stage": "rm"}},
        {f"{PPO}.ppo.reward": {"stage": "sft"}},
        f"{PPO}.ppo.reward.stage",
    ),
    "ppo.critic.stage must name an earlier stage of type RewardModel or PPO": (
        {f"{PPO}.ppo.critic": {"stage": "rm"}},
        {f"{PPO}.ppo.critic": {"stage": "absent"}},
        f"{PPO}.ppo.critic.stage",
    ),
    "quantize.model.stage must name an earlier stage of type SFT or PPO": (
        {f"{NF4}.quantize.model": {"stage": "sft"}},
        {f"{NF4}.quantize.model": {"stage": "rm"}},
        f"{NF4}.quantize.model.stage",
    ),
    "publish.model.stage must name an earlier stage of type SFT or RewardModel or PPO or Quantize": (
        {f"{PUBLISH}.publish.model": {"stage": "rm"}},
        {f"{PUBLISH}.publish.model": {"stage": "publish"}},
        f"{PUBLISH}.publish.model.stage",
    ),
    "a PPO stage needs an earlier RewardModel stage or ppo.reward": (
        {f"{PPO}.ppo.reward": {"source": {"uri": "s3://a/rm"}}},
        {RM: {"name": "rm", "type": "SFT", "sft": {"dataset": {"uri": "s3://a/b"}}}},
        f"{PPO}.ppo.reward",
    ),
    "a Quantize stage needs data for its gate: quantize.evalDataset, or an earlier SFT stage with evalFraction above 0": (
        {f"{SFT}.sft.evalFraction": 0, f"{NF4}.quantize.evalDataset": {"uri": "s3://a/b"}},
        {f"{SFT}.sft.evalFraction": 0},
        f"{NF4}.quantize.evalDataset",
    ),
    "a Publish stage needs an earlier SFT, PPO or Quantize stage, or publish.model": (
        {f"{PUBLISH}.publish.model": REMOVE},
        {"spec.stages": [{"name": "publish", "type": "Publish", "publish": {"destination": {"uri": "pvc://c/x"}}}]},
        f"{SFT}.publish.model",
    ),
    "each Publish stage needs its own destination": (
        {"spec.stages[5]": {"name": "again", "type": "Publish", "publish": {"destination": {"uri": "pvc://models/b"}}}},
        {
            "spec.stages[5]": {
                "name": "again",
                "type": "Publish",
                "publish": {"destination": {"uri": "oci://registry.example.com/ml/chat-7b:v1"}},
            }
        },
        "spec.stages[5].publish.destination.uri",
    ),
    "rerun.fromStage must name a stage": (
        {"spec.rerun": {"fromStage": "rm", "token": "1"}},
        {"spec.rerun": {"fromStage": "prepare", "token": "1"}},
        "spec.rerun.fromStage",
    ),
    "tensorParallel and pipelineParallel above 1 need strategy 3d or auto": (
        {"spec.topology.tensorParallel": 2, "spec.strategy": "3d"},
        {"spec.topology.tensorParallel": 2, f"{SFT}.strategy": "zero2"},
        "spec.topology",
    ),
    "lora works with strategy auto, ddp, zero1, zero2 and zero2-offload, without tensorParallel and pipelineParallel": (
        {"spec.model.lora": {}, "spec.strategy": "zero2-offload"},
        {"spec.model.lora": {}, f"{PPO}.strategy": "gemini"},
        f"{PPO}.strategy",
    ),
    "loadIn4bit works with strategy auto and ddp only": (
        {"spec.model.lora": {}, "spec.model.loadIn4bit": True, "spec.strategy": "ddp"},
        {"spec.model.lora": {}, "spec.model.loadIn4bit": True, f"{RM}.strategy": "zero2"},
        f"{RM}.strategy",
    ),
    "ReadWriteOnce storage needs one node in every stage and maxParallelStages 1; use ReadWriteMany": (
        {"spec.storage.accessMode": "ReadWriteOnce", "spec.topology.nodes": 1},
        {"spec.storage.accessMode": "ReadWriteOnce"},
        "spec.storage.accessMode",
    ),
    "model.size is required (for example 7B) unless the source is builtin://": (
        {MODEL: {"uri": "builtin://models/tiny-llama"}, "spec.model.size": REMOVE},
        {"spec.model.size": REMOVE},
        "spec.model.size",
    ),
    "model.size must be above 0": ({"spec.model.size": "0.5B"}, {"spec.model.size": "0.0B"}, "spec.model.size"),
    "loadIn4bit needs lora: 4-bit weights cannot be trained themselves": (
        {"spec.model.loadIn4bit": True, "spec.model.lora": {}},
        {"spec.model.loadIn4bit": True},
        "spec.model.lora",
    ),
}
