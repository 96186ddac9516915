"""The plan of a stage: job, stage and profile in; strategy, micro-batch, memory and steps out, or the nearest plan that fits.

Strategies are tried from the simplest to the most frugal, micro-batches from the largest to the smallest; the first that fits is the plan.
Figures are derived from shapes, none is measured: they are estimates until the stage reports its own.
"""

from collections.abc import Iterator
from dataclasses import replace

from rlhf_api.job import RLHFJobSpec
from rlhf_api.planning import fitting, steps
from rlhf_api.planning.alternatives import changes
from rlhf_api.planning.fitting import Budget
from rlhf_api.planning.memory import GIB
from rlhf_api.planning.stage_plan import DoesNotFit, NotSupported, StagePlan
from rlhf_api.planning.strategy import Refusal, find_unsupported
from rlhf_api.profile import ProfileSpec
from rlhf_api.stages import Stage

__all__ = ["DoesNotFit", "NotSupported", "StagePlan", "plan_stage"]


def plan_stage(spec: RLHFJobSpec, stage: Stage, profile: ProfileSpec) -> StagePlan:
    """The simplest plan of a stage that fits the profile's hardware.

    Raises:
        DoesNotFit: none does; it carries the nearest change that would.
        NotSupported: the strategy cannot do what the stage asks for.
    """
    if refusals := list(_refusals(spec, stage)):
        raise NotSupported(refusals)
    _refuse_missing_gpus(spec, stage, profile)
    plan = fitting.first_fit(spec, stage, profile)
    if plan is None:
        raise _does_not_fit(spec, stage, profile)
    return plan


def _refusals(spec: RLHFJobSpec, stage: Stage) -> Iterator[Refusal]:
    """What the strategy of a stage cannot do, each with the path of the field as the user wrote it."""
    if not stage.type.is_training:
        return
    features = fitting.features_of(spec, steps.topology_of(spec, stage))
    for refusal in find_unsupported(stage.strategy or spec.strategy, features):
        field, _, below = refusal.field.partition(".")
        place = steps.written_at(spec, stage, field) if field in ("strategy", "topology") else f"spec.{field}"
        yield replace(refusal, field=f"{place}.{below}" if below else place)


def _refuse_missing_gpus(spec: RLHFJobSpec, stage: Stage, profile: ProfileSpec) -> None:
    num_gpus = steps.topology_of(spec, stage).gpus_per_node
    if num_gpus and profile.gpu is None and stage.publish is None:
        path = f"{steps.written_at(spec, stage, 'topology')}.gpusPerNode"
        rule = "cannot be: the profile has no GPUs (spec.gpu): set gpusPerNode 0 or name another profile"
        raise DoesNotFit(path, num_gpus, rule, None)


def _does_not_fit(spec: RLHFJobSpec, stage: Stage, profile: ProfileSpec) -> DoesNotFit:
    budget = fitting.budget_of(profile, steps.topology_of(spec, stage))
    path = f"spec.stages[{steps.index_of(spec, stage)}]"
    need = _shortage(fitting.nearest_miss(spec, stage, budget), budget)
    for change in changes(spec, stage, profile):
        if any(True for other in change.spec.stages for _ in _refusals(change.spec, other)):
            continue  # what would help this stage is nothing that another one can do
        plan = fitting.first_fit(change.spec, change.spec.stage(stage.name), profile)
        if plan is not None:
            return DoesNotFit(path, stage.name, f"{need}: try {change.words} ({_size(plan)} with {plan.strategy})", plan)
    return DoesNotFit(path, stage.name, f"{need}: no single change fits, take a smaller model or a profile with more memory", None)


def _shortage(plan: StagePlan, budget: Budget) -> str:
    """What is missing, in words. An estimate, and called one."""
    need = fitting.required(plan.parts)
    if not budget.on_gpu:
        where, missing, given = "memory for each process", need.device + need.host, budget.device
    elif need.device > budget.device:
        where, missing, given = "memory on each GPU", need.device, budget.device
    else:
        where, missing, given = "host memory for each GPU", need.host, budget.host
    return f"needs about {_gib(missing)} of {where} (estimate, {plan.strategy}), the profile gives {_gib(given)}"


def _size(plan: StagePlan) -> str:
    return f"{_gib(plan.gpu_memory_bytes)} on each GPU" if plan.gpu_memory_bytes else f"{_gib(plan.host_memory_bytes)} on each node"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB"
