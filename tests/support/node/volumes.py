"""PersistentVolumes for a cluster of one node: directories of this machine, made in advance, bound to claims by size and class.

hostPath volumes know nothing of fsGroup, so the directories let everybody write, as the root of a shared file system often does.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

STORAGE_CLASS = "rlhf-test"
_DEFAULT = "storageclass.kubernetes.io/is-default-class"


def storage_class() -> dict[str, Any]:
    """The cluster's default class: no provisioner, claims bind to what is there."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS, "annotations": {_DEFAULT: "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "Immediate",
    }


def volume(name: str, directory: Path, *, claim: tuple[str, str] | None = None, size: str = "50Gi") -> dict[str, Any]:
    """A volume on a directory, which is made. `claim`: namespace and name of the only claim that may have it."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o777)
    spec: dict[str, Any] = {
        "capacity": {"storage": size},
        "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": STORAGE_CLASS,
        "hostPath": {"path": str(directory), "type": "Directory"},
    }
    if claim is not None:
        spec["claimRef"] = {"namespace": claim[0], "name": claim[1]}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}


def claim(namespace: str, name: str, volume_name: str) -> dict[str, Any]:
    """A claim of exactly one volume."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": STORAGE_CLASS,
            "volumeName": volume_name,
        },
    }


def make_pool(kubectl: Callable[..., str], directory: Path, count: int) -> None:
    """`count` volumes below a directory, for claims that jobs make themselves."""
    pool = [volume(f"pool-{number}", directory / f"pool-{number}") for number in range(count)]
    apply(kubectl, storage_class(), *pool)


def make_claim(kubectl: Callable[..., str], namespace: str, name: str, directory: Path) -> None:
    """A claim of a directory, bound when this returns."""
    volume_name = f"{namespace}-{name}"
    apply(kubectl, volume(volume_name, directory, claim=(namespace, name)), claim(namespace, name, volume_name))
    kubectl("wait", "--namespace", namespace, "--for=jsonpath={.status.phase}=Bound", f"pvc/{name}", "--timeout=60s")


def remove_claim(kubectl: Callable[..., str], namespace: str, name: str) -> None:
    """Give the claim and its volume up; both go when the last pod that uses them is gone."""
    kubectl("delete", "--namespace", namespace, "--wait=false", f"pvc/{name}")
    kubectl("delete", "--wait=false", f"pv/{namespace}-{name}")


def apply(kubectl: Callable[..., str], *objects: dict[str, Any]) -> None:
    """kubectl apply of these objects."""
    kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))
