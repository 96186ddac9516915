"""What the planner says: a plan, or why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from rlhf_api.planning.memory import Part
from rlhf_api.planning.strategy import Refusal

RolloutMode = Literal["whole", "streamed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """How a stage will run. Memory is an estimate: `gpu_memory_bytes` of one GPU, `host_memory_bytes` of one pod."""

    strategy: str
    """Never `auto`; `plain` is one process without Colossal-AI."""
    world_size: int
    micro_batch_size: int = 1
    gradient_checkpointing: bool = False
    gpu_memory_bytes: int = 0
    host_memory_bytes: int = 0
    total_steps: int | None = None
    """Set when the job file fixes it (`maxSteps`, `steps`); SFT and RewardModel end earlier when their epochs do."""
    generation_batch_size: int | None = None
    """PPO: rows that one worker generates at the same time."""
    rollout: RolloutMode | None = None
    """PPO: whether the policy's weights are whole on each worker while it generates, or gathered layer by layer (rule G7)."""
    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    """What one process holds, phase by phase. The largest phase decides."""
    notes: tuple[str, ...] = ()


class DoesNotFit(Exception):
    """No plan fits the memory of the profile.

    `path`, `value` and `rule` are those of a `Problem`; `nearest` is the plan after the smallest change that fits, or None.
    """

    def __init__(self, path: str, value: object, rule: str, nearest: StagePlan | None) -> None:
        super().__init__(f"{path}: {value!r} {rule}")
        self.path, self.value, self.rule, self.nearest = path, value, rule, nearest


class NotSupported(Exception):
    """The strategy cannot do what the stage asks for. Validation says the same before any plan is made. Fields are paths from `spec` on."""

    def __init__(self, refusals: list[Refusal]) -> None:
        super().__init__("; ".join(f"{refusal.field}: {refusal.value!r} {refusal.rule}" for refusal in refusals))
        self.refusals = refusals
