"""observe → decide → apply_status → apply: one round for one job, the same in a cluster and in `rlhf run`.

A key comes in, the seconds until the next look go out. Errors of the API become a pace here (operator.md section 1); what a user
must see of them becomes an `ApplyError` that the next decision reads.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from rlhf_api import names
from rlhf_api.status import JobStatus, StagePhase
from rlhf_operator.core.decide import decide
from rlhf_operator.core.manifests.job import compare
from rlhf_operator.core.model import Action, ApplyError, Create, EventRecord, Observed, Plan, Reading, Settings
from rlhf_operator.core.status import holds_slot, is_over
from rlhf_operator.shell.decision_log import tell
from rlhf_operator.shell.kube import AlreadyExists, ApiError, Conflict, Forbidden, Invalid, KubeApi, NotFound, Throttled
from rlhf_operator.shell.observe import Soft, Target, observe

_LOG = logging.getLogger(__name__)
Key = tuple[str, str]
"""Namespace and name of an RLHFJob."""

_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.5, 60.0
_CONFLICTS_IN_A_ROW = 5
FIRST_STATUS_SECONDS = 2.0
"""When the first status is written if no event of the new Job comes before."""
_REFUSED_SECONDS: Mapping[str, tuple[float, float]] = {
    names.REASON_QUOTA_EXCEEDED: (15.0, 60.0),
    names.REASON_API_REJECTED: (60.0, 300.0),
    names.REASON_NAME_CONFLICT: (60.0, 60.0),
}


class Recorder(Protocol):
    """Sends events, best effort: it never raises and never delays a reconcile for long."""

    async def record(self, namespace: str, name: str, uid: str, events: Sequence[EventRecord]) -> None:
        """Send the events of one decision."""
        ...


class Reconciler:
    """Carries out decisions. Holds soft state per key only; one round at a time per key is the caller's promise.

    Args:
        crash_here: called with the name of each point between two writes; tests end the process there.
        on_status: told of every status that was written, with what it was decided from.
        on_first_job: told when the first Job of a job was created.
        jitter: factor on the pace after errors of the API; many keys that failed together must not come back together.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        clock: Callable[[], datetime],
        recorder: Recorder,
        settings: Settings | None = None,
        crash_here: Callable[[str], None] = lambda point: None,
        on_status: Callable[[Observed, JobStatus], None] = lambda observed, status: None,
        on_first_job: Callable[[Observed], None] = lambda observed: None,
        jitter: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._api = api
        self._clock = clock
        self._recorder = recorder
        self._settings = settings or Settings()
        self._crash_here = crash_here
        self._on_status = on_status
        self._on_first_job = on_first_job
        self._jitter = jitter
        self._soft: dict[Key, Soft] = {}

    async def reconcile(self, key: Key) -> float | None:
        """One round. Returns the seconds until the next look, 0 for at once, None when an event or the resync will come.

        Raises:
            Exception: a defect of our own, which the caller logs and retries. Errors of the API are handled here.
        """
        soft = self._soft.setdefault(key, Soft())
        try:
            observed = await observe(self._api, *key, soft, self._settings, self._clock())
        except NotFound:
            self._soft.pop(key, None)
            return None
        except ApiError as error:
            return self._paced(soft, error)
        self._crash_here("observed")
        plan = decide(observed, self._clock())
        try:
            await self._carry_out(observed, plan, soft)
        except _Refused as refused:
            return _pace_of_refusal(soft, refused.error)
        except ApiError as error:
            return self._paced(soft, error)
        soft.num_failures = 0
        is_first = _is_first_start(observed, plan, soft)
        _remember(soft, plan.status or observed.status, plan)
        if observed.apply_error is not None and soft.apply_error is None:
            return 0.0  # what was refused is there now: the status must not say otherwise, and what waited for it may start
        return FIRST_STATUS_SECONDS if is_first else plan.requeue_seconds

    def report_progress(self, key: Key, stage: str, reading: Reading | None) -> None:
        """Keep the newest answer of a stage's pod 0 for the next round; None when there is none any more."""
        readings = self._soft.setdefault(key, Soft()).readings
        if reading is None:
            readings.pop(stage, None)
        else:
            readings[stage] = reading

    def set_slot(self, key: Key, *, has_slot: bool) -> None:
        """Whether the job's namespace has room for one more running job."""
        self._soft.setdefault(key, Soft()).has_slot = has_slot

    def is_running(self, key: Key) -> bool:
        """Whether the job counts towards the limit of its namespace, as the last round that went well left it."""
        return key in self._soft and self._soft[key].is_running

    def knows(self, key: Key) -> bool:
        """False for a job that does not exist, as the last round found."""
        return key in self._soft

    def has_failed(self, key: Key) -> bool:
        """Whether the last round of the job met an error of the API, so that the next one is a repetition."""
        return key in self._soft and self._soft[key].num_failures > 0

    def targets(self) -> Iterator[Target]:
        """Where the progress of every running attempt can be asked for."""
        for soft in self._soft.values():
            yield from (target for stage, target in soft.targets.items() if stage in soft.running)

    async def _carry_out(self, observed: Observed, plan: Plan, soft: Soft) -> None:
        is_first = _is_first_start(observed, plan, soft)
        for action in plan.before:
            await self._apply_once(observed, action, soft)
        self._crash_here("before")
        if plan.status is not None and not is_first:
            await self._write_status(observed, plan)
            soft.created.clear()
            soft.is_running = holds_slot(plan.status)  # whatever becomes of the actions
        self._crash_here("status")
        refused = await self._apply_after(observed, plan, soft)
        if refused is None and any(isinstance(action, Create) for action in (*plan.before, *plan.after)):
            soft.apply_error = None  # what was refused before is there now
        self._crash_here("after")
        if is_first and refused is None:
            self._on_first_job(observed)
        if plan.events and not is_first:  # also after a refusal: the status that they tell of is written
            tell(observed, plan)
            await self._recorder.record(observed.namespace, observed.name, observed.uid, plan.events)
        if refused is not None:
            raise refused

    async def _apply_after(self, observed: Observed, plan: Plan, soft: Soft) -> "_Refused | None":
        """What comes after the status, and the first refusal. One attempt that is refused does not keep the others from their Jobs."""
        first: _Refused | None = None
        for action in plan.after:
            try:
                await self._apply(observed, action, soft)
            except _Refused as refused:
                first = first or refused
                if not _concerns_one_attempt(refused.error):
                    return first
            self._crash_here("action")
        return first

    async def _apply_once(self, observed: Observed, action: Action, soft: Soft) -> None:
        """Until the status says that the job has taken hold, every decision asks for the same objects."""
        if (action.kind, action.name) in soft.created:
            return
        await self._apply(observed, action, soft)
        soft.created.add((action.kind, action.name))
        if action.kind == "ControllerRevision" and observed.profile is not None:
            soft.taken = observed.profile
            soft.snapshots[action.name] = observed.profile.spec

    async def _write_status(self, observed: Observed, plan: Plan) -> None:
        assert plan.status is not None
        await self._api.apply_status(
            names.KIND_JOB,
            observed.namespace,
            observed.name,
            plan.status.to_wire(),
            uid=observed.uid,
            resource_version=observed.resource_version,
        )
        self._on_status(observed, plan.status)

    def _paced(self, soft: Soft, error: ApiError) -> float | None:
        seconds = _pace(soft, error)
        return None if seconds is None else seconds * self._jitter()

    async def _apply(self, observed: Observed, action: Action, soft: Soft) -> None:
        if isinstance(action, Create):
            await self._create(observed, action, soft)
            return
        try:
            await self._api.delete(action.kind, observed.namespace, action.name, uid=action.uid, propagation=action.propagation)
        except (NotFound, Conflict):
            return  # gone already, or another object of that name, which is not ours to delete

    async def _create(self, observed: Observed, action: Create, soft: Soft) -> None:
        try:
            created = await self._api.create(action.kind, observed.namespace, action.body)
            if action.kind == "Job":
                soft.made_uids[action.name] = created["metadata"]["uid"]
        except AlreadyExists:
            await self._check_existing(observed, action)
        except Forbidden as error:
            if error.is_terminating:
                raise
            reason = names.REASON_QUOTA_EXCEEDED if error.is_quota else names.REASON_API_REJECTED
            raise _Refused(ApplyError(reason, error.message, action.kind, action.name)) from error
        except Invalid as error:
            raise _Refused(ApplyError(names.REASON_API_REJECTED, error.message, action.kind, action.name)) from error

    async def _check_existing(self, observed: Observed, action: Create) -> None:
        """Ours and equal: go on. Ours from another manifest: the next look ends that attempt. Foreign: a conflict, and hands off."""
        existing = await self._api.get(action.kind, observed.namespace, action.name)
        if compare(action.body, existing) == "foreign":
            message = f"{action.kind} {action.name} exists and does not belong to this job: rename the job, or delete that object"
            raise _Refused(ApplyError(names.REASON_NAME_CONFLICT, message, action.kind, action.name))


