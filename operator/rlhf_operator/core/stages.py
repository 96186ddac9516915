"""The life cycle of the stages: which attempt goes on, which stage starts next, and what keeps the others.

Observed objects and the status so far come in; a `Walk` over all stages goes out. Attempts that are open come first (`attempts.py`), so
that a stage that ends now makes room for the next one in the same decision.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from rlhf_api import names
from rlhf_api.status import AttemptStatus, JobStatus, PodCount, StagePhase, StageStatus
from rlhf_operator.core import admission, attempts, failure, leftovers, storage, text
from rlhf_operator.core.admission import Refusal
from rlhf_operator.core.manifests import job as job_manifest
from rlhf_operator.core.manifests import network, snapshot
from rlhf_operator.core.model import Action, Create, Observed, Step, Wait, open_attempt
from rlhf_operator.core.plans import plan_of
from rlhf_operator.core.specs import StageSpec, spec_hash, stages_of

OVER = frozenset({StagePhase.SUCCEEDED, StagePhase.FAILED, StagePhase.SKIPPED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """All stages after this decision, and what they ask for."""

    status: JobStatus
    before: tuple[Action, ...] = ()
    after: tuple[Action, ...] = ()
    waits: tuple[Wait, ...] = ()
    looks: tuple[float, ...] = ()
    refused: Wait | None = None
    """The server does not take something that every attempt needs."""
    refusal: Refusal | None = None
    """A Secret that Prepare or Publish is not permitted to use, or the refusal of the whole job."""

    def stage(self, name: str) -> StageStatus:
        """A stage as it is now."""
        return next(stage for stage in self.status.stages if stage.name == name)

    def take(self, step: Step) -> "Walk":
        """The walk with one stage's step added."""
        found = [step.status if other.name == step.status.name else other for other in self.status.stages]
        status = self.status.model_copy(update={"stages": tuple(found), "gpu_seconds": self.status.gpu_seconds + step.gpu_seconds})
        return replace(
            self,
            status=status,
            before=(*self.before, *step.before),
            after=(*self.after, *step.after),
            waits=(*self.waits, replace(step.wait, stage=step.status.name)) if step.wait else self.waits,
            looks=(*self.looks, step.requeue_seconds) if step.requeue_seconds is not None else self.looks,
        )


def walk(observed: Observed, refusal: Refusal | None, now: datetime) -> Walk:
    """Follow every open attempt, then start what can start."""
    spec = observed.spec
    assert spec is not None
    stages = stages_of(spec)
    walked = Walk(status=_with_every_stage(observed, stages), refusal=refusal)
    if _may_take_hold(observed, walked):
        walked = _take_hold(observed, walked)
    # Those without a Job last: should another stage fail now, they must not start any more.
    for stage in sorted(stages, key=lambda stage: _is_unseen(observed, walked.stage(stage.name))):
        own = walked.stage(stage.name)
        if open_attempt(own) is not None:
            walked = walked.take(attempts.advance(observed, walked.status, stage, own, now, may_create=_may_start(observed, walked)))
    for stage in stages:
        own = walked.stage(stage.name)
        if own.phase not in OVER and open_attempt(own) is None:
            walked = _start_or_wait(observed, walked, stage, own, now)
    walked = _skip_the_rest(walked)
    return replace(walked, after=(*leftovers.deletes(observed, walked.status), *walked.after))  # room first, then what needs it


def needs_pods(status: JobStatus, stage: str, *, is_steady: bool, is_early: bool) -> bool:
    """Whether a decision about a stage's newest attempt may depend on its pods: while it starts, fails or ends, until the next starts.

    `is_steady`: its Job exists, has not ended, and all its pods are ready. `is_early`: it has only just started (`stall.is_early`).
    """
    own = next((other for other in status.stages if other.name == stage), None)
    if own is None or not own.attempt:  # its Job is there before the status speaks of it
        return not is_early
    if own.phase in OVER:
        return False
    return open_attempt(own) is None or not (is_early or (own.phase is StagePhase.RUNNING and is_steady))


