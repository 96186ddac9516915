"""The two custom resource definitions, around the schemas of their models."""

from rlhf_api import names
from rlhf_api.base import Wire
from rlhf_api.crd.schema import root_schema
from rlhf_api.job import RLHFJob
from rlhf_api.profile import ClusterRLHFProfile

_AGE = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}


def _column(name: str, json_path: str, *, column_type: str = "string", is_wide: bool = False) -> Wire:
    column: Wire = {"name": name, "type": column_type, "jsonPath": json_path}
    return column | ({"priority": 1} if is_wide else {})


def job_definition() -> Wire:
    """The definition of RLHFJob."""
    columns = [
        _column("Phase", ".status.phase"),
        _column("Stage", ".status.currentStage"),
        _column("Done", ".status.stagesSummary"),
        _column("Reason", ".status.reason"),
        _AGE,
        _column("Profile", ".spec.profile", is_wide=True),
        _column("Queue", ".spec.queueName", is_wide=True),
        _column("GPU-Seconds", ".status.gpuSeconds", column_type="integer", is_wide=True),
    ]
    version = _version(root_schema(RLHFJob), columns)
    version["selectableFields"] = [{"jsonPath": ".spec.profile"}, {"jsonPath": ".spec.queueName"}]
    return _definition(names.KIND_JOB, names.PLURAL_JOB, names.SHORT_JOB, "Namespaced", list(names.CATEGORIES), version)


def profile_definition() -> Wire:
    """The definition of ClusterRLHFProfile."""
    columns = [
        _column("GPU", ".spec.gpu.product"),
        _column("Max-GPUs", ".spec.limits.maxGpus", column_type="integer"),
        _column("Running", ".status.runningJobs", column_type="integer"),
        _column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
        _AGE,
        _column("Image", ".spec.image", is_wide=True),
    ]
    version = _version(root_schema(ClusterRLHFProfile), columns)
    return _definition(names.KIND_PROFILE, names.PLURAL_PROFILE, names.SHORT_PROFILE, "Cluster", ["ml"], version)


def _version(schema: Wire, columns: list[Wire]) -> Wire:
    return {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
        "schema": {"openAPIV3Schema": schema},
    }


def _definition(kind: str, plural: str, short: str, scope: str, categories: list[str], version: Wire) -> Wire:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": scope,
            # A category that equals a short name would win: `kubectl get rlhf` must mean the jobs.
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": categories,
            },
            "versions": [version],
        },
    }
