"""Live objects as far as decisions need them: the JSON of the API server in, frozen values out. Unknown fields are never an error."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from rlhf_api import names

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveJob:
    """A batch/v1 Job."""

    name: str
    uid: str
    stage: str
    attempt: int
    owner_uid: str = ""
    is_being_deleted: bool = False
    is_suspended: bool = False
    created: datetime
    started: datetime | None = None
    completed: datetime | None = None
    num_ready: int = 0
    num_active: int = 0
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Reasons of the conditions that are True, by type."""
    warning: str = ""
    """Its newest Warning event, looked up when its pods are missing."""
    body: Json = field(default_factory=dict, compare=False)
    """The whole object, to compare with the manifest."""

    @property
    def is_complete(self) -> bool:
        """Every index succeeded."""
        return "Complete" in self.conditions

    @property
    def failure(self) -> str | None:
        """Reason of the failure, known as soon as it is certain and before the last pod ended; None while there is none."""
        return self.conditions.get("Failed", self.conditions.get("FailureTarget"))

    @property
    def has_ended(self) -> bool:
        """It is complete, or its failure is certain: no pod of it goes on by itself."""
        return self.is_complete or self.failure is not None

    @property
    def was_suspended(self) -> bool:
        """The queue took its pods away."""
        return self.is_suspended and "Suspended" in self.conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePod:
    """A pod of an attempt."""

    name: str
    uid: str
    stage: str
    attempt: int
    index: int
    owner_uid: str = ""
    node: str = ""
    address: str = ""
    progress_port: int = names.PROGRESS_PORT
    is_ready: bool = False
    placed: datetime | None = None
    """When a node was found for it."""
    unschedulable: str = ""
    """The scheduler's words, while there is no node."""
    created: datetime | None = None
    deleted: datetime | None = None
    """When somebody asked for its deletion: the API's deletionTimestamp less the grace period."""
    gone_by: datetime | None = None
    """When a deleted pod should be gone: the API's deletionTimestamp."""
    disruption: str = ""
    """Reason of DisruptionTarget: the platform ended it."""
    disrupted: datetime | None = None
    """Since when it has that condition, if that is known."""
    reason: str = ""
    """Why the whole pod failed, when that is not its containers' doing: UnexpectedAdmissionError, Evicted."""
    waiting: str = ""
    waiting_message: str = ""
    exit_code: int | None = None
    is_out_of_memory: bool = False
    finished: datetime | None = None
    message: str = ""
    """The termination message, as the pod wrote it."""
    warning: str = ""
    """Its newest Warning event, looked up when it does not become ready."""
    is_node_gone: bool = False
    """Its node is not Ready, or cannot be read: the pod may never be reported ended."""

    @property
    def is_over(self) -> bool:
        """Its processes have ended."""
        return self.exit_code is not None or self.finished is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveClaim:
    """A PersistentVolumeClaim."""

    name: str
    phase: str
    job_uid: str = ""
    is_being_deleted: bool = False
    access_modes: tuple[str, ...] = ()
    binds_immediately: bool = False
    """Its class is known to bind without waiting for a pod."""
    event: str = ""
    """Newest Warning event."""


def read_job(body: Json) -> LiveJob:
    """A Job from its JSON."""
    metadata, spec, status = body["metadata"], body.get("spec", {}), body.get("status", {})
    return LiveJob(
        name=metadata["name"],
        uid=metadata["uid"],
        stage=_label(metadata, names.LABEL_STAGE),
        attempt=_number(_label(metadata, names.LABEL_ATTEMPT)),
        owner_uid=_controller(metadata),
        is_being_deleted="deletionTimestamp" in metadata,
        is_suspended=bool(spec.get("suspend")),
        created=_required_time(metadata["creationTimestamp"]),
        started=read_time(status.get("startTime")),
        completed=read_time(status.get("completionTime")),
        num_ready=int(status.get("ready") or 0),
        num_active=int(status.get("active") or 0),
        conditions={name: str(condition.get("reason", "")) for name, condition in _true_conditions(status).items()},
        body=body,
    )


