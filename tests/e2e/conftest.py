"""One cluster for all end-to-end tests, and jobs in it. A component that is missing or does not start fails the tests; none is skipped."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cluster import ControlPlane
from tests.support.node import testbed
from tests.support.node.live import LiveJob
from tests.support.node.testbed import Testbed


@pytest.fixture(scope="session")
def directory() -> Path:
    """Short, because the paths of sockets are; not pytest's own, which keeps old ones."""
    return Path(tempfile.mkdtemp(prefix="rlhf-e2e-"))


@pytest.fixture(scope="session")
def bed(directory: Path) -> Iterator[Testbed]:
    """The running cluster."""
    with testbed.running(directory) as running:
        yield running


@pytest.fixture(scope="session")
def plane(bed: Testbed) -> ControlPlane:
    """Its control plane."""
    return bed.plane


@pytest.fixture
def new_job(plane: ControlPlane, directory: Path) -> Iterator[Callable[[str], LiveJob]]:
    """Makes jobs; at the end of the test they are removed."""
    made: list[LiveJob] = []

    def make(name: str) -> LiveJob:
        made.append(LiveJob(plane, name, directory / "jobs" / name))
        return made[-1]

    yield make
    for job in made:
        job.remove()
