"""Which strategy a run uses. Colossal-AI is imported only by those that need it (rule S1)."""

from __future__ import annotations

from rlhf_trainer.run import Run
from rlhf_trainer.strategy.base import Strategy
from rlhf_trainer.strategy.plain import PlainStrategy


def build(run: Run) -> Strategy:
    """The strategy of run.json's plan, for this worker. Call once a process, before models are built."""
    return PlainStrategy(run)
