"""Plans: job, stage and profile in; strategy, micro-batch, memory and steps out. Arithmetic only, no torch.

`plan.plan_stage` is the door. CLI, operator and trainer use the same figures: a job that `rlhf plan` calls too big is refused by the
operator in the same words, before a GPU is held.
"""

from rlhf_api.planning.plan import plan_stage
from rlhf_api.planning.stage_plan import DoesNotFit, NotSupported, StagePlan

__all__ = ["DoesNotFit", "NotSupported", "StagePlan", "plan_stage"]
