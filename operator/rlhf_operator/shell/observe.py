"""Reads: everything a decision about one job needs, as few requests as possible. `KubeApi` and soft state in, an `Observed` out.

A 404 is an answer; every other error aborts the reconcile, because nothing is decided from missing data.
"""

import json
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import lru_cache

from rlhf_api import names
from rlhf_api.base import canonical_json, digest
from rlhf_api.job import RLHFJobSpec
from rlhf_api.problems import Problem
from rlhf_api.profile import ProfileSpec
from rlhf_api.status import StagePhase
from rlhf_api.validate import find_unsupported, read_job
from rlhf_operator.core import attempts, live, rerun, stages, stall
from rlhf_operator.core.live import LiveClaim, LiveJob, LivePod
from rlhf_operator.core.manifests import volume
from rlhf_operator.core.model import ApplyError, Observed, ProfileObject, Reading, Settings, open_attempt
from rlhf_operator.core.specs import StageSpec, secrets_of, stages_of
from rlhf_operator.shell import reads, stored_status
from rlhf_operator.shell.kube import Forbidden, KubeApi, Object


@dataclass(frozen=True, slots=True)
class Target:
    """Where the progress of an attempt can be asked for: its pod 0."""

    key: tuple[str, str]
    job_uid: str
    stage: str
    attempt: int
    address: str
    port: int

    @property
    def url(self) -> str:
        """Address of the progress document."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}/progress"


@dataclass(slots=True)
class Soft:
    """What this process knows of a job besides its objects. All of it may be lost without harm."""

    uid: str = ""
    apply_error: ApplyError | None = None
    num_failures: int = 0
    seen_uids: dict[str, str] = field(default_factory=dict)
    made_uids: dict[str, str] = field(default_factory=dict)
    """Uids with which the creates of Jobs were answered, while the spec is the one that they were made from."""
    readings: dict[str, Reading] = field(default_factory=dict)
    snapshots: dict[str, ProfileSpec] = field(default_factory=dict)
    parsed: tuple[int, RLHFJobSpec | None, tuple[Problem, ...]] | None = None
    """The spec of a generation, or its problems."""
    has_slot: bool = True
    has_begun: bool = False
    """A stage has an attempt, or its first Job was created."""
    is_running: bool = False
    """It counts towards the limit of its namespace."""
    taken: ProfileObject | None = None
    """The profile whose snapshot this process created, until the status says so."""
    claim: LiveClaim | None = None
    """The bound claim that the newest round found."""
    created: set[tuple[str, str]] = field(default_factory=set)
    """Kind and name of what was created before the first status: it need not be created twice."""
    targets: dict[str, Target] = field(default_factory=dict)
    """Pods 0 of open attempts, by stage."""
    running: frozenset[str] = frozenset()
    """Stages whose attempt runs."""
    running_since: dict[str, datetime] = field(default_factory=dict)
    """When this process first knew that an attempt runs, by the name of its Job."""

    def belong_to(self, uid: str) -> None:
        """Keep nothing of a deleted job when another one of its name was created before anybody looked."""
        if self.uid not in ("", uid):
            fresh = Soft(has_slot=self.has_slot)
            for known in fields(self):
                setattr(self, known.name, getattr(fresh, known.name))
        self.uid = uid

    def forget_contents(self) -> None:
        """The job is over: what it was made of is read again should somebody run it again."""
        self.parsed, self.taken, self.claim = None, None, None
        self.made_uids.clear()
        self.snapshots.clear()
        self.readings.clear()


async def observe(api: KubeApi, namespace: str, name: str, soft: Soft, settings: Settings, now: datetime) -> Observed:
    """Everything about a job, as it is now.

    Raises:
        NotFound: there is no such job.
        ApiError: a read failed; nothing may be decided.
        stored_status.UnreadableStatus: nothing may be decided either.
    """
    body = await api.get(names.KIND_JOB, namespace, name)
    soft.belong_to(body["metadata"]["uid"])
    observed = _of_job(body, soft, settings)
    if observed.is_being_deleted or observed.spec is None:
        return observed
    jobs = await _jobs(api, observed, soft)
    soft.seen_uids.update({job.name: job.uid for job in jobs if job.owner_uid == observed.uid})
    observed = replace(observed, jobs=jobs, seen_uids=dict(soft.seen_uids), claim=await _claim(api, observed, soft))
    observed = await _with_profile(api, observed, soft)
    observed = await _with_pods(api, observed, soft, now)
    _note_targets(observed, soft)
    observed = await reads.with_warnings(api, observed, now)
    if observed.rules is not None:
        # As `decide` will see it: a stage that a rerun reopens may start in this very round.
        reopened = replace(observed, status=rerun.reopen(observed, now) or observed.status)
        observed = replace(observed, secrets=await _secrets(api, reopened), services=await _services(api, observed))
    soft.running_since = _running_since(observed, soft, now)
    observed = replace(observed, running_since=soft.running_since)
    soft.apply_error = await _standing_error(api, observed, soft.apply_error)
    return replace(observed, apply_error=soft.apply_error)


def _of_job(body: Object, soft: Soft, settings: Settings) -> Observed:
    metadata = body["metadata"]
    uid, generation = metadata["uid"], int(metadata["generation"])
    if soft.parsed is None or soft.parsed[0] != generation:
        soft.parsed = (generation, *_parse(body))
        soft.made_uids.clear()
    return Observed(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=uid,
        generation=generation,
        resource_version=metadata["resourceVersion"],
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        is_being_deleted="deletionTimestamp" in metadata,
        spec=soft.parsed[1],
        problems=soft.parsed[2],
        status=stored_status.read(body),
        settings=settings,
        made_uids=dict(soft.made_uids),
        progress=dict(soft.readings),
        has_slot=soft.has_slot,
    )


def _parse(body: Object) -> tuple[RLHFJobSpec | None, tuple[Problem, ...]]:
    wire = {key: value for key, value in body.items() if key != "status"}
    job, problems = read_job(wire)
    return (None, tuple(problems)) if job is None else (job.spec, tuple(find_unsupported(job)))


async def _jobs(api: KubeApi, observed: Observed, soft: Soft) -> tuple[LiveJob, ...]:
    """The attempts' Jobs. Before the first one nothing is listed: should it be there already, its create will say so."""
    if not soft.has_begun and not any(stage.attempt for stage in observed.status.stages):
        return ()
    listed = await api.list("Job", observed.namespace, selector=f"{names.LABEL_JOB_UID}={observed.uid}")
    return tuple(live.read_job(item) for item in listed.items)


