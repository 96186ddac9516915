"""The directory of a job: one driver at a time, notes between processes, and reading without disturbing."""

import threading
from pathlib import Path

import pytest

from rlhf_operator.local.workdir import Busy, NoSuchJob, Workdir
from tests.support.modes import modes_hold


def test_one_process_drives_and_others_are_told_which(tmp_path: Path) -> None:
    place = Workdir(tmp_path)
    assert not place.is_driven()
    with place.drive():
        assert place.is_driven()
        with pytest.raises(Busy, match=r"process \d+ drives this job"), place.drive():
            pass
    assert not place.is_driven()


def test_asking_does_not_keep_anybody_from_driving(tmp_path: Path) -> None:
    place = Workdir(tmp_path)
    with place.drive():
        pass
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            place.is_driven()

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        with place.drive():
            pass
    stop.set()
    for thread in threads:
        thread.join()


def test_a_note_is_taken_once(tmp_path: Path) -> None:
    place = Workdir(tmp_path)
    assert not place.take_suspend_note()
    place.ask_to_suspend()
    assert place.take_suspend_note()
    assert not place.take_suspend_note()


def test_claims_are_remembered(tmp_path: Path) -> None:
    place = Workdir(tmp_path)
    assert place.read_claims() == {}
    place.write_claims({"models": tmp_path / "m"})
    assert place.read_claims() == {"models": tmp_path / "m"}


def test_a_profile_is_remembered_beside_the_claims(tmp_path: Path) -> None:
    place = Workdir(tmp_path)
    assert place.read_profile() is None
    place.write_claims({"models": tmp_path / "m"})
    place.write_profile({"image": "local"})
    place.write_claims({"data": tmp_path / "d"})
    assert (place.read_profile(), place.read_claims()) == ({"image": "local"}, {"data": tmp_path / "d"})


def test_who_may_only_read_can_ask_whether_it_is_driven(tmp_path: Path) -> None:
    place = Workdir(tmp_path)
    with place.drive():
        (tmp_path / "lock").chmod(0o444)
        with modes_hold():
            assert place.is_driven()
    with modes_hold():
        assert not place.is_driven()


def test_an_empty_directory_has_no_job_and_no_events(tmp_path: Path) -> None:
    with pytest.raises(NoSuchJob):
        Workdir(tmp_path).read_job()
    assert Workdir(tmp_path).read_events() == []
