"""The status of a ClusterRLHFProfile: is it usable, and why not? A profile's name in, its condition Ready out."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from rlhf_api import names
from rlhf_api.status import MAX_MESSAGE
from rlhf_api.validate import find_profile_problems
from rlhf_operator.shell.kube import Forbidden, KubeApi, NotFound, Object


async def reconcile_profile(api: KubeApi, name: str, now: datetime, num_running: int = 0) -> bool:
    """Validate a profile and say so in its status, if that changes it. False: there is no such profile.

    Args:
        num_running: jobs that run with it.

    Raises:
        ApiError: the API server refused or did not answer.
    """
    try:
        body = await api.get(names.KIND_PROFILE, "", name)
    except NotFound:
        return False
    status = desired_status(body, now, num_running)
    if status == body.get("status", {}):
        return True
    metadata = body["metadata"]
    with suppress(Forbidden):  # an installation for some namespaces may only read profiles
        await api.apply_status(names.KIND_PROFILE, "", name, status, uid=metadata["uid"], resource_version=metadata["resourceVersion"])
    return True


def desired_status(body: Object, now: datetime, num_running: int) -> dict[str, Any]:
    """The status that a profile should have; `lastTransitionTime` moves only when the answer flips."""
    # The API server took it, but an older CRD may have let break what today's rules forbid.
    problems = [str(problem) for problem in find_profile_problems({key: value for key, value in body.items() if key != "status"})]
    answer = "False" if problems else "True"
    known: dict[str, Any] = next((c for c in body.get("status", {}).get("conditions", ()) if c.get("type") == names.CONDITION_READY), {})
    since = known.get("lastTransitionTime") if known.get("status") == answer else None
    condition = {
        "type": names.CONDITION_READY,
        "status": answer,
        "observedGeneration": body["metadata"]["generation"],
        "lastTransitionTime": since or now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "reason": names.REASON_INVALID if problems else names.REASON_VALID,
        "message": "; ".join(problems)[:MAX_MESSAGE],
    }
    return {"observedGeneration": body["metadata"]["generation"], "runningJobs": num_running, "conditions": [condition]}