async def _claim(api: KubeApi, observed: Observed, soft: Soft) -> LiveClaim | None:
    """The volume. Between the first Job and the first status it is the one on which the Job was started, moments ago."""
    if soft.claim is not None and soft.has_begun and not observed.status.stages:
        return soft.claim
    soft.claim = None
    body = await reads.find(api, "PersistentVolumeClaim", observed.namespace, volume.claim_name(observed))
    if body is None:
        return None
    claim = live.read_claim(body)
    storage_class = body.get("spec", {}).get("storageClassName")
    if claim.phase == "Bound":
        soft.claim = claim
        return claim
    if not storage_class:
        return claim
    try:
        found = await reads.find(api, "StorageClass", "", storage_class)
    except Forbidden:
        found = None  # optional right: then the first pod shows whether the claim binds
    if found is None or found.get("volumeBindingMode") != "Immediate":
        return claim
    return replace(claim, binds_immediately=True, event=await reads.newest_warning(api, observed.namespace, body["metadata"]["uid"]))


async def _with_profile(api: KubeApi, observed: Observed, soft: Soft) -> Observed:
    """The snapshot of the job; the live profile only when a snapshot must be taken."""
    spec, known = observed.spec, observed.status.profile
    assert spec is not None
    if known is not None and known.revision and not rerun.has_new_token(spec, observed.status):
        if known.revision not in soft.snapshots:
            body = await reads.find(api, "ControllerRevision", observed.namespace, known.revision)
            if body is not None and digest(canonical_json(body.get("data", {}))) == known.hash:
                soft.snapshots[known.revision] = _rules(canonical_json(body["data"]))
        return replace(observed, snapshot=soft.snapshots.get(known.revision))
    if known is None and soft.taken is not None and not observed.status.stages:
        return replace(observed, profile=soft.taken)
    body = await reads.find(api, names.KIND_PROFILE, "", spec.profile)
    if body is None:
        others = await api.list(names.KIND_PROFILE, "")
        return replace(observed, profile_names=tuple(item["metadata"]["name"] for item in others.items))
    metadata, rules = body["metadata"], _rules(canonical_json(body["spec"]))
    profile = ProfileObject(name=metadata["name"], uid=metadata["uid"], generation=int(metadata["generation"]), spec=rules)
    labels = await reads.namespace_labels(api, observed.namespace) if rules.allowed_namespaces else None
    return replace(observed, profile=profile, namespace_labels=labels)


@lru_cache(maxsize=256)
def _rules(content: bytes) -> ProfileSpec:
    """The profile in canonical JSON. Equal contents are one object: it is kept once for all jobs, and so is what was computed from it."""
    return ProfileSpec.from_wire(json.loads(content))


