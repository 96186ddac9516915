"""Reads around a job that explain rather than decide: consent of Secrets, labels of namespaces, nodes, and why something does not move.

Rights to them are optional or given by others, so a 403 is an answer here: the one that claims least.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from rlhf_api import names
from rlhf_operator.core import stall
from rlhf_operator.core.live import LivePod
from rlhf_operator.core.model import Observed
from rlhf_operator.shell.kube import Forbidden, KubeApi, NotFound, Object

_GONE_AFTER = timedelta(seconds=15)
"""Without a look at nodes: how long past its deletion time a pod may still be running."""


async def find(api: KubeApi, kind: str, namespace: str, name: str) -> Object | None:
    """The object, or None when there is none."""
    try:
        return await api.get(kind, namespace, name)
    except NotFound:
        return None


async def namespace_labels(api: KubeApi, namespace: str) -> Mapping[str, str]:
    """Labels of a namespace; none when it is gone."""
    body = await find(api, "Namespace", "", namespace)
    return {} if body is None else body["metadata"].get("labels", {})


async def is_permitted(api: KubeApi, namespace: str, name: str) -> bool:
    """Whether the owner of a Secret permits its use: it exists, may be read, and carries the label."""
    try:
        body = await find(api, "Secret", namespace, name)
    except Forbidden:
        return False
    return body is not None and body["metadata"].get("labels", {}).get(names.LABEL_SECRET_USE) == "true"


async def with_node(api: KubeApi, pod: LivePod, now: datetime) -> LivePod:
    """A deleted pod that has not ended: is its node still there to end it?"""
    if pod.is_over or pod.gone_by is None or not pod.node:
        return pod
    try:
        node = await find(api, "Node", "", pod.node)
    except Forbidden:
        return replace(pod, is_node_gone=now > pod.gone_by + _GONE_AFTER)
    conditions = node.get("status", {}).get("conditions", []) if node else []
    is_ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return replace(pod, is_node_gone=not is_ready)


async def with_warnings(api: KubeApi, observed: Observed, now: datetime) -> Observed:
    """What the cluster says about attempts that should have started by now: Jobs without pods, placed pods that are not ready."""
    listed = [job for job in observed.jobs if job.name in observed.listed and job.started is not None and not job.conditions]
    late = {job.uid for job in listed if (now - (job.started or now)).total_seconds() > stall.NO_PODS_SECONDS}
    num_pods = Counter(pod.owner_uid for pod in observed.pods)
    jobs = [
        replace(job, warning=await newest_warning(api, observed.namespace, job.uid))
        if job.uid in late and num_pods[job.uid] < int(job.body["spec"].get("completions") or 1)
        else job
        for job in observed.jobs
    ]
    pods = [
        replace(pod, warning=await newest_warning(api, observed.namespace, pod.uid))
        if pod.owner_uid in late and stall.is_late(pod, now)
        else pod
        for pod in observed.pods
    ]
    return replace(observed, jobs=tuple(jobs), pods=tuple(pods))


async def newest_warning(api: KubeApi, namespace: str, uid: str) -> str:
    """Reason and message of an object's newest Warning event; empty when there is none, or events may not be read."""
    try:
        page = await api.list("Event", namespace, fields=f"involvedObject.uid={uid},type=Warning", limit=100)
    except Forbidden:
        return ""
    newest = max(page.items, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""), default=None)
    return f"{newest.get('reason', '')}: {newest.get('message', '')}" if newest else ""