class _Refused(Exception):
    """The server did not take an object, for a reason that a user should read."""

    def __init__(self, error: ApplyError) -> None:
        super().__init__(error.message)
        self.error = error


def _concerns_one_attempt(error: ApplyError) -> bool:
    """Only the Job or Service of one attempt is missing. Without anything else, and beside a foreign Job, no attempt may start."""
    return error.kind in ("Job", "Service") and not error.is_conflict_of_the_job


def _is_first_start(observed: Observed, plan: Plan, soft: Soft) -> bool:
    """The job's very first attempt. Its status can wait for the Job's own event: an empty status means r1, so a crash repeats the same
    create, and one write says what would else take two."""
    is_untouched = not soft.has_begun and soft.apply_error is None and not any(stage.attempt for stage in observed.status.stages)
    return is_untouched and bool(plan.after) and all(isinstance(action, Create) and action.kind == "Job" for action in plan.after)


def _remember(soft: Soft, status: JobStatus, plan: Plan) -> None:
    """What the process keeps of a round that went well."""
    starts = any(isinstance(action, Create) and action.kind == "Job" for action in plan.after)
    soft.has_begun = starts or any(stage.attempt for stage in status.stages)
    soft.is_running = starts or holds_slot(status)
    if is_over(status):
        soft.forget_contents()
    soft.running = frozenset(stage.name for stage in status.stages if stage.phase is StagePhase.RUNNING)


def _pace_of_refusal(soft: Soft, error: ApplyError) -> float:
    """At once when the reason is new, so that the status says it; then ever more slowly.

    Other words alone are not new: a webhook that puts the id of each request into them would never be left in peace.
    """
    known = soft.apply_error
    is_new = known is None or (known.reason, known.kind, known.name) != (error.reason, error.kind, error.name)
    soft.apply_error = error
    soft.num_failures = 0 if is_new else soft.num_failures + 1
    first, longest = _REFUSED_SECONDS[error.reason]
    return 0.0 if is_new else min(first * 2.0 ** (soft.num_failures - 1), longest)


def _pace(soft: Soft, error: ApiError) -> float | None:
    """When to try again after an error that says nothing about the job."""
    soft.num_failures += 1
    if isinstance(error, Throttled):
        return error.retry_after_seconds or 1.0
    if isinstance(error, Conflict) and soft.num_failures <= _CONFLICTS_IN_A_ROW:
        return 0.0
    if isinstance(error, Forbidden) and error.is_terminating:
        return None
    _LOG.warning("the API server answered %s: %s", error.code, error.message)
    return min(_FIRST_RETRY_SECONDS * 2.0 ** (soft.num_failures - 1), _LONGEST_RETRY_SECONDS)
