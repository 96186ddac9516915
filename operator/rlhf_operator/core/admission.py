"""May this job run? The rules of manifest, profile and planner again, whoever checked them before. The answer is the Accepted condition.

A refused job starts nothing new; what already runs goes on. `decide.py` asks first; the words reach the user through `status.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from rlhf_api import names
from rlhf_api.job import RLHFJobSpec
from rlhf_api.outcome import ExitCode
from rlhf_api.planning.plan import DoesNotFit, NotSupported
from rlhf_api.problems import exit_code_of
from rlhf_api.profile import ProfileSpec
from rlhf_operator.core.manifests import quantity
from rlhf_operator.core.manifests.job import queue_of
from rlhf_operator.core.model import Observed
from rlhf_operator.core.plans import plan_of
from rlhf_operator.core.specs import StageSpec, secrets_of, stages_of, uris_of

RETRY_SECONDS = 30.0
"""Secrets and profiles appear without an event for the job."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job is not accepted: a reason of the Accepted condition, and all its problems in words."""

    reason: str
    message: str
    requeue_seconds: float | None = None
    """When to look again; None when only a change of the job helps."""


def judge(observed: Observed) -> Refusal | None:
    """Why the job may not run; None when it may."""
    if observed.problems:
        is_unsupported = exit_code_of(observed.problems) is ExitCode.UNSUPPORTED
        reason = names.REASON_UNSUPPORTED if is_unsupported else names.REASON_INVALID
        return Refusal(reason, "; ".join(str(problem) for problem in observed.problems))
    if observed.apply_error is not None and observed.apply_error.is_conflict_of_the_job:
        return Refusal(names.REASON_NAME_CONFLICT, observed.apply_error.message, 60.0)
    spec, rules = observed.spec, observed.rules
    assert spec is not None
    if rules is None:
        return _missing_profile(observed, spec)
    if _is_accepted(observed):
        return None
    found = [(reason, message) for reason, message in _find_all(observed, spec, rules)]
    if not found:
        return None
    reason = found[0][0]
    return Refusal(reason, "; ".join(message for other, message in found if other == reason), RETRY_SECONDS)


def missing_secret(observed: Observed, stage: StageSpec) -> Refusal | None:
    """A Secret that the stage is about to mount without its owner's consent; None when all is permitted."""
    spec, rules = observed.spec, observed.rules
    assert spec is not None
    assert rules is not None
    denied = [name for name in secrets_of(spec, stage, rules) if not observed.secrets.get(name, False)]
    if not denied:
        return None
    rule = f"must exist in namespace {observed.namespace} with the label {names.LABEL_SECRET_USE}=true, readable for the operator"
    return Refusal(names.REASON_SECRET_NOT_PERMITTED, f"secret {', '.join(denied)}: {rule}", RETRY_SECONDS)


def _is_accepted(observed: Observed) -> bool:
    """This generation was accepted under the snapshot before: the same rules would give the same answer."""
    accepted = next((condition for condition in observed.status.conditions if condition.type == names.CONDITION_ACCEPTED), None)
    return (
        observed.snapshot is not None
        and accepted is not None
        and accepted.status == "True"
        and accepted.observed_generation == observed.generation
    )


def _missing_profile(observed: Observed, spec: RLHFJobSpec) -> Refusal:
    if observed.status.profile is not None:
        message = f"ControllerRevision {observed.status.profile.revision} is missing or was exchanged: only spec.rerun takes a new profile"
        return Refusal(names.REASON_NAME_CONFLICT, message, 60.0)
    existing = (
        f", or create the job again with spec.profile set to one of: {', '.join(observed.profile_names)}" if observed.profile_names else ""
    )
    message = (
        f'no ClusterRLHFProfile "{spec.profile}". A platform administrator creates it '
        f"(kubectl apply -f examples/profiles/cpu.yaml, or Helm value profiles){existing}"
    )
    return Refusal(names.REASON_PROFILE_NOT_FOUND, message, RETRY_SECONDS)


def _find_all(observed: Observed, spec: RLHFJobSpec, rules: ProfileSpec) -> Iterator[tuple[str, str]]:
    """Every rule of the profile that the job breaks, with its reason. The first reason is reported, with all its messages."""
    stages = stages_of(spec)
    yield from _find_namespace(observed, spec, rules)
    yield from _find_limits(spec, stages, rules)
    yield from _find_places(spec, stages, rules)
    yield from _find_names(spec, stages, rules)
    yield from _find_claim(observed, spec)
    yield from _find_plans(spec, stages, rules)


def _find_namespace(observed: Observed, spec: RLHFJobSpec, rules: ProfileSpec) -> Iterator[tuple[str, str]]:
    if rules.allowed_namespaces is None or observed.namespace_labels is None:
        return
    if not rules.allowed_namespaces.match_labels.items() <= observed.namespace_labels.items():
        yield names.REASON_NAMESPACE_NOT_ALLOWED, f"profile {spec.profile} may not be used in namespace {observed.namespace}"


