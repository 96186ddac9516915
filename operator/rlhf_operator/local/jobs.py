"""The Job controller of the embedded cluster: Indexed Jobs as `core/manifests/job.py` writes them, with the measured semantics.

Jobs and pods come in from `store.py`; pods to create and to delete and the Job's status go back there. First failure ends the Job:
`FailureTarget` at once, peers deleted, the failed pod kept, `Failed` after the last pod ended. Everything is recomputed from the
objects on each `sync`, so the order of events does not matter.
"""

import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any

from rlhf_api import names
from rlhf_operator.local.store import Store
from rlhf_operator.shell.kube import Object

TRACKING = "batch.kubernetes.io/job-tracking"
"""Finalizer of a pod until its end has been counted."""
_BACKOFF_LIMIT = "BackoffLimitExceeded"


class JobRunner:
    """Keeps pods and status of every Job right. `sync` is called whenever something changed."""

    def __init__(self, store: Store, clock: Callable[[], datetime], *, admits_queued: bool = False) -> None:
        """`admits_queued`: there is no Kueue here, so a queue's Job is released at once."""
        self._store = store
        self._clock = clock
        self._admits_queued = admits_queued

    def sync(self) -> float | None:
        """Bring every Job one step further. Returns the seconds until the next deadline, if there is one."""
        jobs, pods = self._everything("Job"), self._everything("Pod")
        waits = [self._sync_job(job, [pod for pod in pods if _owner_uid(pod) == job["metadata"]["uid"]]) for job in jobs]
        known = {job["metadata"]["uid"] for job in jobs}
        for pod in pods:
            if _is_over(pod) and TRACKING in pod["metadata"].get("finalizers", []) and _owner_uid(pod) not in known:
                self._release(pod)
        return min((wait for wait in waits if wait is not None), default=None)

    def _sync_job(self, job: Object, pods: list[Object]) -> float | None:
        if self._admits_queued and job["spec"].get("suspend") and names.LABEL_QUEUE in job["metadata"].get("labels", {}):
            job["spec"]["suspend"] = False
            job = self._store.update("Job", job["metadata"]["namespace"], job)
        status = dict(job.get("status", {}))
        conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
        if "Complete" in conditions or "Failed" in conditions:
            for pod in pods:
                self._count(pod, status)
            return None
        for pod in pods:
            self._count(pod, status)
            if _is_lost(pod):
                _set(conditions, "FailureTarget", _BACKOFF_LIMIT, "a pod was deleted", self._store.now())
        if "deletionTimestamp" in job["metadata"]:
            return None
        live = [pod for pod in pods if not _is_over(pod)]
        wait = self._advance(job, status, conditions, pods, live)
        status["active"] = sum("deletionTimestamp" not in pod["metadata"] for pod in live)
        status["ready"] = sum(_is_ready(pod) for pod in live)
        status["terminating"] = len(live) - status["active"]
        status["conditions"] = list(conditions.values())
        self._store.update_status("Job", job["metadata"]["namespace"], job["metadata"]["name"], status)
        return wait

    def _advance(self, job: Object, status: Object, conditions: dict[str, Object], pods: list[Object], live: list[Object]) -> float | None:
        """One step of the life of a Job that has not ended. Changes `status`, `conditions` and, for new pods, `live`."""
        spec, now = job["spec"], self._store.now()
        if status.get("failed", 0) > spec.get("backoffLimit", 6) and "FailureTarget" not in conditions:
            _set(conditions, "FailureTarget", _BACKOFF_LIMIT, "Job has reached the specified backoff limit", now)
        if "FailureTarget" in conditions:
            self._delete(live)
            if not live:
                cause = conditions["FailureTarget"]
                _set(conditions, "Failed", cause["reason"], cause["message"], now)
            return None
        if spec.get("suspend"):
            self._suspend(status, conditions, live)
            return None
        if status.get("succeeded", 0) >= spec["completions"]:
            _set(conditions, "SuccessCriteriaMet", "CompletionsReached", "Reached expected number of succeeded pods", now)
            _set(conditions, "Complete", "CompletionsReached", "Reached expected number of succeeded pods", now)
            status["completionTime"] = now
            return None
        if "startTime" not in status:
            status["startTime"] = now
            if "Suspended" in conditions:
                _set(conditions, "Suspended", "JobResumed", "Job resumed", now, value="False")
        wait = self._seconds_left(spec, status)
        if wait is not None and wait <= 0:
            _set(conditions, "FailureTarget", "DeadlineExceeded", "Job was active longer than specified deadline", now)
            self._delete(live)
            return 0.0
        self._create_missing(job, pods, live)
        return wait

    def _suspend(self, status: Object, conditions: dict[str, Object], live: list[Object]) -> None:
        """A suspended Job has no pods and no start: the pods that go now do not count as failures."""
        self._delete(live)
        status.pop("startTime", None)
        _set(conditions, "Suspended", "JobSuspended", "Job suspended", self._store.now())

    def _count(self, pod: Object, status: Object) -> None:
        """Count a pod's end once, as success or failure of its Job, and let the object go if it was deleted."""
        if not _is_over(pod) or TRACKING not in pod["metadata"].get("finalizers", []):
            return
        if pod["status"]["phase"] == "Succeeded":
            status["succeeded"] = status.get("succeeded", 0) + 1
        elif not _was_suspended(pod):
            status["failed"] = status.get("failed", 0) + 1
        self._release(pod)

    def _seconds_left(self, spec: Object, status: Object) -> float | None:
        limit = spec.get("activeDeadlineSeconds")
        if limit is None:
            return None
        return float(limit) - (self._clock() - datetime.fromisoformat(status["startTime"])).total_seconds()

    def _create_missing(self, job: Object, pods: list[Object], live: list[Object]) -> None:
        present = {pod["metadata"]["labels"][names.LABEL_COMPLETION_INDEX] for pod in pods if not _was_suspended(pod)}
        if any(_was_suspended(pod) for pod in live):
            return  # old and new pods of an index never live at the same time
        missing = [index for index in range(job["spec"]["completions"]) if str(index) not in present]
        live.extend(self._store.create("Pod", job["metadata"]["namespace"], _pod(job, index)) for index in missing)

    def _delete(self, pods: list[Object]) -> None:
        for pod in pods:
            if "deletionTimestamp" not in pod["metadata"]:
                pod["metadata"].setdefault("annotations", {})[_SUSPENDED] = "true"
                self._store.update("Pod", pod["metadata"]["namespace"], pod)
                self._store.delete("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _release(self, pod: Object) -> None:
        self._store.remove_finalizer("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"], TRACKING)

    def _everything(self, kind: str) -> list[Object]:
        return [obj for namespace in self._store.namespaces(kind) for obj in self._store.find(kind, namespace)]


