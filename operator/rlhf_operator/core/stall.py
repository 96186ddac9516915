"""Nothing is broken yet and nothing moves: why? The Job and pods of an attempt come in, a `Wait` with the reason comes out.

A wait never ends an attempt; deadlines do. Messages hold what does not change from one look to the next, so that looking costs no write.
"""

from datetime import datetime

from rlhf_api import names
from rlhf_operator.core import text
from rlhf_operator.core.live import LiveJob, LivePod
from rlhf_operator.core.model import Reading, Wait

NO_PODS_SECONDS = 10
INITIALIZING_SECONDS = 20
_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


def while_starting(job: LiveJob, pods: tuple[LivePod, ...], num_nodes: int, now: datetime) -> Wait | None:
    """What keeps an attempt from having all pods ready."""
    if job.is_suspended:
        return _wait(names.REASON_WAITING, "the queue has not admitted the Job", names.CONDITION_QUOTA_RESERVED)
    if len(pods) < num_nodes:
        return _missing_pods(job, len(pods), num_nodes, now)
    unplaced = [pod for pod in pods if pod.unschedulable]
    if unplaced:
        num_placed = sum(pod.placed is not None for pod in pods)
        return _wait(names.REASON_UNSCHEDULABLE, f"{num_placed} of {num_nodes} pods placed: {unplaced[0].unschedulable}")
    return next((wait for pod in pods if (wait := _of_container(pod, now)) is not None), None)


def while_running(reading: Reading | None, silent_since: datetime, deadline_seconds: int, now: datetime) -> Wait | None:
    """What keeps an attempt from moving although all its pods run.

    Silence counts from when this process could first have heard pod 0: counted from the start of the Job, every restart of the operator
    would call every running job silent.
    """
    if reading is None:
        if text.seconds_between(silent_since, now) <= INITIALIZING_SECONDS:
            return None
        return _wait(names.REASON_INITIALIZING, "all pods run, and pod 0 reports no progress yet", names.CONDITION_STALLED)
    if reading.idle_seconds < deadline_seconds / 2:
        return None
    step = reading.document.step
    words = f"no new step after step {step} for {deadline_seconds // 2} s, half of progressDeadlineSeconds"
    return _wait(names.REASON_NO_PROGRESS, words, names.CONDITION_STALLED)


def is_early(job: LiveJob, num_nodes: int, now: datetime) -> bool:
    """The Job has only just started, and has neither ended nor all pods ready: nothing that its pods could say counts yet."""
    is_open = not job.has_ended and not job.is_being_deleted and job.num_ready < num_nodes
    return is_open and text.seconds_between(job.started or job.created, now) < NO_PODS_SECONDS


def is_late(pod: LivePod, now: datetime) -> bool:
    """Placed, and not ready for longer than a start takes."""
    return not pod.is_ready and not pod.is_over and text.seconds_between(pod.placed, now) > INITIALIZING_SECONDS


def _missing_pods(job: LiveJob, num_pods: int, num_nodes: int, now: datetime) -> Wait | None:
    if job.failure is not None or text.seconds_between(job.started or job.created, now) <= NO_PODS_SECONDS:
        return None
    return _wait(names.REASON_NO_PODS, f"{num_pods} of {num_nodes} pods exist: {job.warning or 'the Job has no event that says why'}")


def _of_container(pod: LivePod, now: datetime) -> Wait | None:
    words = f"pod {pod.name}: {pod.waiting}{': ' if pod.waiting_message else ''}{pod.waiting_message}"
    if pod.waiting in _IMAGE:
        return _wait(names.REASON_IMAGE_PULL, words)
    if pod.waiting in _CONFIG:
        return _wait(names.REASON_CREATE_CONTAINER_CONFIG, words)
    if is_late(pod, now):
        return _wait(names.REASON_INITIALIZING, f"pod {pod.name} is placed but not ready{': ' if pod.warning else ''}{pod.warning}")
    return None


def _wait(reason: str, message: str, condition: str = names.CONDITION_PODS_READY) -> Wait:
    return Wait(condition, reason, text.clean(message))