def read_pod(body: Json) -> LivePod:
    """A pod from its JSON."""
    metadata, status = body["metadata"], body.get("status", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
    scheduled = conditions.get("PodScheduled", {})
    container: Json = next((c for c in status.get("containerStatuses", []) if c.get("name") == names.CONTAINER), {})
    state = container.get("state", {})
    ended, waiting = state.get("terminated", {}), state.get("waiting", {})
    is_over = status.get("phase") in ("Succeeded", "Failed")
    target = _true_conditions(status).get("DisruptionTarget", {})
    disrupted = read_time(target.get("lastTransitionTime"))
    return LivePod(
        name=metadata["name"],
        uid=metadata["uid"],
        stage=_label(metadata, names.LABEL_STAGE),
        attempt=_number(_label(metadata, names.LABEL_ATTEMPT)),
        index=_number(_label(metadata, names.LABEL_COMPLETION_INDEX)),
        owner_uid=_controller(metadata),
        node=str(body.get("spec", {}).get("nodeName", "")),
        address=str(status.get("podIP", "")),
        progress_port=_progress_port(body),
        is_ready=conditions.get("Ready", {}).get("status") == "True",
        placed=read_time(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None,
        unschedulable=str(scheduled.get("message", "")) if scheduled.get("status") == "False" else "",
        created=read_time(metadata.get("creationTimestamp")),
        deleted=_deletion_start(metadata),
        gone_by=read_time(metadata.get("deletionTimestamp")),
        disruption=str(target.get("reason", "")),
        disrupted=disrupted,
        reason=str(status.get("reason", "")),
        waiting=str(waiting.get("reason", "")),
        waiting_message=str(waiting.get("message", "")),
        exit_code=ended.get("exitCode"),
        is_out_of_memory=ended.get("reason") == "OOMKilled",
        finished=read_time(ended.get("finishedAt")) or (disrupted or _required_time(metadata["creationTimestamp"]) if is_over else None),
        message=str(ended.get("message", "")),
    )


def read_claim(body: Json, *, binds_immediately: bool = False, event: str = "") -> LiveClaim:
    """A claim from its JSON, with what was learnt about it elsewhere."""
    metadata = body["metadata"]
    return LiveClaim(
        name=metadata["name"],
        phase=str(body.get("status", {}).get("phase", "Pending")),
        job_uid=_label(metadata, names.LABEL_JOB_UID),
        is_being_deleted="deletionTimestamp" in metadata,
        access_modes=tuple(body.get("spec", {}).get("accessModes", ())),
        binds_immediately=binds_immediately,
        event=event,
    )


def read_time(text: object) -> datetime | None:
    """A time of the API server; None when there is none."""
    return datetime.fromisoformat(text).astimezone(UTC) if isinstance(text, str) and text else None


def _required_time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _label(metadata: Json, label: str) -> str:
    return str(metadata.get("labels", {}).get(label, ""))


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _controller(metadata: Json) -> str:
    return next((str(owner["uid"]) for owner in metadata.get("ownerReferences", []) if owner.get("controller")), "")


def _true_conditions(status: Json) -> dict[str, Json]:
    return {condition["type"]: condition for condition in status.get("conditions", []) if condition.get("status") == "True"}


def _progress_port(body: Json) -> int:
    containers = body.get("spec", {}).get("containers", [])
    ports = [port for container in containers for port in container.get("ports", [])]
    return next((int(port["containerPort"]) for port in ports if port.get("name") == names.PORT_PROGRESS), names.PROGRESS_PORT)


def _deletion_start(metadata: Json) -> datetime | None:
    end = read_time(metadata.get("deletionTimestamp"))
    return None if end is None else end - timedelta(seconds=int(metadata.get("deletionGracePeriodSeconds") or 0))