def _start_or_wait(observed: Observed, walked: Walk, stage: StageSpec, own: StageStatus, now: datetime) -> Walk:
    """A stage without an open attempt: suspended, waiting for something, or started."""
    spec = observed.spec
    assert spec is not None
    has_old_pods = _has_old_pods(observed, own)
    if spec.suspend:
        phase = own.phase if has_old_pods else StagePhase.SUSPENDED
        return walked.take(Step(status=own.model_copy(update={"phase": phase}), requeue_seconds=5.0 if has_old_pods else None))
    own = _resumed(own)
    if not _is_next(walked, stage) or not _may_start(observed, walked):
        return walked.take(Step(status=own, wait=_refused_wait(observed, walked)))
    lost = storage.lost_claim(observed, walked.status)
    if lost is not None and not has_old_pods:
        return walked.take(Step(status=failure.give_up(own, lost.reason, lost.message, now)))
    wait, look = _obstacle(observed, walked, stage, own, has_old_pods=has_old_pods, now=now)
    if wait is not None:
        return walked.take(Step(status=own, wait=wait, requeue_seconds=look))
    secret = admission.missing_secret(observed, stage) if stage.reaches_outside else None
    if secret is not None:
        return replace(walked.take(Step(status=own)), refusal=secret)
    return _start(observed, walked, stage, own, now)


def _obstacle(
    observed: Observed, walked: Walk, stage: StageSpec, own: StageStatus, *, has_old_pods: bool, now: datetime
) -> tuple[Wait | None, float | None]:
    """What the stage waits for although its inputs are proven, and when to look again."""
    rules = observed.rules
    assert rules is not None
    if walked.refused is not None:
        return walked.refused, 10.0
    volume = storage.wait_for_claim(observed, walked.status)
    if volume is not None:
        return volume, 5.0
    if has_old_pods:
        return Wait(names.CONDITION_STALLED, names.REASON_BACKOFF, "waits for the pods of the attempt before to end"), 5.0
    if not _has_room(observed, walked, stage):
        return Wait("", "", ""), None  # another stage of this job runs: that is no stall
    until = failure.backoff_until(observed.uid, own, rules.retry.backoff_seconds)
    if until is not None and until > now:
        words = f"attempt {own.attempt + 1} starts at {text.clock(until)}"
        return Wait(names.CONDITION_STALLED, names.REASON_BACKOFF, words), (until - now).total_seconds()
    return None, None


def _start(observed: Observed, walked: Walk, stage: StageSpec, own: StageStatus, now: datetime) -> Walk:
    """The next attempt: its number goes into the status, then its Job is created."""
    spec, rules = observed.spec, observed.rules
    assert spec is not None
    assert rules is not None
    outputs = {other.name: other.output.digest for other in walked.status.stages if other.output is not None}
    identity = spec_hash(spec, stage, rules, outputs)
    if own.spec_hash != identity:
        own = forget_work(own)
    number = own.attempt + 1
    attempt = AttemptStatus(attempt=number, job_name=names.attempt_name(observed.name, stage.name, number))
    started = own.model_copy(
        update={
            "phase": StagePhase.QUEUED if job_manifest.queue_of(spec, rules) else StagePhase.STARTING,
            "reason": "",
            "message": "",
            "spec_hash": identity,
            "attempt": number,
            "attempts": (*own.attempts, attempt)[-10:],
            "start_time": own.start_time or now,
            "pods": PodCount(desired=stage.topology.nodes),
            "plan": plan_of(spec, stage, rules).to_status(),
        }
    )
    begun = walked.take(Step(status=started))
    if observed.job_of(stage.name, number) is not None:  # created before the status could say so: it is followed, not created again
        followed = walked.take(attempts.advance(observed, begun.status, stage, started, now, may_create=False))
        has_ended = open_attempt(followed.stage(stage.name)) is None
        return replace(followed, looks=(*followed.looks, 0.0)) if has_ended else followed
    create = Create("Job", job_manifest.job(observed, stage, begun.status))
    return begun.take(Step(status=started, after=(create,), wait=attempts.refused(observed, create), requeue_seconds=10.0))


def forget_work(own: StageStatus) -> StageStatus:
    """The stage without a past: its checkpoints were written for other work. The number of its attempts goes on."""
    return own.model_copy(update={"attempts": (), "checkpoint": None, "progress": None, "metrics": (), "start_time": None})


def _with_every_stage(observed: Observed, stages: tuple[StageSpec, ...]) -> JobStatus:
    known = {status.name: status for status in observed.status.stages}
    found = tuple(known.get(stage.name) or StageStatus(name=stage.name, type=stage.type) for stage in stages)
    return observed.status.model_copy(update={"stages": found})


