"""Job semantics on the real controllers: the same cases that the embedded backend passes."""

from pathlib import Path

import pytest

from tests.support.cluster.backend import ClusterBackend
from tests.support.cluster.world import World
from tests.support.job_semantics import JobSemantics


@pytest.fixture
def cluster(world: World, tmp_path: Path) -> ClusterBackend:
    return ClusterBackend(world, tmp_path)


class TestRealControllers(JobSemantics):
    """The measured cluster itself."""
