"""Where each kind is in the API of Kubernetes: kind, namespace and name in, path out."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from rlhf_api import names
from rlhf_operator.shell.kube import Object

_GROUPS = {
    "api/v1": ("Pod", "Service", "PersistentVolumeClaim", "Event", "Namespace", "Node", "Secret"),
    "apis/apps/v1": ("ControllerRevision",),
    "apis/batch/v1": ("Job",),
    "apis/coordination.k8s.io/v1": ("Lease",),
    "apis/networking.k8s.io/v1": ("NetworkPolicy",),
    "apis/storage.k8s.io/v1": ("StorageClass",),
    f"apis/{names.API_VERSION}": (names.KIND_JOB, names.KIND_PROFILE),
}
PREFIXES = {kind: prefix for prefix, kinds in _GROUPS.items() for kind in kinds}
PLURALS = {kind: kind.lower() + "s" for kind in PREFIXES} | {"NetworkPolicy": "networkpolicies", "StorageClass": "storageclasses"}


def path_of(kind: str, namespace: str, name: str = "") -> str:
    """Path of an object, or of the collection, without a leading slash."""
    scope = f"namespaces/{quote(namespace)}/" if namespace else ""
    return f"{PREFIXES[kind]}/{scope}{PLURALS[kind]}" + (f"/{quote(name)}" if name else "")


def typed(kind: str, body: Mapping[str, Any]) -> Object:
    """The body with apiVersion and kind, which items of a listing lack."""
    return {"apiVersion": PREFIXES[kind].partition("/")[2], "kind": kind, **body}