def _find_limits(spec: RLHFJobSpec, stages: tuple[StageSpec, ...], rules: ProfileSpec) -> Iterator[tuple[str, str]]:
    limits, reason = rules.limits, names.REASON_LIMIT_EXCEEDED
    max_gpus = limits.max_gpus if rules.gpu else 0
    if any(stage.topology.nodes > limits.max_nodes for stage in stages):
        yield reason, f"a stage asks for more nodes than the profile allows: {limits.max_nodes}"
    if any(stage.topology.num_gpus > max_gpus for stage in stages):
        yield reason, f"a stage asks for more GPUs than the profile allows: {max_gpus}"
    if spec.storage.size and quantity.mebibytes(spec.storage.size) > quantity.mebibytes(limits.max_storage):
        yield reason, f"storage.size is above the limit of the profile: {limits.max_storage}"
    if (spec.run_policy.ttl_seconds_after_finished or 0) > limits.max_ttl_seconds:
        yield reason, f"runPolicy.ttlSecondsAfterFinished is above the limit of the profile: {limits.max_ttl_seconds}"
    if any((stage.policy.active_deadline_seconds or 0) > limits.max_active_deadline_seconds for stage in stages):
        yield reason, f"an activeDeadlineSeconds is above the limit of the profile: {limits.max_active_deadline_seconds}"


def _find_places(spec: RLHFJobSpec, stages: tuple[StageSpec, ...], rules: ProfileSpec) -> Iterator[tuple[str, str]]:
    sources = uris_of(spec, stages[0])
    destinations = [uri for stage in stages[1:] for uri in uris_of(spec, stage)]
    for uri in sources:
        if not uri.startswith("builtin://") and not uri.startswith(tuple(rules.sources.allow)):
            yield names.REASON_SOURCE_NOT_ALLOWED, f"source not allowed by the profile: {uri}"
    if spec.model.trust_remote_code and not rules.sources.allow_trust_remote_code:
        yield names.REASON_SOURCE_NOT_ALLOWED, "the profile does not allow trustRemoteCode"
    for uri in destinations:
        if not uri.startswith(tuple(rules.publish.allow)):
            yield names.REASON_DESTINATION_NOT_ALLOWED, f"destination not allowed by the profile: {uri}"
    uses_claims = spec.storage.existing_claim or any(uri.startswith("pvc://") for uri in (*sources, *destinations))
    if uses_claims and not rules.storage.allow_existing_claims:
        yield names.REASON_SOURCE_NOT_ALLOWED, "the profile does not allow existing claims (storage.existingClaim, pvc://)"


def _find_names(spec: RLHFJobSpec, stages: tuple[StageSpec, ...], rules: ProfileSpec) -> Iterator[tuple[str, str]]:
    reason = names.REASON_LIMIT_EXCEEDED
    publishes = [stage.stage.publish for stage in stages if stage.stage is not None and stage.stage.publish is not None]
    if rules.publish.require_signature and not all(publish.sign for publish in publishes):
        yield names.REASON_SIGNING_NOT_CONFIGURED, "the profile requires publish.sign: true"
    if any(publish.sign for publish in publishes) and rules.publish.signing_secret_name is None:
        yield names.REASON_SIGNING_NOT_CONFIGURED, "publish.sign needs a profile with publish.signingSecretName"
    if spec.priority_class_name and spec.priority_class_name not in rules.scheduling.priority_classes:
        yield reason, f"the profile does not list the priorityClassName {spec.priority_class_name}"
    if rules.scheduling.require_queue and queue_of(spec, rules) is None:
        yield reason, "the profile requires a queueName"
    if queue_of(spec, rules) is None and any(stage.topology.required or stage.topology.preferred for stage in stages):
        yield reason, "topology.required and topology.preferred need a queue: set spec.queueName"
    if spec.storage.storage_class_name and spec.storage.storage_class_name not in rules.storage.allowed_classes:
        yield reason, f"the profile does not list the storageClassName {spec.storage.storage_class_name}"


def _find_claim(observed: Observed, spec: RLHFJobSpec) -> Iterator[tuple[str, str]]:
    """A claim of our name must be ours; one that the user named may be anybody's."""
    claim = observed.claim
    if claim is not None and spec.storage.existing_claim is None and claim.job_uid != observed.uid:
        yield names.REASON_NAME_CONFLICT, f"PersistentVolumeClaim {claim.name} exists and does not belong to this job"


def _find_plans(spec: RLHFJobSpec, stages: tuple[StageSpec, ...], rules: ProfileSpec) -> Iterator[tuple[str, str]]:
    for stage in stages:
        try:
            plan_of(spec, stage, rules)
        except DoesNotFit as error:
            yield names.REASON_DOES_NOT_FIT, str(error)
        except NotSupported as error:
            yield names.REASON_UNSUPPORTED, str(error)
