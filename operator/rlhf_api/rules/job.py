"""Rules about a job as a whole: which stages may name which, and what of the model, strategy and storage goes together."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from rlhf_api.inputs import ModelInput
from rlhf_api.job import ModelSpec, RLHFJobSpec
from rlhf_api.outcome import ExitCode
from rlhf_api.paths import as_location
from rlhf_api.rules.base import Rule, field_rule, implies, matches, rule, unique_rule
from rlhf_api.stages import Stage, StageType
from rlhf_api.topology import Topology

_TRAINING = "st.type in ['SFT', 'RewardModel', 'PPO']"
_STRATEGY = "st.?strategy.orValue(self.strategy)"
_SPLIT = (
    "st.?topology.?tensorParallel.orValue(self.topology.tensorParallel) "
    "* st.?topology.?pipelineParallel.orValue(self.topology.pipelineParallel) == 1"
)

# CEL costs the API server about a microsecond for each evaluated node, on every create and status write. So rules loop over the stages that
# exist, ask `has()` first, and compare positions only where a job names another stage (docs/decisions, "Rules cost what they ask").


def _has(path: str) -> str:
    """CEL: the stage `st` has everything on the way to a field."""
    tokens = path.split(".")
    return " && ".join(f"has(st.{'.'.join(tokens[: i + 1])})" for i in range(len(tokens)))


def _earlier(question: str) -> str:
    """CEL: before the stage `st` there is one, `self.stages[i]`, for which the question is true. Names tell positions: they differ."""
    is_later = "[1,2,3,4,5,6,7,8,9].exists(j, i < j && j < self.stages.size() && self.stages[j].name == st.name)"
    return f"[0,1,2,3,4,5,6,7,8].exists(i, i < self.stages.size() && {question} && {is_later})"


StageCheck = Callable[[RLHFJobSpec, int, Stage], Iterable[str]]


def _stages_rule(cel: str, message: str, check: StageCheck) -> Rule:
    """A rule that looks at each stage in turn; `check` gives paths below the stage."""

    def find(spec: RLHFJobSpec) -> Iterator[str]:
        for i, stage in enumerate(spec.stages):
            try:
                broken = list(check(spec, i, stage))
            except AttributeError:  # a field of this stage is itself invalid, so the question has no answer (validate.py)
                continue
            yield from (f"stages[{i}].{path}" if path else f"stages[{i}]" for path in broken)

    return Rule(RLHFJobSpec, "", cel, message, find)


def strategy_of(spec: RLHFJobSpec, stage: Stage) -> str:
    """The strategy that a stage asks for: its own, else the job's."""
    return stage.strategy or spec.strategy


def topology_of(spec: RLHFJobSpec, stage: Stage) -> Topology:
    """The topology that a stage asks for: its own, else the job's."""
    return stage.topology or spec.topology


def is_split(topology: Topology) -> bool:
    """True when layers are shared between processes or spread over them."""
    return topology.tensor_parallel * topology.pipeline_parallel > 1


def is_training(stage: Stage) -> bool:
    """True for SFT, RewardModel and PPO."""
    return StageType(stage.type).is_training


def _reference_rule(block: str, field: str, types: tuple[StageType, ...], written: Callable[[Stage], ModelInput | None]) -> Rule:
    listed = ", ".join(f"'{stage_type}'" for stage_type in types)

    def check(spec: RLHFJobSpec, i: int, stage: Stage) -> Iterator[str]:
        wanted = written(stage)
        if wanted is None or wanted.stage is None:
            return
        if not any(other.name == wanted.stage and other.type in types for other in spec.stages[:i]):
            yield f"{block}.{field}.stage"

    return _stages_rule(
        f"self.stages.all(st, !({_has(f'{block}.{field}.stage')}) || "
        + _earlier(f"self.stages[i].name == st.{block}.{field}.stage && self.stages[i].type in [{listed}]")
        + ")",
        f"{block}.{field}.stage must name an earlier stage of type {' or '.join(types)}",
        check,
    )


def _find_late_after(spec: RLHFJobSpec, i: int, stage: Stage) -> Iterator[str]:
    earlier = {other.name for other in spec.stages[:i]}
    return (f"after[{k}]" for k, name in enumerate(stage.after) if name not in earlier)


def _find_ppo_without_reward(spec: RLHFJobSpec, i: int, stage: Stage) -> Iterator[str]:
    needs_one = stage.type == StageType.PPO and (stage.ppo is None or stage.ppo.reward is None)
    if needs_one and not any(other.type == StageType.REWARD_MODEL for other in spec.stages[:i]):
        yield "ppo.reward"


