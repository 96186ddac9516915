"""One control plane and one scripted kubelet for all cluster tests; a namespace and, where a file wants it, an operator for each.

The control plane takes seconds to start and is shared. What a test breaks (the API server, the operator) it repairs itself.
"""

from collections.abc import Iterator

import pytest

from tests.support.cluster import ControlPlane, install_crds
from tests.support.cluster.backend import play_of
from tests.support.cluster.kubelet import ScriptedKubelet
from tests.support.cluster.operator import Operator
from tests.support.cluster.rest import Refused
from tests.support.cluster.world import World, install_storage
from tests.support.eventually import eventually
from tests.support.manifests import changed, hello_rlhf

NODE_LOSS_SECONDS = 8
"""How long the node controller waits for a lease. Real clusters wait 50 s; much less would lose nodes of a busy test machine."""


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    flags = (f"--node-monitor-grace-period={NODE_LOSS_SECONDS}s", "--node-monitor-period=1s")
    with ControlPlane.start(tmp_path_factory.mktemp("plane"), controller_flags=flags) as plane:
        install_crds(plane)
        install_storage(plane)
        _wait_for_change_policy(plane)
        yield plane


def _wait_for_change_policy(plane: ControlPlane) -> None:
    """A policy is enforced a moment after it was created: try until it refuses what it must refuse."""
    rest = plane.rest()
    path = "/apis/rlhf.dev/v1alpha1/namespaces/default/rlhfjobs"
    rest.create(path, hello_rlhf())
    renamed = changed(rest.get(f"{path}/hello-rlhf"), {"spec.stages[0].name": "other"})

    def is_refused() -> bool:
        try:
            rest.request("PUT", f"{path}/hello-rlhf", renamed, query={"dryRun": "All"})
        except Refused as refused:
            return "stages cannot be" in refused.message
        return False

    eventually(is_refused, 20, "the policy about changes is enforced")
    rest.delete(f"{path}/hello-rlhf")
    rest.close()


@pytest.fixture(scope="session")
def kubelet(plane: ControlPlane) -> Iterator[ScriptedKubelet]:
    with ScriptedKubelet(plane, script=play_of) as kubelet:
        yield kubelet


@pytest.fixture
def world(plane: ControlPlane, kubelet: ScriptedKubelet) -> Iterator[World]:
    """A namespace with a profile."""
    world = World(plane, kubelet)
    world.profile()
    yield world
    world.close()


@pytest.fixture(scope="module")
def operator(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The operator, for all tests of a file."""
    with Operator(plane, tmp_path_factory.mktemp("operator")) as operator:
        yield operator.wait_until_watching()
