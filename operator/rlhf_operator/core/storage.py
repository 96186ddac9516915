"""Is the volume there? The claim in; what new attempts wait for, and the claim to create, out. Running pods are never disturbed."""

from rlhf_api import names
from rlhf_api.status import JobStatus, StagePhase, VolumeStatus
from rlhf_operator.core.live import LiveClaim
from rlhf_operator.core.manifests import volume
from rlhf_operator.core.model import Create, Observed, Wait

BOUND = Wait(names.CONDITION_STORAGE_READY, names.REASON_BOUND, "")


def volume_status(observed: Observed) -> VolumeStatus:
    """Where the files of the job are."""
    return VolumeStatus(claim_name=volume.claim_name(observed), path=observed.uid)


def missing_claim(observed: Observed, status: JobStatus) -> Create | None:
    """The claim to create. Once something was written, a missing claim is lost: a new empty one would pretend that it was not."""
    spec = observed.spec
    assert spec is not None
    if observed.claim is not None or spec.storage.existing_claim is not None or _was_used(status):
        return None
    return Create("PersistentVolumeClaim", volume.claim(observed))


def wait_for_claim(observed: Observed, status: JobStatus) -> Wait | None:
    """Why no attempt may start; None when the volume is bound, or is bound by the pod that uses it."""
    spec, claim = observed.spec, observed.claim
    assert spec is not None
    if claim is None:
        if _was_used(status):
            return _wait(
                names.REASON_LOST, f"claim {volume.claim_name(observed)} is gone, and the files of this job with it: create the job again"
            )
        if spec.storage.existing_claim is not None:
            return _wait(names.REASON_PENDING, f"claim {spec.storage.existing_claim} does not exist in namespace {observed.namespace}")
        return None  # created in this plan; the first pod binds it
    if claim.is_being_deleted or claim.phase == "Lost":
        return _wait(names.REASON_LOST, f"claim {claim.name} is {'being deleted' if claim.is_being_deleted else 'lost'}")
    if _must_be_shared(observed) and "ReadWriteMany" not in claim.access_modes:
        return _wait(names.REASON_ACCESS_MODE_MISMATCH, _words_of_mismatch(claim, is_own=spec.storage.existing_claim is None))
    if claim.phase != "Bound" and claim.binds_immediately:
        reason = names.REASON_PROVISIONING_FAILED if "ProvisioningFailed" in claim.event else names.REASON_PENDING
        return _wait(reason, f"claim {claim.name} is {claim.phase}{': ' if claim.event else ''}{claim.event}")
    return None


def lost_claim(observed: Observed, status: JobStatus) -> Wait | None:
    """Why the files of this job are gone for good: no attempt can go on from them. None while something else, or nothing, is wrong."""
    wait = wait_for_claim(observed, status)
    return wait if wait is not None and wait.reason == names.REASON_LOST and _was_used(status) else None


def is_bound(claim: LiveClaim | None) -> bool:
    """The condition StorageReady is True."""
    return claim is not None and claim.phase == "Bound" and not claim.is_being_deleted


def _must_be_shared(observed: Observed) -> bool:
    """Pods on several nodes use the volume at the same time. An own claim was made for the spec as it was then: more nodes, or more stages
    at once, may have been asked for since, and its pods would hang without a word."""
    spec = observed.spec
    assert spec is not None
    is_directory = spec.storage.existing_claim is None and observed.settings.is_one_machine
    return volume.access_mode(spec) == "ReadWriteMany" and not is_directory


def _words_of_mismatch(claim: LiveClaim, *, is_own: bool) -> str:
    modes = ", ".join(claim.access_modes) or "without access modes"
    fix = ": create the job again, or with accessMode: ReadWriteMany" if is_own else ""
    return f"claim {claim.name} is {modes}; several nodes or parallel stages need ReadWriteMany{fix}"


def _was_used(status: JobStatus) -> bool:
    """Something was written to the volume that still counts. A rerun of every stage starts from nothing, and may have a new volume."""
    return any(
        stage.phase is StagePhase.SUCCEEDED or (stage.start_time is not None and any(attempt.start_time for attempt in stage.attempts))
        for stage in status.stages
    )


def _wait(reason: str, message: str) -> Wait:
    return Wait(names.CONDITION_STORAGE_READY, reason, message)