def _find_unmeasured_quantize(spec: RLHFJobSpec, i: int, stage: Stage) -> Iterator[str]:
    needs_rows = stage.type == StageType.QUANTIZE and (stage.quantize is None or stage.quantize.eval_dataset is None)
    if needs_rows and not any(other.sft is not None and other.sft.eval_fraction > 0 for other in spec.stages[:i]):
        yield "quantize.evalDataset"


def _find_publish_of_nothing(spec: RLHFJobSpec, i: int, stage: Stage) -> Iterator[str]:
    needs_one = stage.type == StageType.PUBLISH and (stage.publish is None or stage.publish.model is None)
    offered = (StageType.SFT, StageType.PPO, StageType.QUANTIZE)
    if needs_one and not any(other.type in offered for other in spec.stages[:i]):
        yield "publish.model"


def _find_shared_destination(spec: RLHFJobSpec, i: int, stage: Stage) -> Iterator[str]:
    if stage.publish is None:
        return
    uri = stage.publish.destination.uri
    if any(other.publish is not None and other.publish.destination.uri == uri for other in spec.stages[:i]):
        yield "publish.destination.uri"


def _find_split_without_3d(spec: RLHFJobSpec, i: int, stage: Stage) -> Iterator[str]:
    if is_training(stage) and strategy_of(spec, stage) not in ("auto", "3d") and is_split(topology_of(spec, stage)):
        yield "topology"


def _find_impossible_lora(spec: RLHFJobSpec, i: int, stage: Stage) -> Iterator[str]:
    if spec.model.lora is None or not is_training(stage):
        return
    if strategy_of(spec, stage) in ("gemini", "gemini-offload", "3d"):
        yield "strategy"
    elif is_split(topology_of(spec, stage)):
        yield "topology"


def _find_impossible_4bit(spec: RLHFJobSpec, i: int, stage: Stage) -> Iterator[str]:
    if spec.model.load_in_4bit and is_training(stage) and strategy_of(spec, stage) not in ("auto", "ddp"):
        yield "strategy"


def _is_one_node_at_a_time(spec: RLHFJobSpec) -> bool:
    has_one_node = all(topology_of(spec, stage).nodes == 1 for stage in spec.stages if is_training(stage))
    return spec.run_policy.max_parallel_stages == 1 and has_one_node


def _combination(rule: Rule) -> Rule:
    """A rule about a combination that does not exist, where each value alone is fine: 69, not 64.

    To blame is the place where a strategy or topology was written, once, however many stages inherit it.
    """

    def find(spec: RLHFJobSpec) -> Iterable[str]:
        return dict.fromkeys(_written_at(spec, place) for place in rule.find(spec))

    return replace(rule, find=find, exit_code=ExitCode.UNSUPPORTED)


def _written_at(spec: RLHFJobSpec, place: str) -> str:
    """`strategy` for `stages[2].strategy` where that stage has none of its own."""
    _, index, field = as_location(place)
    return place if getattr(spec.stages[int(index)], str(field)) is not None else str(field)


_SFT, _RM, _PPO, _QUANTIZE = StageType.SFT, StageType.REWARD_MODEL, StageType.PPO, StageType.QUANTIZE

