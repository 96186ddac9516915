"""A whole cluster for real pods: a node beside a control plane, our images in it, the operator from its chart, profiles and volumes."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.cluster import ControlPlane
from tests.support.cluster.binaries import ensure
from tests.support.node import images, network, volumes
from tests.support.node.configs import PAUSE_IMAGE
from tests.support.node.debian import ensure_packages
from tests.support.node.machine import APISERVER_FLAGS, Node

NAMESPACE, RELEASE = "rlhf-system", "rlhf-operator"
FAKE_IMAGE = f"{images.PREFIX}/fake-trainer:1"
CHART = images.ROOT / "charts" / "rlhf-operator"
_FAKE = f"""\
FROM {images.BASE_IMAGE}
COPY rlhf-launch /usr/local/bin/rlhf-launch
USER 1000:1000
"""
_POOL = 24
_HELM_SECONDS = 180


def install(kubectl: Callable[..., str], kubeconfig: Path, node: Node, directory: Path) -> None:
    """Build what changed, hand it to the node, and return when the operator is ready and the profiles `default` and `fake` are there.

    Raises:
        RuntimeError: a tool failed; the message carries the end of its output.
    """
    store = build(directory)
    store.hand_to(node.socket, PAUSE_IMAGE, images.OPERATOR_IMAGE, FAKE_IMAGE, images.TRAINER_IMAGE)
    node.wait_until_ready(kubectl)
    volumes.make_pool(kubectl, directory / "volumes", _POOL)
    helm_install(kubeconfig, directory)


def build(scratch: Path) -> images.Images:
    """Every image of the cluster, as far as it changed."""
    store = images.Images()
    store.build_all()
    store.build_text(FAKE_IMAGE, _FAKE, {"rlhf-launch": executable(scratch)})
    return store


def executable(directory: Path) -> Path:
    """The fake launcher as a program of its own."""
    source = Path(__file__).with_name("fake_launcher.py").read_text(encoding="utf-8")
    file = directory / "rlhf-launch"
    file.write_text(f"#!/usr/bin/env python3\n{source}", encoding="utf-8")
    file.chmod(0o755)
    return file


def helm_install(kubeconfig: Path, directory: Path) -> None:
    """The operator from its chart, with the profiles of the test cluster."""
    file = directory / "values.json"
    file.write_text(json.dumps(values()), encoding="utf-8")
    helm = str(ensure("helm")["helm"])
    options = [f"--kubeconfig={kubeconfig}", f"--namespace={NAMESPACE}", "--create-namespace", f"--values={file}", "--wait"]
    command = [helm, "upgrade", "--install", RELEASE, str(CHART), *options, f"--timeout={_HELM_SECONDS}s"]
    homes = {f"HELM_{name}_HOME": str(directory / "helm" / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
    done = subprocess.run(command, env={**os.environ, **homes}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"helm upgrade ended with {done.returncode}: {done.stderr[-3000:]}")


def values() -> dict[str, Any]:
    """Values of the chart: local images, little of everything, and the profiles."""
    repository, _, tag = images.OPERATOR_IMAGE.rpartition(":")
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "profiles": [
            {"name": "default", "spec": profile(images.TRAINER_IMAGE, memory="3Gi")},
            {"name": "fake", "spec": profile(FAKE_IMAGE, memory="1Gi")},
        ],
    }


def profile(image: str, *, memory: str) -> dict[str, Any]:
    """A profile for two shared cores. The kubelet enforces no CPU limit, so what a pod requests only lets it be placed."""
    return {
        "image": image,
        "allowUnpinnedImage": True,
        "resources": {"perProcess": {"cpu": "100m", "memory": memory}, "sharedMemory": "128Mi"},
        "limits": {"maxNodes": 2, "maxGpus": 0, "maxStorage": "50Gi", "maxRunningJobsPerNamespace": 20},
        "storage": {"allowExistingClaims": True},
        "publish": {"allow": ["pvc://"]},
        "sources": {"allow": ["pvc://", "https://files.example.com/"]},
        "retry": {"backoffSeconds": 1},
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
    }


def fake_profile(name: str, **changes: object) -> dict[str, Any]:
    """The profile of the fake trainer under another name, with changes."""
    spec = profile(FAKE_IMAGE, memory="1Gi") | changes
    return {"apiVersion": "rlhf.dev/v1alpha1", "kind": "ClusterRLHFProfile", "metadata": {"name": name}, "spec": spec}


@dataclass(frozen=True, slots=True)
class Testbed:
    """A running cluster: where its API server is, and its node."""

    __test__ = False

    plane: ControlPlane
    node: Node


@contextmanager
def running(directory: Path) -> Iterator[Testbed]:
    """Everything above, from nothing to nothing: at the end no process, mount, device, cgroup or file is left.

    Raises:
        RuntimeError: something did not start; the message says what.
    """
    ensure_packages()
    network.up()
    try:
        with (
            ControlPlane.start(directory / "plane", address=network.API_ADDRESS, apiserver_flags=APISERVER_FLAGS) as plane,
            Node.start(directory / "node", plane.kubeconfig) as node,
        ):
            install(plane.kubectl, plane.kubeconfig, node, directory)
            yield Testbed(plane, node)
    finally:
        network.down()
        shutil.rmtree(directory, ignore_errors=True)
