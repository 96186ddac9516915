"""The pod template of an attempt: what a worker may see and do. Profile snapshot, stage and run.json in, a pod template out.

No text of a user becomes a command, an argument, a variable or a path. The restricted Pod Security level is fixed here.
"""

from typing import Any

from rlhf_api import names
from rlhf_api.job import RLHFJobSpec
from rlhf_api.profile import ProfileSpec
from rlhf_api.run_config import run_sha256
from rlhf_operator.core.manifests.quantity import add_memory, times, times_memory
from rlhf_operator.core.manifests.run import master_address
from rlhf_operator.core.model import GRACE_SECONDS, Observed
from rlhf_operator.core.specs import StageSpec, claims_of, secrets_of

Body = dict[str, Any]


def labels(observed: Observed, stage: StageSpec, attempt: int) -> dict[str, str]:
    """Labels of everything that belongs to an attempt."""
    return {
        **job_labels(observed),
        names.LABEL_STAGE: stage.name,
        names.LABEL_ATTEMPT: str(attempt),
    }


def job_labels(observed: Observed) -> dict[str, str]:
    """Labels of everything that belongs to a job."""
    return {
        names.LABEL_APP_NAME: names.APP_NAME,
        names.LABEL_MANAGED_BY: names.MANAGER,
        names.LABEL_JOB: observed.name,
        names.LABEL_JOB_UID: observed.uid,
    }


def pod_template(observed: Observed, stage: StageSpec, attempt: int, run: bytes, claim: str, attempt_name: str) -> Body:
    """The template of the attempt's pods. `run` is run.json, `claim` the volume of the job."""
    spec, rules = observed.spec, observed.rules
    assert spec is not None
    assert rules is not None
    return {
        "metadata": {
            "labels": {**rules.pod_labels, **labels(observed, stage, attempt)},
            "annotations": {**rules.pod_annotations, **_annotations(stage, run)},
        },
        "spec": _pod_spec(observed, spec, stage, rules, claim, attempt_name, _container(observed, stage, attempt, run)),
    }


def _annotations(stage: StageSpec, run: bytes) -> dict[str, str]:
    topology = stage.topology
    found = {names.ANNOTATION_RUN: run.decode(), names.ANNOTATION_SAFE_TO_EVICT: "false"}
    if topology.required:
        found[names.ANNOTATION_TOPOLOGY_REQUIRED] = topology.required
    if topology.preferred:
        found[names.ANNOTATION_TOPOLOGY_PREFERRED] = topology.preferred
    return found


def _pod_spec(
    observed: Observed, spec: RLHFJobSpec, stage: StageSpec, rules: ProfileSpec, claim: str, attempt_name: str, container: Body
) -> Body:
    secrets, claims = _outside(observed, stage)
    scheduling, security = rules.scheduling, rules.security
    body: Body = {
        "subdomain": attempt_name,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "serviceAccountName": rules.service_account_name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # The launcher must not be process 1: the kernel keeps SIGTERM from a process 1 that has no handler yet, and a pod that is deleted
        # while Python still starts would take its whole grace period.
        "shareProcessNamespace": True,
        "schedulerName": scheduling.scheduler_name,
        "tolerations": _tolerations(rules),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": security.run_as_user,
            "runAsGroup": security.run_as_user,
            "fsGroup": security.fs_group,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            *_volumes(rules, claim),
            *({"name": f"secret-{number}", "secret": {"secretName": name}} for number, name in enumerate(secrets)),
            *(
                {"name": f"claim-{number}", "persistentVolumeClaim": {"claimName": name, "readOnly": stage.stage is None}}
                for number, name in enumerate(claims)
            ),
        ],
    }
    optional = {
        "nodeSelector": dict(scheduling.node_selector),
        "runtimeClassName": scheduling.runtime_class_name,
        "priorityClassName": spec.priority_class_name,
        "imagePullSecrets": [{"name": name} for name in rules.image_pull_secrets],
    }
    return {**body, **{key: value for key, value in optional.items() if value}}


