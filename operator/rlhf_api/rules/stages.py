"""Rules about one stage and about the block of each stage type."""

from collections.abc import Iterator

from rlhf_api.rules.base import Rule, implies, rule
from rlhf_api.stages import PPO, SFT, Publish, Quantize, RewardModel, Stage, StageType, block_field

_CONVERSATIONS = ("auto", "instruction", "messages", "alpaca")
_CONVERSATIONS_CEL = "['auto', 'instruction', 'messages', 'alpaca']"
_TRAINING_CEL = "['SFT', 'RewardModel', 'PPO']"


def _block_rule(stage_type: StageType, attribute: str) -> Rule:
    block = block_field(stage_type)
    return rule(
        Stage,
        block,
        f"self.type == '{stage_type}' ? has(self.{block}) : !has(self.{block})",
        f"{block} is required for type {stage_type} and allowed for no other type",
        lambda it: (it.type == stage_type) == (getattr(it, attribute) is not None),
    )


def _find_wide_quantize(stage: Stage) -> Iterator[str]:
    """What makes a Quantize stage wider than the one process that measures and packs the weights."""
    topology = stage.topology
    if stage.type != StageType.QUANTIZE or topology is None:
        return
    if topology.nodes > 1:
        yield "topology.nodes"
    if topology.gpus_per_node > 1:
        yield "topology.gpusPerNode"
    if (topology.processes_per_node or 1) > 1:
        yield "topology.processesPerNode"


STAGE_RULES = (
    rule(
        Stage,
        "name",
        "self.name != 'prepare'",
        "the name 'prepare' belongs to the implicit first stage",
        lambda it: it.name != "prepare",
    ),
    _block_rule(StageType.SFT, "sft"),
    _block_rule(StageType.REWARD_MODEL, "reward_model"),
    _block_rule(StageType.PPO, "ppo"),
    _block_rule(StageType.QUANTIZE, "quantize"),
    _block_rule(StageType.PUBLISH, "publish"),
    rule(
        Stage,
        "topology",
        "self.type != 'Publish' || !has(self.topology)",
        "a Publish stage runs on one CPU pod: it takes no topology",
        lambda it: it.type != StageType.PUBLISH or it.topology is None,
    ),
    Rule(
        Stage,
        "",
        "self.type != 'Quantize' || !has(self.topology) || (self.topology.nodes == 1 && self.topology.gpusPerNode <= 1 && "
        "(!has(self.topology.processesPerNode) || self.topology.processesPerNode == 1))",
        "a Quantize stage runs one process on one node: nodes 1, gpusPerNode at most 1, processesPerNode unset or 1",
        _find_wide_quantize,
    ),
    rule(
        Stage,
        "strategy",
        f"self.type in {_TRAINING_CEL} || !has(self.strategy)",
        "strategy is only for training stages",
        lambda it: StageType(it.type).is_training or it.strategy is None,
    ),
)

SUPERVISED_RULES = (
    rule(
        SFT,
        "dataset.format",
        f"self.format in {_CONVERSATIONS_CEL}",
        "sft.dataset.format must be auto, instruction, messages or alpaca",
        lambda it: it.dataset.format in _CONVERSATIONS,
        at="dataset",
    ),
    rule(
        RewardModel,
        "dataset.format",
        "self.format in ['auto', 'preference']",
        "rewardModel.dataset.format must be auto or preference",
        lambda it: it.dataset.format in ("auto", "preference"),
        at="dataset",
    ),
    rule(
        RewardModel,
        "minAccuracy",
        "self.minAccuracy == 0.0 || self.evalFraction > 0.0",
        "minAccuracy needs held-out rows: set evalFraction above 0, or minAccuracy to 0",
        lambda it: it.min_accuracy == 0 or it.eval_fraction > 0,
    ),
)

PPO_RULES = (
    rule(
        PPO,
        "kl.target",
        "(has(self.controller) && self.controller == 'adaptive') ? has(self.target) : !has(self.target)",
        "kl.target is required with the adaptive controller and not allowed with the fixed one",
        lambda it: (it.kl.controller == "adaptive") == (it.kl.target is not None),
        at="kl",
    ),
    rule(
        PPO,
        "kl.horizon",
        "!has(self.kl.controller) || self.kl.controller != 'adaptive' || self.kl.horizon * 5 > self.rolloutBatchSize",
        "kl.horizon must be above rolloutBatchSize / 5, or one rollout could turn the adaptive coefficient to 0 or below",
        # The controller multiplies by 1 + error * rolloutBatchSize / horizon, and the error goes down to -0.2.
        lambda it: it.kl.controller != "adaptive" or it.kl.horizon * 5 > it.rollout_batch_size,
    ),
    rule(
        PPO,
        "prompts.format",
        "self.format != 'preference'",
        "ppo.prompts.format cannot be preference",
        lambda it: it.prompts.format != "preference",
        at="prompts",
    ),
    rule(
        PPO,
        "ptxCoefficient",
        "has(self.pretrainDataset) == (self.ptxCoefficient > 0.0)",
        "pretrainDataset and ptxCoefficient > 0 belong together: set both or none",
        lambda it: (it.pretrain_dataset is not None) == (it.ptx_coefficient > 0),
    ),
    rule(
        PPO,
        "pretrainDataset.format",
        f"self.format in {_CONVERSATIONS_CEL}",
        "ppo.pretrainDataset.format must be auto, instruction, messages or alpaca",
        lambda it: it.pretrain_dataset is None or it.pretrain_dataset.format in _CONVERSATIONS,
        at="pretrainDataset",
    ),
    rule(
        PPO,
        "episodes",
        "!(has(self.episodes) && has(self.steps))",
        "set only one of episodes and steps",
        lambda it: it.episodes is None or it.steps is None,
    ),
    rule(
        PPO,
        "criticWarmupSteps",
        "!has(self.steps) || self.criticWarmupSteps < self.steps",
        "criticWarmupSteps must be below steps, or the policy never learns",
        lambda it: it.steps is None or it.critic_warmup_steps < it.steps,
    ),
    rule(
        PPO,
        "minibatchSize",
        "self.rolloutBatchSize % self.minibatchSize == 0",
        "minibatchSize must divide rolloutBatchSize",
        lambda it: it.rollout_batch_size % it.minibatch_size == 0,
    ),
    rule(
        PPO,
        "importanceCorrection",
        "self.importanceCorrection || (self.topK == 0 && self.topP == 1.0)",
        "topK and topP change what is sampled but not the log-probabilities: keep topK 0 and topP 1, or set importanceCorrection",
        lambda it: it.importance_correction or (it.top_k == 0 and it.top_p == 1),
    ),
)

DELIVERY_RULES = (
    rule(
        Quantize,
        "doubleQuant",
        "!has(self.doubleQuant) || self.method == 'nf4'",
        "doubleQuant is only for method nf4",
        lambda it: implies(it.double_quant is not None, it.method == "nf4"),
    ),
    rule(
        Quantize,
        "evalDataset.format",
        f"self.format in {_CONVERSATIONS_CEL}",
        "quantize.evalDataset.format must be auto, instruction, messages or alpaca",
        lambda it: it.eval_dataset is None or it.eval_dataset.format in _CONVERSATIONS,
        at="evalDataset",
    ),
    rule(
        Publish,
        "model",
        "has(self.stage)",
        "publish.model must name a stage of this job",
        lambda it: it.model is None or it.model.stage is not None,
        at="model",
    ),
)

RULES: tuple[Rule, ...] = (*STAGE_RULES, *SUPERVISED_RULES, *PPO_RULES, *DELIVERY_RULES)
