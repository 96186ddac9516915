"""The search for a plan: every way to run a stage, best first, and what the profile's hardware can hold."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from rlhf_api.graph import inputs_of, origin_of
from rlhf_api.job import RLHFJobSpec, resolved_precision
from rlhf_api.planning import memory, notes, phases, steps
from rlhf_api.planning.architectures import Architecture, shape_of_source
from rlhf_api.planning.memory import GIB, Bytes, Part, Precision
from rlhf_api.planning.phases import Rollout, Workload
from rlhf_api.planning.stage_plan import StagePlan
from rlhf_api.planning.strategy import AUTO, CAPABILITIES, OFFLOADING, PLAIN, SHARDING, Features, candidates
from rlhf_api.profile import ProfileSpec
from rlhf_api.stages import PPO, Optimization, Quantize, RewardModel, Stage
from rlhf_api.topology import Topology


@dataclass(frozen=True, slots=True)
class Budget:
    """Memory that the profile gives one process: where the model computes, and in host memory beside it."""

    device: int
    host: int
    on_gpu: bool

    def shortage(self, need: Bytes) -> int:
        """Bytes that are missing, 0 when the need fits; on a CPU all of it lies in the same memory."""
        if not self.on_gpu:
            return max(0, need.device + need.host - self.device)
        return max(0, need.device - self.device) + max(0, need.host - self.host)


def budget_of(profile: ProfileSpec, topology: Topology) -> Budget:
    """What one process of a pod may use. A GPU stage on a CPU-only profile has no GPU memory at all."""
    if topology.gpus_per_node:
        device = profile.gpu.memory_gib * GIB if profile.gpu else 0
        return Budget(device, memory.bytes_of_quantity(profile.resources.per_gpu.memory), on_gpu=True)
    return Budget(memory.bytes_of_quantity(profile.resources.per_process.memory), 0, on_gpu=False)


def peak(parts: Mapping[str, tuple[Part, ...]]) -> Bytes:
    """What one process will hold: the largest phase, and what fragmentation takes on top."""
    return _largest(_grown(memory.total(phase)) for phase in parts.values())


def required(parts: Mapping[str, tuple[Part, ...]]) -> Bytes:
    """What one process must be given: a rollout may fill only nine tenths of what the process itself leaves free (rule G8)."""
    return _largest(_required_by(name, phase) for name, phase in parts.items())


def _required_by(name: str, phase: tuple[Part, ...]) -> Bytes:
    need = _grown(memory.total(phase))
    if name != phases.ROLLOUT:
        return need
    process = sum(part.bytes.device for part in phase if part.name == phases.PROCESS)
    return replace(need, device=process + round((need.device - process) / phases.ROLLOUT_SHARE))


def _grown(need: Bytes) -> Bytes:
    return replace(need, device=round(need.device * (1 + memory.FRAGMENTATION)))


def _largest(needs: Iterable[Bytes]) -> Bytes:
    known = list(needs)
    return Bytes(max((need.device for need in known), default=0), max((need.host for need in known), default=0))


def first_fit(spec: RLHFJobSpec, stage: Stage, profile: ProfileSpec) -> StagePlan | None:
    """The best way to run the stage that the profile's hardware holds."""
    budget = budget_of(profile, steps.topology_of(spec, stage))
    return next((plan for plan in options(spec, stage) if not budget.shortage(required(plan.parts))), None)


def nearest_miss(spec: RLHFJobSpec, stage: Stage, budget: Budget) -> StagePlan:
    """The way to run the stage that misses the budget by the least."""
    return min(options(spec, stage), key=lambda plan: budget.shortage(required(plan.parts)))


def options(spec: RLHFJobSpec, stage: Stage) -> Iterator[StagePlan]:
    """Every way to run a stage, best first: simplest strategy, then largest micro-batch, then largest generation batch."""
    topology = steps.topology_of(spec, stage)
    if not stage.type.is_training:
        yield _single_process(spec, stage, topology)
        return
    names = _sensible(stage.strategy or spec.strategy, spec, topology)
    shape = shape_of_role(spec, stage)
    if shape is None:
        yield from (StagePlan(strategy=name, world_size=topology.world_size, notes=(notes.NO_SHAPE,)) for name in names[:1])
        return
    rows, tokens = steps.rows_per_worker(stage, topology), steps.row_tokens(stage)
    for strategy in names:
        for size in steps.micro_batches(rows, tokens) if CAPABILITIES[strategy].accumulation else (rows,):
            work = _workload(spec, stage, topology, shape, strategy, size)
            yield from (_training(stage, topology, work, rollout) for rollout in _rollouts(spec, stage, work))


def _sensible(asked: str, spec: RLHFJobSpec, topology: Topology) -> list[str]:
    """The candidates. `auto` leaves out those that cannot save anything here: one worker shards nothing, a CPU offloads nowhere."""
    names = candidates(asked, features_of(spec, topology))
    if asked != AUTO:
        return names
    useless = (SHARDING if topology.world_size == 1 else frozenset()) | (frozenset() if topology.gpus_per_node else OFFLOADING)
    return [name for name in names if name not in useless]


