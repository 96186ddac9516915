"""Builders of stage statuses: what matters to the case is said, the rest is filled in."""

from typing import Any

from rlhf_api.outcome import Outcome, budget_of
from rlhf_api.status import AttemptStatus, CheckpointStatus, StageStatus
from tests.support.rig import DIGEST, NOON


def a_stage(*outcomes: Outcome, checkpoint_of: int | None = None, **changes: Any) -> StageStatus:
    """A stage whose attempts ended like this, the last one at noon."""
    attempts = tuple(
        AttemptStatus(attempt=number, job_name=f"chat-sft-r{number}", outcome=outcome, budget=budget_of(outcome), end_time=NOON)
        for number, outcome in enumerate(outcomes, start=1)
    )
    checkpoint = None
    if checkpoint_of is not None:
        checkpoint = CheckpointStatus(path=f"stages/sft/r{checkpoint_of}/checkpoints/5", step=5, digest=DIGEST)
    return StageStatus(name="sft", type="SFT", attempt=len(attempts), attempts=attempts, checkpoint=checkpoint, **changes)
