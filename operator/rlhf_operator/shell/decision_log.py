"""Decisions in the log, with the evidence that led to them: a plan whose status was written in, a line for each event out."""

import logging

from rlhf_api.status import StageStatus
from rlhf_operator.core.events import newly_ended
from rlhf_operator.core.model import Observed, Plan

_LOG = logging.getLogger(__name__)


def tell(observed: Observed, plan: Plan) -> None:
    """One line for each event of the plan, and one with figures for each attempt that it ended."""
    job = {"job": f"{observed.namespace}/{observed.name}", "uid": observed.uid}
    for event in plan.events:
        _LOG.info("%s: %s", event.reason, event.message[:300], extra=job)
    if plan.status is None:
        return
    known = {stage.name: stage for stage in observed.status.stages}
    for stage in plan.status.stages:
        _tell_endings(job, known.get(stage.name), stage)


def _tell_endings(job: dict[str, str], old: StageStatus | None, new: StageStatus) -> None:
    for attempt in newly_ended(old, new):
        evidence = {"outcome": str(attempt.outcome), "culprit": attempt.pod, "exit_code": attempt.exit_code}
        extra = {**job, "stage": new.name, "attempt": attempt.attempt, **evidence}
        _LOG.info("attempt ended; the stage is %s", new.phase, extra=extra)
