"""The planner's answer for a stage, in the form that status and run.json need; `auto` and memory are resolved there, not here."""

from dataclasses import dataclass
from typing import Literal, cast

from rlhf_api.job import RLHFJobSpec
from rlhf_api.planning.plan import plan_stage
from rlhf_api.profile import ProfileSpec
from rlhf_api.status import PlanStatus
from rlhf_operator.core.memo import by_identity
from rlhf_operator.core.specs import StageSpec

Strategy = Literal["plain", "ddp", "zero1", "zero2", "zero2-offload", "gemini", "gemini-offload", "3d"]
_GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """How a stage runs."""

    strategy: Strategy = "plain"
    world_size: int = 1
    micro_batch_size: int = 1
    gradient_checkpointing: bool = False
    gpu_memory_gib: float | None = None
    host_memory_gib: float | None = None

    def to_status(self) -> PlanStatus:
        """The plan as the status shows it."""
        return PlanStatus(
            strategy=self.strategy,
            world_size=self.world_size,
            micro_batch_size=self.micro_batch_size,
            gpu_memory_gib=self.gpu_memory_gib,
            host_memory_gib=self.host_memory_gib,
        )


@by_identity
def plan_of(spec: RLHFJobSpec, stage: StageSpec, rules: ProfileSpec) -> Planned:
    """The plan of a stage. Prepare and Publish are one process that computes nothing.

    Raises:
        DoesNotFit: nothing fits the profile's hardware.
        NotSupported: the strategy cannot do what the stage asks for.
    """
    if stage.stage is None or stage.reaches_outside:
        return Planned()
    plan = plan_stage(spec, stage.stage, rules)
    return Planned(
        strategy=cast(Strategy, plan.strategy),
        world_size=plan.world_size,
        micro_batch_size=plan.micro_batch_size,
        gradient_checkpointing=plan.gradient_checkpointing,
        gpu_memory_gib=round(plan.gpu_memory_bytes / _GIB, 1) if plan.gpu_memory_bytes else None,
        host_memory_gib=round(plan.host_memory_bytes / _GIB, 1) if plan.host_memory_bytes else None,
    )
