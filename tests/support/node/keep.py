"""`make cluster-up`: the whole cluster, left running for people. `make cluster-down` in another process takes every trace of it away.

Artifacts go to `models/` of the repository, as those of `make demo` do, so they stay when the cluster is gone.
"""

import shutil
from pathlib import Path

from tests.support.cluster import ControlPlane, state
from tests.support.node import network, testbed, volumes
from tests.support.node.debian import ensure_packages
from tests.support.node.images import ROOT
from tests.support.node.machine import APISERVER_FLAGS, Node

_PROGRAMS = "programs.json"


def up(where: Path) -> ControlPlane:
    """Start everything: control plane, node, operator, profiles, and a claim `models` for artifacts.

    Raises:
        RuntimeError: a cluster is running already, or something did not start; then nothing is left running.
    """
    if running := state.living(where / _PROGRAMS):
        raise RuntimeError(f"a cluster is running already ({', '.join(running)}): make cluster-down")
    down(where)
    ensure_packages()
    network.up()
    try:
        plane = ControlPlane.start(where, address=network.API_ADDRESS, outlives_us=True, apiserver_flags=APISERVER_FLAGS)
        state.write(where / _PROGRAMS, plane.pids)
        node = Node.start(where / "node", plane.kubeconfig, outlives_us=True)
        testbed.install(plane.kubectl, plane.kubeconfig, node, where)
        volumes.make_claim(plane.kubectl, "default", "models", ROOT / "models")
    except BaseException:
        down(where)
        raise
    return plane


def down(where: Path) -> None:
    """End the cluster and remove every trace of it; harmless when nothing runs. Built programs and images stay in the cache."""
    Node(where / "node").stop()
    state.end(where / _PROGRAMS)
    network.down()
    shutil.rmtree(where, ignore_errors=True)
