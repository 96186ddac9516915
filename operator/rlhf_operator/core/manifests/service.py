"""The headless Service of a gang: it gives each pod the name under which the others find it. Only for several nodes."""

from rlhf_api import names
from rlhf_operator.core.live import LiveJob
from rlhf_operator.core.manifests.pod import Body, labels
from rlhf_operator.core.model import Observed
from rlhf_operator.core.specs import StageSpec


def service(observed: Observed, stage: StageSpec, job: LiveJob) -> Body:
    """The Service of an attempt, owned by its Job, so that it leaves with the attempt."""
    selector = {names.LABEL_JOB_UID: observed.uid, names.LABEL_STAGE: stage.name, names.LABEL_ATTEMPT: str(job.attempt)}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job.name, "uid": job.uid, "controller": True, "blockOwnerDeletion": False}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": job.name,
            "namespace": observed.namespace,
            "labels": labels(observed, stage, job.attempt),
            "ownerReferences": [owner],
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # pods meet before they are ready
            "selector": selector,
            "ports": [{"name": names.PORT_RENDEZVOUS, "port": names.RENDEZVOUS_PORT}],
        },
    }
