"""What the embedded kubelet reports: the status of a pod as Kubernetes writes it, from the pod as it is and what happened. Pure."""

from rlhf_api import names
from rlhf_operator.shell.kube import Object


def unplaced(pod: Object, now: str, gpu_resource: str) -> Object:
    """No node has what the pod wants."""
    message = f"0/1 nodes are available: 1 Insufficient {gpu_resource}."
    return {"phase": "Pending", "conditions": [_condition(pod, now, "PodScheduled", "False", "Unschedulable", message)]}


def waiting(pod: Object, now: str, reason: str) -> Object:
    """Placed, but its container cannot start."""
    state = {"waiting": {"reason": reason, "message": f"held by a test: {reason}"}}
    return {"phase": "Pending", "conditions": [_condition(pod, now, "PodScheduled", "True")], "containerStatuses": [_container(state)]}


def running(pod: Object, now: str) -> Object:
    """Its process runs; without probes that means ready."""
    conditions = [_condition(pod, now, "PodScheduled", "True"), _condition(pod, now, "Ready", "True")]
    container = _container({"running": {"startedAt": now}}, is_ready=True)
    return {"phase": "Running", "podIP": "127.0.0.1", "startTime": now, "conditions": conditions, "containerStatuses": [container]}


def ended(pod: Object, now: str, exit_code: int, message: str, *, is_out_of_memory: bool) -> Object:
    """Its process is gone."""
    reason = "OOMKilled" if is_out_of_memory else "Completed" if exit_code == 0 else "Error"
    state = {"terminated": {"exitCode": exit_code, "reason": reason, "finishedAt": now, "message": message}}
    conditions = [*_others(pod, "Ready"), _condition(pod, now, "Ready", "False", "PodCompleted")]
    phase = "Succeeded" if exit_code == 0 else "Failed"
    return {**pod["status"], "phase": phase, "conditions": conditions, "containerStatuses": [_container(state)]}


def disrupted(pod: Object, now: str, reason: str, message: str) -> Object:
    """The platform is about to end it."""
    conditions = [*_others(pod, "DisruptionTarget"), _condition(pod, now, "DisruptionTarget", "True", reason, message)]
    return {**pod["status"], "conditions": conditions}


def _container(state: Object, *, is_ready: bool = False) -> Object:
    return {"name": names.CONTAINER, "ready": is_ready, "state": state}


def _others(pod: Object, kind: str) -> list[Object]:
    return [condition for condition in pod["status"].get("conditions", []) if condition["type"] != kind]


def _condition(pod: Object, now: str, kind: str, value: str, reason: str = "", message: str = "") -> Object:
    """A condition; the transition time of an equal earlier one stays."""
    for condition in pod["status"].get("conditions", []):
        if condition["type"] == kind and condition["status"] == value:
            now = condition["lastTransitionTime"]
    return {"type": kind, "status": value, "reason": reason, "message": message, "lastTransitionTime": now}