async def _with_pods(api: KubeApi, observed: Observed, soft: Soft, now: datetime) -> Observed:
    """Pods of the attempts that a decision may turn on."""
    spec = observed.spec
    assert spec is not None
    is_reopening = rerun.has_new_token(spec, observed.status)
    pods: list[LivePod] = []
    listed: set[str] = set()
    told = {status.name: status.attempt for status in observed.status.stages if status.attempt}
    untold = {job.stage: job.attempt for job in observed.jobs if job.stage not in told and job.owner_uid == observed.uid}
    num_nodes = {stage.name: stage.topology.nodes for stage in stages_of(spec)}
    for stage, attempt in {**told, **untold}.items():
        job = observed.job_of(stage, attempt)
        target = soft.targets.get(stage)
        is_known = target is not None and target.attempt == attempt
        is_steady = job is not None and is_known and _is_steady(job, num_nodes.get(stage, 1))
        is_early = job is not None and stall.is_early(job, num_nodes.get(stage, 1), now)
        if is_reopening or stages.needs_pods(observed.status, stage, is_steady=is_steady, is_early=is_early):
            selector = f"{names.LABEL_JOB_UID}={observed.uid},{names.LABEL_STAGE}={stage},{names.LABEL_ATTEMPT}={attempt}"
            page = await api.list("Pod", observed.namespace, selector=selector, limit=2000)
            pods += [await reads.with_node(api, live.read_pod(item), now) for item in page.items]
            listed.add(names.attempt_name(observed.name, stage, attempt))
    return replace(observed, pods=tuple(pods), listed=frozenset(listed))


def _note_targets(observed: Observed, soft: Soft) -> None:
    """Remember where pod 0 of each open attempt is; what a pod of another Job says is nobody's progress."""
    for pod in observed.pods:
        job = observed.job_of(pod.stage, pod.attempt)
        if pod.index == 0 and pod.address and job is not None and pod.owner_uid == job.uid:
            key = (observed.namespace, observed.name)
            soft.targets[pod.stage] = Target(key, observed.uid, pod.stage, pod.attempt, pod.address, pod.progress_port)
    current = {stage.name: stage.attempt for stage in observed.status.stages if open_attempt(stage) is not None}
    soft.targets = {stage: target for stage, target in soft.targets.items() if current.get(stage) == target.attempt}


def _running_since(observed: Observed, soft: Soft, now: datetime) -> dict[str, datetime]:
    """By the name of its Job: since when this process has known each attempt that runs, or does from this round on."""
    spec = observed.spec
    assert spec is not None
    known = {stage.name: stage for stage in stages_of(spec)}
    open_jobs = [job for job in observed.jobs if not job.has_ended and job.stage in known]
    running = [job.name for job in open_jobs if attempts.has_gathered(observed, known[job.stage], observed.stage_status(job.stage), job)]
    return {name: soft.running_since.get(name, now) for name in running}


def _is_steady(job: LiveJob, num_nodes: int) -> bool:
    return not job.has_ended and not job.is_suspended and job.num_ready >= num_nodes


async def _secrets(api: KubeApi, observed: Observed) -> dict[str, bool]:
    """Consent of the Secrets that a stage about to start would mount."""
    spec, rules = observed.spec, observed.rules
    assert spec is not None
    assert rules is not None
    waiting = [stage for stage in stages_of(spec) if stage.reaches_outside and _may_start_soon(observed, stage)]
    wanted = {name for stage in waiting for name in secrets_of(spec, stage, rules)}
    return {name: await reads.is_permitted(api, observed.namespace, name) for name in sorted(wanted)}


def _may_start_soon(observed: Observed, stage: StageSpec) -> bool:
    status = observed.stage_status(stage.name)
    if status is None:
        return not stage.needs
    done = {other.name for other in observed.status.stages if other.phase is StagePhase.SUCCEEDED or open_attempt(other) is not None}
    return status.phase not in stages.OVER and stage.needs <= done


async def _services(api: KubeApi, observed: Observed) -> frozenset[str]:
    """Services that belong to gangs that are starting. A foreign one of that name is as good as none: the create will tell."""
    spec = observed.spec
    assert spec is not None
    gangs = {stage.name for stage in stages_of(spec) if stage.topology.nodes > 1}
    found = set()
    for status in observed.status.stages:
        job = observed.job_of(status.name, status.attempt)
        if job is not None and status.name in gangs and status.phase in (StagePhase.QUEUED, StagePhase.STARTING):
            service = await reads.find(api, "Service", observed.namespace, job.name)
            owners = service["metadata"].get("ownerReferences", []) if service else []
            found |= {job.name} if any(owner["uid"] == job.uid for owner in owners) else set()
    return frozenset(found)


async def _standing_error(api: KubeApi, observed: Observed, error: ApplyError | None) -> ApplyError | None:
    """A conflict lasts as long as the foreign object does."""
    if error is None or error.reason != names.REASON_NAME_CONFLICT:
        return error
    return error if await reads.find(api, error.kind, observed.namespace, error.name) is not None else None