def shape_of_role(spec: RLHFJobSpec, stage: Stage, role: str | None = None) -> Architecture | None:
    """The shape of one of a stage's models, by default of the one it trains or quantizes; None when nothing tells.

    A stage hands on the shape it was given, so the shape is that of the model from outside at the beginning of the chain.
    """
    models = inputs_of(spec, stage)
    origin = origin_of(spec, models[role] if role else next(iter(models.values())))
    return shape_of_source(origin.source.uri, spec.model.size)


def features_of(spec: RLHFJobSpec, topology: Topology, num_micro_batches: int = 1) -> Features:
    """What a stage asks of its strategy."""
    return Features(
        world_size=topology.world_size,
        lora=spec.model.lora is not None,
        load_in_4bit=spec.model.load_in_4bit,
        precision=resolved_precision(spec.model, topology),
        tensor_parallel=topology.tensor_parallel,
        pipeline_parallel=topology.pipeline_parallel,
        num_micro_batches=num_micro_batches,
    )


def _workload(spec: RLHFJobSpec, stage: Stage, topology: Topology, shape: Architecture, strategy: str, size: int) -> Workload:
    lora, block = spec.model.lora, stage.block
    return Workload(
        shape=shape,
        strategy=strategy,
        num_workers=topology.data_parallel,
        on_gpu=topology.gpus_per_node > 0,
        precision=Precision(resolved_precision(spec.model, topology)),
        num_adapter_parameters=None if lora is None else memory.adapter_parameters(shape, lora.rank, lora.target_modules),
        in_4bit=spec.model.load_in_4bit,
        num_tokens=steps.row_tokens(stage),
        micro_batch_size=size,
        checkpointing=isinstance(block, Optimization) and block.gradient_checkpointing,
    )


def _rollouts(spec: RLHFJobSpec, stage: Stage, work: Workload) -> Iterator[Rollout | None]:
    """Ways to generate, best first; a single None for stages that do not."""
    block = stage.block
    if not isinstance(block, PPO):
        yield None
        return
    rows = max(1, block.rollout_batch_size // work.num_workers)
    score_shape = shape_of_role(spec, stage, "reward") or work.shape
    whole = Rollout(score_shape=score_shape, num_rows=rows, batch_size=rows, has_average=block.ema_decay > 0)
    sizes = [max(1, rows >> halvings) for halvings in range(rows.bit_length())]
    copies = (True, False) if work.precision is Precision.BF16 and not work.on_gpu else (False,)
    for has_copy in copies:
        yield from (replace(whole, batch_size=size, has_fp32_copy=has_copy) for size in sizes)
    if CAPABILITIES[work.strategy].gathers_for_rollout:
        yield from (replace(whole, batch_size=size, is_streamed=True) for size in sizes)


def _training(stage: Stage, topology: Topology, work: Workload, rollout: Rollout | None) -> StagePlan:
    if rollout is not None:
        parts = phases.ppo(work, rollout)
    else:
        pairs = isinstance(stage.block, RewardModel)
        parts = phases.supervised(work, rows_in_forward=work.micro_batch_size * (2 if pairs else 1))
    plan = StagePlan(
        strategy=work.strategy,
        world_size=topology.world_size,
        micro_batch_size=work.micro_batch_size,
        gradient_checkpointing=work.checkpointing,
        total_steps=steps.stated_steps(stage),
        generation_batch_size=rollout.batch_size if rollout else None,
        rollout=("streamed" if rollout.is_streamed else "whole") if rollout else None,
        notes=notes.of_training(work, rollout, stage),
    )
    return _with_memory(plan, parts, topology)


def _single_process(spec: RLHFJobSpec, stage: Stage, topology: Topology) -> StagePlan:
    """Quantize measures a model before and after; Publish copies files and needs no estimate."""
    block, shape = stage.block, shape_of_role(spec, stage)
    if not isinstance(block, Quantize):
        return StagePlan(strategy=PLAIN, world_size=1)
    if shape is None:
        return StagePlan(strategy=PLAIN, world_size=1, notes=(notes.NO_SHAPE,))
    double_quant = block.double_quant is not False
    parts = phases.quantize(shape, block.method, double_quant=double_quant, on_gpu=topology.gpus_per_node > 0)
    plan = StagePlan(strategy=PLAIN, world_size=1, notes=notes.of_artifact(shape, block.method, double_quant=double_quant))
    return _with_memory(plan, parts, topology)


def _with_memory(plan: StagePlan, parts: Mapping[str, tuple[Part, ...]], topology: Topology) -> StagePlan:
    need, processes = peak(parts), topology.num_processes_per_node
    if topology.gpus_per_node:
        return replace(plan, parts=parts, gpu_memory_bytes=need.device, host_memory_bytes=need.host * processes)
    return replace(plan, parts=parts, host_memory_bytes=(need.device + need.host) * processes)
