"""The real trainer and a volume that is too small (operator.md section 11)."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.jobs import SFT
from tests.support.node.live import STEP_SECONDS, LiveJob
from tests.support.node.testbed import Testbed

LONG_SECONDS = 300.0
NAME = "disk-full"


@pytest.fixture
def small_volume(bed: Testbed, directory: Path) -> Iterator[Path]:
    """A file system of its own, as the node sees it, where the job of that name will have its volume."""
    place = directory / "jobs" / NAME
    place.mkdir(parents=True)
    bed.node.run("mount", "-t", "tmpfs", "-o", "size=64m,mode=777", "tmpfs", str(place))
    yield bed.node.seen(place)
    bed.node.run("umount", "--lazy", str(place))


def fill(file: Path) -> None:
    """Take all room but a megabyte."""
    free = os.statvfs(file.parent)
    file.write_bytes(b"\0" * max(0, free.f_bavail * free.f_frsize - (1 << 20)))


def test_a_full_disk_is_counted_and_the_stage_goes_on_when_there_is_room(new_job: Callable[[str], LiveJob], small_volume: Path) -> None:
    job = new_job(NAME)
    job.apply({"sft": SFT}, profile="default", topology={"gpusPerNode": 0}, checkpoint={"everySteps": 4})
    job.wait_for_phase("prepare", "Succeeded", seconds=LONG_SECONDS)
    fill(small_volume / "ballast")
    job.wait(lambda: job.attempt("sft", 1).get("outcome"), "the end of the first attempt", LONG_SECONDS)
    (small_volume / "ballast").unlink()
    job.wait_for_completion(LONG_SECONDS)
    first = job.attempt("sft", 1)
    assert (first["outcome"], first["exitCode"], first["budget"]) == ("Storage", 74, "Attempt")
    job.delete()
    eventually(lambda: not job.pods(), STEP_SECONDS, "the end of the job's pods")
