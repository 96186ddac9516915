"""The PersistentVolumeClaim of a job. A claim that the user named is used as it is: never labelled, owned or deleted."""

from rlhf_api import names
from rlhf_api.job import RLHFJobSpec
from rlhf_operator.core.manifests.job import owner_reference
from rlhf_operator.core.manifests.pod import Body, job_labels
from rlhf_operator.core.model import Observed
from rlhf_operator.core.specs import stages_of


def claim_name(observed: Observed) -> str:
    """The claim that holds the job's files."""
    spec = observed.spec
    assert spec is not None
    return spec.storage.existing_claim or names.claim_name(observed.name, observed.uid)


def claim(observed: Observed) -> Body:
    """The job's own claim. With `retain: false` it is owned, and goes with the job."""
    spec, rules = observed.spec, observed.rules
    assert spec is not None
    assert rules is not None
    storage_class = spec.storage.storage_class_name or rules.storage.default_class
    metadata: Body = {"name": claim_name(observed), "namespace": observed.namespace, "labels": job_labels(observed)}
    if not spec.storage.retain:
        metadata["ownerReferences"] = [owner_reference(observed)]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": {
            "accessModes": [access_mode(spec)],
            "resources": {"requests": {"storage": spec.storage.size}},
            **({"storageClassName": storage_class} if storage_class else {}),
        },
    }


def access_mode(spec: RLHFJobSpec) -> str:
    """As written; else ReadWriteOnce when one node at a time uses the volume, else ReadWriteMany."""
    if spec.storage.access_mode:
        return spec.storage.access_mode
    is_shared = spec.run_policy.max_parallel_stages > 1 or any(stage.topology.nodes > 1 for stage in stages_of(spec))
    return "ReadWriteMany" if is_shared else "ReadWriteOnce"
