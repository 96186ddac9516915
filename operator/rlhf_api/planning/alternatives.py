"""The smallest changes of a job that make a stage need less memory, nearest first."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rlhf_api.job import Lora, RLHFJobSpec
from rlhf_api.planning import steps
from rlhf_api.profile import ProfileSpec
from rlhf_api.stages import PPO, Block, Optimization, Stage, block_field

SHORTEST_ROW = 128
"""Rows are not offered shorter: a chat would no longer fit."""


@dataclass(frozen=True, slots=True)
class Change:
    """A changed job, and the change in words: the field and its new value."""

    words: str
    spec: RLHFJobSpec


def changes(spec: RLHFJobSpec, stage: Stage, profile: ProfileSpec) -> Iterator[Change]:
    """Jobs that differ in one thing and need less memory for this stage. All leave the strategy to the planner, in words."""
    index = steps.index_of(spec, stage)
    free = _with_auto_strategy(spec, index)
    if free == spec:
        yield from _beside_strategy(spec, index, profile)
        return
    freed = f"{steps.written_at(spec, stage, 'strategy')} auto"
    yield Change(freed, free)
    yield from (replace(change, words=f"{change.words} and {freed}") for change in _beside_strategy(free, index, profile))


def _beside_strategy(free: RLHFJobSpec, index: int, profile: ProfileSpec) -> Iterator[Change]:
    stage = free.stages[index]
    if not stage.type.is_training:
        return
    block = stage.block
    if isinstance(block, Optimization) and not block.gradient_checkpointing:
        yield _with_block(free, index, {"gradient_checkpointing": True}, "gradientCheckpointing true")
    if free.model.lora is None:
        yield Change("spec.model.lora {rank: 16}", _with_model(free, lora=Lora()))
    if not free.model.load_in_4bit:
        words = "spec.model.loadIn4bit true" + ("" if free.model.lora else " with spec.model.lora {rank: 16}")
        yield Change(words, _with_model(free, lora=free.model.lora or Lora(), load_in_4bit=True))
    yield from _more_nodes(free, index, profile)
    yield from _shorter_rows(free, index)


def _with_auto_strategy(spec: RLHFJobSpec, index: int) -> RLHFJobSpec:
    stage = spec.stages[index]
    if (stage.strategy or spec.strategy) == "auto":
        return spec
    if stage.strategy is None:
        return spec.model_copy(update={"strategy": "auto"})
    return _with_stage(spec, index, stage.model_copy(update={"strategy": "auto"}))


def _more_nodes(spec: RLHFJobSpec, index: int, profile: ProfileSpec) -> Iterator[Change]:
    """The same stage on twice the nodes, four times, and so on up to the limits of the profile."""
    topology = steps.topology_of(spec, spec.stages[index])
    nodes = topology.nodes * 2
    while nodes <= profile.limits.max_nodes and nodes * topology.gpus_per_node <= profile.limits.max_gpus:
        wider = spec.stages[index].model_copy(update={"topology": topology.model_copy(update={"nodes": nodes})})
        changed = _with_stage(spec, index, wider)
        if not any(True for _ in steps.find_indivisible(changed)):
            yield Change(f"spec.stages[{index}].topology.nodes {nodes}", changed)
        nodes *= 2


def _shorter_rows(spec: RLHFJobSpec, index: int) -> Iterator[Change]:
    field, wire = _length_field(spec.stages[index].block)
    length = getattr(spec.stages[index].block, field) // 2
    while length >= SHORTEST_ROW:
        yield _with_block(spec, index, {field: length}, f"{wire} {length}")
        length //= 2


def _length_field(block: Block) -> tuple[str, str]:
    return ("max_new_tokens", "maxNewTokens") if isinstance(block, PPO) else ("max_length", "maxLength")


def _with_block(spec: RLHFJobSpec, index: int, update: dict[str, object], words: str) -> Change:
    stage = spec.stages[index]
    wire = block_field(stage.type)
    field = next(name for name, info in Stage.model_fields.items() if info.alias == wire)
    changed = stage.model_copy(update={field: stage.block.model_copy(update=update)})
    return Change(f"spec.stages[{index}].{wire}.{words}", _with_stage(spec, index, changed))


def _with_stage(spec: RLHFJobSpec, index: int, stage: Stage) -> RLHFJobSpec:
    return spec.model_copy(update={"stages": (*spec.stages[:index], stage, *spec.stages[index + 1 :])})


def _with_model(spec: RLHFJobSpec, **update: object) -> RLHFJobSpec:
    return spec.model_copy(update={"model": spec.model.model_copy(update=update)})
