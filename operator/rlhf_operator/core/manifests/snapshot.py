"""The profile of a job, kept as it was: a ControllerRevision, whose data is immutable and which the built-in role `edit` cannot write."""

from rlhf_api import names
from rlhf_api.base import canonical_json, digest
from rlhf_api.profile import ProfileSpec
from rlhf_api.status import ProfileStatus
from rlhf_operator.core.manifests.job import owner_reference
from rlhf_operator.core.manifests.pod import Body, job_labels
from rlhf_operator.core.memo import by_identity
from rlhf_operator.core.model import Observed, ProfileObject


@by_identity
def profile_hash(spec: ProfileSpec) -> str:
    """Digest of a profile's content."""
    return digest(canonical_json(spec.to_wire()))


def profile_status(observed: Observed, profile: ProfileObject) -> ProfileStatus:
    """What the status keeps of the profile: enough to notice content that was exchanged."""
    content = profile_hash(profile.spec)
    return ProfileStatus(
        name=profile.name,
        uid=profile.uid,
        generation=profile.generation,
        revision=names.snapshot_name(observed.name, content.removeprefix("sha256:")),
        hash=content,
    )


def snapshot(observed: Observed, profile: ProfileObject) -> Body:
    """The ControllerRevision of the profile as it is now."""
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": profile_status(observed, profile).revision,
            "namespace": observed.namespace,
            "labels": job_labels(observed),
            "ownerReferences": [owner_reference(observed)],
        },
        "revision": profile.generation,
        "data": profile.spec.to_wire(),
    }
