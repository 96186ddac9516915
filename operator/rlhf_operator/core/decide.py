"""What a job needs at this moment. Same inputs, same plan: it may run again at any time, and after a carried-out plan it is empty.

`shell/reconciler.py` calls `decide` with everything it observed, and carries the plan out. Each policy that is named here is one file
beside this one; manifests are in `manifests/`.
"""

from dataclasses import replace
from datetime import datetime

from rlhf_api import names
from rlhf_api.job import RLHFJobSpec
from rlhf_api.status import JobStatus
from rlhf_operator.core import admission, deadlines, events, leftovers, rerun, stages, status
from rlhf_operator.core.model import Delete, Observed, Plan


def decide(observed: Observed, now: datetime) -> Plan:
    """The plan of a job: what to create, the status, what to create and delete after it, and when to look again."""
    now = now.replace(microsecond=0)  # the API's times have whole seconds: ours must survive the round trip
    if observed.is_being_deleted or _belongs_to_another_controller(observed):
        return Plan()
    reopened = rerun.reopen(observed, now)
    if status.is_over(observed.status) and reopened is None:
        return _finished(observed, now)
    current = observed if reopened is None else replace(observed, status=reopened)
    refusal = admission.judge(current)  # a rerun has let go of the profile that the job had
    if observed.spec is None:
        assert refusal is not None
        return _written(observed, Plan(requeue_seconds=refusal.requeue_seconds), status.of_refused(observed, refusal, now), now)
    walked = stages.walk(current, refusal, now)
    new = status.of_job(current, walked, now)
    plan = Plan(before=walked.before, after=walked.after, requeue_seconds=_next_look(walked, new, observed.spec, now))
    return _written(observed, plan, new, now)


def _finished(observed: Observed, now: datetime) -> Plan:
    """A job that is over has no pods any more, and waits for the end of its time to live, if it has one."""
    if observed.spec is None:
        return Plan()
    left = deadlines.deletion_in(observed.status.completion_time, observed.spec.run_policy, now)
    if left is None or left > 0:
        seen = observed.status.model_copy(update={"observed_generation": observed.generation})
        return _written(observed, Plan(after=leftovers.deletes(observed, observed.status), requeue_seconds=left), seen, now)
    return Plan(after=(Delete(names.KIND_JOB, observed.name, observed.uid, "Background"),))


def _written(observed: Observed, plan: Plan, new: JobStatus, now: datetime) -> Plan:
    """The plan with the status, if it is worth a write now; else with a look at the time when it will be."""
    seconds = status.seconds_until_write(observed, new, now)
    if plan.before or plan.after:
        seconds = 0.0 if seconds is not None else None  # status first: an action never runs ahead of it
    if seconds is None:
        return plan
    if seconds > 0:
        return replace(plan, requeue_seconds=seconds if plan.requeue_seconds is None else min(seconds, plan.requeue_seconds))
    return replace(plan, status=new, events=events.between(observed, new))


def _belongs_to_another_controller(observed: Observed) -> bool:
    return observed.spec is not None and observed.spec.managed_by != names.MANAGED_BY_OPERATOR


def _next_look(walked: stages.Walk, new: JobStatus, spec: RLHFJobSpec, now: datetime) -> float | None:
    if status.is_over(new):  # our own write of this brings no event that would wake the end of its time to live
        return deadlines.deletion_in(new.completion_time, spec.run_policy, now)
    looks = list(walked.looks)
    if walked.refusal is not None and walked.refusal.requeue_seconds is not None:
        looks.append(walked.refusal.requeue_seconds)
    return min(looks, default=None)