_SUSPENDED = "local.rlhf.dev/deleted-by-job"
"""Marks pods that the Job controller itself deleted: their end is no failure of the Job."""


def _pod(job: Object, index: int) -> Object:
    template: dict[str, Any] = job["spec"]["template"]
    metadata = template.get("metadata", {})
    name = job["metadata"]["name"]
    labels = {
        **metadata.get("labels", {}),
        names.LABEL_COMPLETION_INDEX: str(index),
        "batch.kubernetes.io/job-name": name,
        "batch.kubernetes.io/controller-uid": job["metadata"]["uid"],
    }
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": name,
        "uid": job["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "metadata": {
            "name": f"{name}-{index}-{secrets.token_hex(3)[:5]}",
            "labels": labels,
            "annotations": {**metadata.get("annotations", {}), names.LABEL_COMPLETION_INDEX: str(index)},
            "ownerReferences": [owner],
            "finalizers": [TRACKING],
        },
        "spec": {**template["spec"], "hostname": f"{name}-{index}"},
        "status": {"phase": "Pending"},
    }


def _set(conditions: dict[str, Object], kind: str, reason: str, message: str, now: str, value: str = "True") -> None:
    if conditions.get(kind, {}).get("status") == value:
        return
    conditions[kind] = {"type": kind, "status": value, "reason": reason, "message": message, "lastTransitionTime": now}


def _owner_uid(pod: Object) -> str:
    return next((str(owner["uid"]) for owner in pod["metadata"].get("ownerReferences", []) if owner.get("controller")), "")


def _is_over(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _is_lost(pod: Object) -> bool:
    """Deleted by somebody else: `podReplacementPolicy: TerminatingOrFailed`… counts it only at its end, but the gang ends now."""
    return "deletionTimestamp" in pod["metadata"] and not _was_suspended(pod) and not _succeeded(pod)


def _succeeded(pod: Object) -> bool:
    return bool(pod.get("status", {}).get("phase") == "Succeeded")


def _was_suspended(pod: Object) -> bool:
    return _SUSPENDED in pod["metadata"].get("annotations", {})