STAGE_ORDER_RULES = (
    unique_rule(RLHFJobSpec, "stages", "is the name of an earlier stage: each stage needs its own", lambda it: it.stages),
    _stages_rule(
        f"self.stages.all(st, !has(st.after) || st.after.all(d, {_earlier('self.stages[i].name == d')}))",
        "after may only name earlier stages",
        _find_late_after,
    ),
    _reference_rule("sft", "init", (_SFT, _PPO), lambda it: it.sft.init if it.sft else None),
    _reference_rule("rewardModel", "init", (_SFT, _PPO, _RM), lambda it: it.reward_model.init if it.reward_model else None),
    _reference_rule("ppo", "policy", (_SFT, _PPO), lambda it: it.ppo.policy if it.ppo else None),
    _reference_rule("ppo", "reward", (_RM,), lambda it: it.ppo.reward if it.ppo else None),
    _reference_rule("ppo", "critic", (_RM, _PPO), lambda it: it.ppo.critic if it.ppo else None),
    _reference_rule("quantize", "model", (_SFT, _PPO), lambda it: it.quantize.model if it.quantize else None),
    _reference_rule("publish", "model", (_SFT, _RM, _PPO, _QUANTIZE), lambda it: it.publish.model if it.publish else None),
    _stages_rule(
        "self.stages.all(st, st.type != 'PPO' || (has(st.ppo) && has(st.ppo.reward)) || "
        + _earlier("self.stages[i].type == 'RewardModel'")
        + ")",
        "a PPO stage needs an earlier RewardModel stage or ppo.reward",
        _find_ppo_without_reward,
    ),
    _stages_rule(
        "self.stages.all(st, st.type != 'Quantize' || (has(st.quantize) && has(st.quantize.evalDataset)) || "
        + _earlier("has(self.stages[i].sft) && self.stages[i].sft.evalFraction > 0.0")
        + ")",
        "a Quantize stage needs data for its gate: quantize.evalDataset, or an earlier SFT stage with evalFraction above 0",
        _find_unmeasured_quantize,
    ),
    _stages_rule(
        "self.stages.all(st, st.type != 'Publish' || (has(st.publish) && has(st.publish.model)) || "
        + _earlier("self.stages[i].type in ['SFT', 'PPO', 'Quantize']")
        + ")",
        "a Publish stage needs an earlier SFT, PPO or Quantize stage, or publish.model",
        _find_publish_of_nothing,
    ),
    _stages_rule(
        "self.stages.all(a, !has(a.publish) || self.stages.exists_one(b, "
        "b.?publish.?destination.?uri.orValue('') == a.publish.destination.uri))",
        "each Publish stage needs its own destination",
        _find_shared_destination,
    ),
    rule(
        RLHFJobSpec,
        "rerun.fromStage",
        "!has(self.rerun) || self.stages.exists(st, st.name == self.rerun.fromStage)",
        "rerun.fromStage must name a stage",
        lambda it: it.rerun is None or any(stage.name == it.rerun.from_stage for stage in it.stages),
    ),
)

COMBINATION_RULES = (
    _combination(
        _stages_rule(
            f"self.stages.all(st, !({_TRAINING}) || {_STRATEGY} in ['auto', '3d'] || {_SPLIT})",
            "tensorParallel and pipelineParallel above 1 need strategy 3d or auto",
            _find_split_without_3d,
        )
    ),
    _combination(
        _stages_rule(
            f"!has(self.model.lora) || self.stages.all(st, !({_TRAINING}) || "
            f"(!({_STRATEGY} in ['gemini', 'gemini-offload', '3d']) && {_SPLIT}))",
            "lora works with strategy auto, ddp, zero1, zero2 and zero2-offload, without tensorParallel and pipelineParallel",
            _find_impossible_lora,
        )
    ),
    _combination(
        _stages_rule(
            f"!self.model.loadIn4bit || self.stages.all(st, !({_TRAINING}) || {_STRATEGY} in ['auto', 'ddp'])",
            "loadIn4bit works with strategy auto and ddp only",
            _find_impossible_4bit,
        )
    ),
    rule(
        RLHFJobSpec,
        "storage.accessMode",
        "self.?storage.?accessMode.orValue('') != 'ReadWriteOnce' || (self.runPolicy.maxParallelStages == 1 && "
        f"self.stages.all(st, !({_TRAINING}) || st.?topology.?nodes.orValue(self.topology.nodes) == 1))",
        "ReadWriteOnce storage needs one node in every stage and maxParallelStages 1; use ReadWriteMany",
        lambda it: it.storage.access_mode != "ReadWriteOnce" or _is_one_node_at_a_time(it),
    ),
)

MODEL_RULES = (
    field_rule(
        ModelSpec,
        "size",
        "!self.matches('^[0.]+[MB]$')",
        "model.size must be above 0",
        lambda it: it.size is None or not matches(it.size, "^[0.]+[MB]$"),
    ),
    rule(
        ModelSpec,
        "size",
        "has(self.size) || self.source.uri.startsWith('builtin://')",
        "model.size is required (for example 7B) unless the source is builtin://",
        lambda it: it.size is not None or it.source.scheme == "builtin",
    ),
    rule(
        ModelSpec,
        "lora",
        "!self.loadIn4bit || has(self.lora)",
        "loadIn4bit needs lora: 4-bit weights cannot be trained themselves",
        lambda it: implies(it.load_in_4bit, it.lora is not None),
    ),
)

RULES: tuple[Rule, ...] = (*STAGE_ORDER_RULES, *COMBINATION_RULES, *MODEL_RULES)
