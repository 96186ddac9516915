"""The batch/v1 Job of an attempt, and whether a live Job is that Job. One attempt is one Indexed Job; it executes once.

The first failure ends it: `backoffLimit: 0`, no podFailurePolicy, for one pod as for many. Why, was measured (operator.md section 3).
"""

from collections.abc import Mapping
from typing import Any, Literal

from rlhf_api import names
from rlhf_api.base import canonical_json, sha256_hex
from rlhf_api.job import RLHFJobSpec
from rlhf_api.profile import ProfileSpec
from rlhf_api.status import JobStatus
from rlhf_operator.core import deadlines
from rlhf_operator.core.manifests import quantity
from rlhf_operator.core.manifests.pod import Body, labels, pod_template
from rlhf_operator.core.manifests.run import run_config
from rlhf_operator.core.model import Observed
from rlhf_operator.core.plans import plan_of
from rlhf_operator.core.specs import StageSpec

_QUEUE_WRITES = frozenset({"suspend", "nodeSelector", "tolerations", "schedulingGates", "labels"})
"""What a queue changes in a Job that it admits."""


def job(observed: Observed, stage: StageSpec, status: JobStatus) -> Body:
    """The Job of the stage's newest attempt, which `status` already has."""
    spec, rules = observed.spec, observed.rules
    assert spec is not None
    assert rules is not None
    own = next(candidate for candidate in status.stages if candidate.name == stage.name)
    run = run_config(observed, stage, status, plan_of(spec, stage, rules)).to_bytes()
    name = names.attempt_name(observed.name, stage.name, own.attempt)
    claim = status.volume.claim_name if status.volume else names.claim_name(observed.name, observed.uid)
    queue = queue_of(spec, rules)
    body: Body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": observed.namespace,
            "labels": {**labels(observed, stage, own.attempt), **({names.LABEL_QUEUE: queue} if queue else {})},
            "ownerReferences": [owner_reference(observed)],
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": stage.topology.nodes,
            "parallelism": stage.topology.nodes,
            "backoffLimit": 0,
            "podReplacementPolicy": "TerminatingOrFailed",  # a terminating pod counts as failed: a lost node ends the gang
            "activeDeadlineSeconds": deadlines.remaining_at_start(status, own, stage.policy, spec.run_policy, rules),
            **({"suspend": True} if queue else {}),
            "template": pod_template(observed, stage, own.attempt, run, claim, name),
        },
    }
    body["metadata"]["annotations"] = {names.ANNOTATION_SPEC_HASH: sha256_hex(canonical_json(body))}
    return body


def owner_reference(observed: Observed) -> Body:
    """The RLHFJob as owner: what it owns goes with it."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND_JOB,
        "name": observed.name,
        "uid": observed.uid,
        "controller": True,
        "blockOwnerDeletion": False,  # true would need rights on finalizers
    }


def queue_of(spec: RLHFJobSpec, rules: ProfileSpec) -> str | None:
    """The Kueue LocalQueue of a job, if it has one."""
    return spec.queue_name or rules.scheduling.default_queue


Sameness = Literal["same", "outdated", "foreign"]


def compare(ours: Mapping[str, Any], live: Mapping[str, Any]) -> Sameness:
    """Whether a live object is the one we meant: `outdated` is ours from another manifest, `foreign` is somebody else's.

    Every field of our manifest must be equal, apart from what a queue writes into a Job. Fields that the server added do not matter.
    """
    if _controller(ours) != _controller(live):
        return "foreign"
    annotation = ours["metadata"].get("annotations", {}).get(names.ANNOTATION_SPEC_HASH)
    if annotation is not None and live["metadata"].get("annotations", {}).get(names.ANNOTATION_SPEC_HASH) != annotation:
        return "outdated"
    ignored = _QUEUE_WRITES if ours.get("kind") == "Job" else frozenset()
    is_equal = all(_contains(live.get(part), value, ignored if part == "spec" else frozenset()) for part, value in ours.items())
    if is_equal:
        return "same"
    # A policy from an older operator is ours, and good enough; a Job that carries our hash and differs was tampered with.
    return "outdated" if annotation is None and _controller(ours) is not None else "foreign"


def _controller(body: Mapping[str, Any]) -> str | None:
    owners = body["metadata"].get("ownerReferences", [])
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def _contains(live: Any, ours: Any, ignored: frozenset[str]) -> bool:
    """Every field of `ours` is in `live` with an equal value. The server leaves out what is empty, and writes quantities its own way."""
    if live is None and not ours:
        return True
    if isinstance(ours, Mapping):
        return isinstance(live, Mapping) and all(key in ignored or _contains(live.get(key), value, ignored) for key, value in ours.items())
    if isinstance(ours, list):
        return isinstance(live, list) and len(live) == len(ours) and all(_contains(*pair, ignored) for pair in zip(live, ours, strict=True))
    return bool(live == ours) or quantity.are_equal(live, ours)
