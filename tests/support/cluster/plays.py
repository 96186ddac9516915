"""What the container of a pod does in a test, and how a kubelet reports it: a `Play` and a pod in, a status patch out. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rlhf_api import names
from rlhf_api.outcome import outcome_of

Object = dict[str, Any]

TERMINATED_EXIT_CODE = 75
"""How the launcher ends on SIGTERM."""


@dataclass(frozen=True, slots=True)
class Play:
    """One container's life. `exit_code` None: it runs until somebody deletes it, or its play changes.

    Attributes:
        message: termination message; None stands for a report that fits the exit code.
        seconds: how long it runs before it ends by itself.
        waiting: reason for which it never starts (ErrImagePull, CreateContainerConfigError); empty when it does.
        is_deaf: it ignores SIGTERM and ends when its grace period is over.
    """

    exit_code: int | None = None
    message: str | None = None
    seconds: float = 0.0
    waiting: str = ""
    reason: str = ""
    is_deaf: bool = False


def runs(*, is_deaf: bool = False) -> Play:
    """Runs until it is told otherwise."""
    return Play(is_deaf=is_deaf)


def exits(code: int, message: str | None = None, *, seconds: float = 0.0) -> Play:
    """Runs for some seconds, then ends with a code."""
    return Play(exit_code=code, message=message, seconds=seconds)


def succeeds(*, seconds: float = 0.0) -> Play:
    """Ends well, with a proof of its output."""
    return exits(0, seconds=seconds)


def runs_out_of_memory() -> Play:
    """The kernel kills it."""
    return Play(exit_code=137, message="", reason="OOMKilled")


def waits(reason: str) -> Play:
    """Is placed, but cannot start."""
    return Play(waiting=reason)


def waiting_status(play: Play) -> Object:
    """Placed, not started."""
    state = {"waiting": {"reason": play.waiting, "message": f"a test holds it: {play.waiting}"}}
    return {"phase": "Pending", "conditions": _readiness("False", "ContainersNotReady"), "containerStatuses": [_container(state)]}


def running_status(address: str) -> Object:
    """Started; without probes that means ready."""
    now = _now()
    container = {**_container({"running": {"startedAt": now}}), "ready": True, "started": True}
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": now,
        "conditions": _readiness("True", ""),
        "containerStatuses": [container],
    }


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether its condition Ready is True."""
    return any((c["type"], c["status"]) == ("Ready", "True") for c in pod.get("status", {}).get("conditions", []))


def ended_status(pod: Mapping[str, Any], play: Play, exit_code: int, message: str | None = None) -> Object:
    """Its processes are gone."""
    text = message if message is not None else play.message if play.message is not None else report_of(pod, exit_code)
    reason = play.reason or ("Completed" if exit_code == 0 else "Error")
    started = _started_at(pod)
    terminated = {"exitCode": exit_code, "reason": reason, "message": text, "finishedAt": _now(), **started}
    return {
        "phase": "Failed" if exit_code else "Succeeded",
        "conditions": _readiness("False", "PodCompleted"),
        "containerStatuses": [_container({"terminated": terminated})],
    }


def report_of(pod: Mapping[str, Any], exit_code: int) -> str:
    """The termination message of a launcher that ended with this code. Its digest depends on the stage and the attempt only."""
    labels = pod["metadata"].get("labels", {})
    seed = "/".join(labels.get(label, "") for label in (names.LABEL_JOB_UID, names.LABEL_STAGE, names.LABEL_ATTEMPT))
    digest = "sha256:" + hashlib.sha256(seed.encode()).hexdigest()
    return json.dumps(
        {
            "version": 1,
            "outcome": str(outcome_of(exit_code)),
            "exitCode": exit_code,
            "message": "" if exit_code == 0 else f"told to end with {exit_code}",
            "outputDigest": digest if exit_code == 0 else None,
            "metrics": {"loss": 1.5} if exit_code == 0 else {},
        }
    )


def _started_at(pod: Mapping[str, Any]) -> dict[str, str]:
    for container in pod.get("status", {}).get("containerStatuses", []):
        started = container["state"].get("running", {}).get("startedAt")
        if started:
            return {"startedAt": started}
    return {}


def _container(state: Object) -> Object:
    image = {"image": "played", "imageID": ""}
    return {"name": names.CONTAINER, "ready": False, "started": False, "restartCount": 0, "state": state, **image}


def _readiness(value: str, reason: str) -> list[Object]:
    fields = {"status": value, "reason": reason, "lastTransitionTime": _now()}
    return [{"type": kind, **fields} for kind in ("Initialized", "ContainersReady", "Ready")]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