def _may_take_hold(observed: Observed, walked: Walk) -> bool:
    """The job may have its volume, profile snapshot and network policy: it is about to start something."""
    spec = observed.spec
    assert spec is not None
    return _may_start(observed, walked) and not spec.suspend


def _take_hold(observed: Observed, walked: Walk) -> Walk:
    """What every attempt of the job needs, created before the status speaks of it; after it, once the status has to say that the server
    did not take it."""
    rules = observed.rules
    assert rules is not None
    before: list[Create] = []
    update: dict[str, object] = {"volume": storage.volume_status(observed)}
    if observed.status.profile is None and observed.profile is not None:
        update["profile"] = snapshot.profile_status(observed, observed.profile)
        before.append(Create("ControllerRevision", snapshot.snapshot(observed, observed.profile)))
        if rules.network_policy == "Isolate":
            before.append(Create("NetworkPolicy", network.network_policy(observed)))
    claim = storage.missing_claim(observed, walked.status)
    if claim is not None:
        before.append(claim)
    for create in before:
        refused = attempts.refused(observed, create)
        if refused is not None:
            return replace(walked, after=(create,), refused=refused)
    return replace(walked, status=walked.status.model_copy(update=update), before=tuple(before))


def _is_unseen(observed: Observed, own: StageStatus) -> bool:
    attempt = open_attempt(own)
    return attempt is not None and attempts.is_unseen(observed, attempt) and observed.job_of(own.name, attempt.attempt) is None


def _may_start(observed: Observed, walked: Walk) -> bool:
    """New attempts are allowed: the job is accepted, has a slot, and no stage has failed."""
    has_failed = any(stage.phase is StagePhase.FAILED for stage in walked.status.stages)
    return walked.refusal is None and _has_slot(observed, walked) and not has_failed


def _has_slot(observed: Observed, walked: Walk) -> bool:
    """The job counts as running already, or may begin to. One that was suspended or run again has given its slot back."""
    return observed.has_slot or any(map(open_attempt, walked.status.stages))


def _refused_wait(observed: Observed, walked: Walk) -> Wait | None:
    """A job that waits for its namespace says so; once, on the first stage that could start."""
    if _has_slot(observed, walked) or walked.refusal is not None or walked.waits:
        return None
    return Wait(names.CONDITION_QUOTA_RESERVED, names.REASON_CONCURRENCY_LIMIT, "the namespace runs as many jobs as the profile allows")


def _is_next(walked: Walk, stage: StageSpec) -> bool:
    """Everything that the stage needs has Succeeded."""
    return all(walked.stage(name).phase is StagePhase.SUCCEEDED for name in stage.needs)


def _has_room(observed: Observed, walked: Walk, stage: StageSpec) -> bool:
    """The stage may run beside those that hold an attempt now: `maxParallelStages`, and the GPUs of the profile."""
    spec, rules = observed.spec, observed.rules
    assert spec is not None
    assert rules is not None
    holding = [other for other in stages_of(spec) if open_attempt(walked.stage(other.name)) is not None]
    if len(holding) >= spec.run_policy.max_parallel_stages:
        return False
    return sum(other.topology.num_gpus for other in (*holding, stage)) <= max(rules.limits.max_gpus, stage.topology.num_gpus)


def _has_old_pods(observed: Observed, own: StageStatus) -> bool:
    """A pod of the newest ended attempt may still run. Unknown counts as yes: two gangs must never meet."""
    if own.attempt == 0:
        return False
    if names.attempt_name(observed.name, own.name, own.attempt) not in observed.listed:
        return True
    return any(not pod.is_over and not pod.is_node_gone for pod in observed.pods_of(own.name, own.attempt))


def _resumed(own: StageStatus) -> StageStatus:
    """After a suspension: what had started goes on with the next attempt, the rest is Pending."""
    if own.phase is not StagePhase.SUSPENDED:
        return own
    return own.model_copy(update={"phase": StagePhase.RESTARTING if own.attempt else StagePhase.PENDING})


def _skip_the_rest(walked: Walk) -> Walk:
    """When a stage has failed and the last open attempt is over, what has not finished never will."""
    status = walked.status
    if not any(stage.phase is StagePhase.FAILED for stage in status.stages) or any(map(open_attempt, status.stages)):
        return walked
    skipped = [stage if stage.phase in OVER else stage.model_copy(update={"phase": StagePhase.SKIPPED}) for stage in status.stages]
    return replace(walked, status=status.model_copy(update={"stages": tuple(skipped)}), waits=(), looks=())