def _container(observed: Observed, stage: StageSpec, attempt: int, run: bytes) -> Body:
    rules = observed.rules
    assert rules is not None
    secrets, claims = _outside(observed, stage)
    resources = _resources(stage, rules)
    return {
        "name": names.CONTAINER,
        "image": rules.image,
        "command": [names.COMMAND],
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePath": names.PATH_TERMINATION_LOG,
        "terminationMessagePolicy": "File",  # never the logs: they are not a report
        "ports": [
            {"name": names.PORT_RENDEZVOUS, "containerPort": names.RENDEZVOUS_PORT},
            {"name": names.PORT_PROGRESS, "containerPort": names.PROGRESS_PORT},
        ],
        "env": _environment(observed, stage, attempt, run, rules),
        "resources": {"requests": resources, "limits": dict(resources)},
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "work", "mountPath": names.PATH_WORKSPACE},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "run", "mountPath": "/etc/rlhf", "readOnly": True},
            # Volumes are numbered: the names of Secrets and claims may be longer than a volume's, and have dots.
            *(
                {"name": f"secret-{number}", "mountPath": f"{names.PATH_SECRETS}/{name}", "readOnly": True}
                for number, name in enumerate(secrets)
            ),
            *(
                {"name": f"claim-{number}", "mountPath": f"{names.PATH_CLAIMS}/{name}", "readOnly": stage.stage is None}
                for number, name in enumerate(claims)
            ),
        ],
    }


def _environment(observed: Observed, stage: StageSpec, attempt: int, run: bytes, rules: ProfileSpec) -> list[Body]:
    topology = stage.topology
    rank = {"fieldRef": {"fieldPath": f"metadata.labels['{names.LABEL_COMPLETION_INDEX}']"}}
    return [
        {"name": names.ENV_NUM_NODES, "value": str(topology.nodes)},
        {"name": names.ENV_PROCESSES_PER_NODE, "value": str(topology.num_processes_per_node)},
        {"name": names.ENV_NODE_RANK, "valueFrom": rank},
        {"name": names.ENV_MASTER_ADDRESS, "value": master_address(observed, stage, attempt)},
        {"name": names.ENV_MASTER_PORT, "value": str(names.RENDEZVOUS_PORT)},
        {"name": names.ENV_RUN_SHA256, "value": run_sha256(run)},
        *({"name": variable.name, "value": variable.value} for variable in rules.env),
    ]


def _resources(stage: StageSpec, rules: ProfileSpec) -> dict[str, str]:
    """Requests, which equal the limits. Shared memory counts as memory of the pod."""
    gpus = stage.topology.gpus_per_node
    if gpus and rules.gpu is not None:
        share = rules.resources.per_gpu
        extended = {name: str(int(count) * gpus) for name, count in share.extended.items()}
        memory = times_memory(share.memory, gpus)
        return {
            "cpu": times(share.cpu, gpus),
            "memory": add_memory(memory, rules.resources.shared_memory),
            rules.gpu.resource_name: str(gpus),
            **extended,
        }
    processes = stage.topology.num_processes_per_node
    memory = times_memory(rules.resources.per_process.memory, processes)
    return {"cpu": times(rules.resources.per_process.cpu, processes), "memory": add_memory(memory, rules.resources.shared_memory)}


def _tolerations(rules: ProfileSpec) -> list[Body]:
    """A lost node ends the gang after the profile's time, not after Kubernetes' five minutes."""
    lost = [
        {
            "key": f"node.kubernetes.io/{state}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": rules.retry.node_loss_seconds,
        }
        for state in ("not-ready", "unreachable")
    ]
    return [*lost, *(toleration.to_wire() for toleration in rules.scheduling.tolerations)]


def _outside(observed: Observed, stage: StageSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Secrets and claims that the stage mounts: in Prepare and Publish only."""
    spec, rules = observed.spec, observed.rules
    assert spec is not None
    assert rules is not None
    return (secrets_of(spec, stage, rules), claims_of(spec, stage)) if stage.reaches_outside else ((), ())


def _volumes(rules: ProfileSpec, claim: str) -> list[Body]:
    run = {"path": "run.json", "fieldRef": {"fieldPath": f"metadata.annotations['{names.ANNOTATION_RUN}']"}}
    return [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": rules.resources.shared_memory}},  # 64 MB, the default, breaks NCCL
        {"name": "tmp", "emptyDir": {"sizeLimit": "50Gi"}},
        {"name": "work", "persistentVolumeClaim": {"claimName": claim}},
        {"name": "run", "downwardAPI": {"items": [run]}},
    ]
