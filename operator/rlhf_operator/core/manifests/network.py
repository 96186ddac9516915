"""The NetworkPolicy around a job's gangs: training pods reach their gang and DNS, nothing else, and only the operator reaches them.

Prepare and Publish are left out: they fetch and deliver.
"""

from rlhf_api import names
from rlhf_operator.core.manifests.job import owner_reference
from rlhf_operator.core.manifests.pod import Body, job_labels
from rlhf_operator.core.model import Observed
from rlhf_operator.core.specs import stages_of


def network_policy(observed: Observed) -> Body:
    """The policy of a job whose profile says Isolate."""
    spec = observed.spec
    assert spec is not None
    gang = {"podSelector": {"matchLabels": {names.LABEL_JOB_UID: observed.uid}}}
    outgoing = sorted(stage.name for stage in stages_of(spec) if stage.reaches_outside)
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": observed.settings.operator_namespace}},
        "podSelector": {"matchLabels": {names.LABEL_APP_NAME: names.MANAGER}},
    }
    dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": names.network_policy_name(observed.name),
            "namespace": observed.namespace,
            "labels": job_labels(observed),
            "ownerReferences": [owner_reference(observed)],
        },
        "spec": {
            "podSelector": {
                "matchLabels": {names.LABEL_JOB_UID: observed.uid},
                "matchExpressions": [{"key": names.LABEL_STAGE, "operator": "NotIn", "values": outgoing}],
            },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [gang]}, {"from": [operator], "ports": [{"protocol": "TCP", "port": names.PROGRESS_PORT}]}],
            "egress": [{"to": [gang]}, {"ports": dns}],
        },
    }
