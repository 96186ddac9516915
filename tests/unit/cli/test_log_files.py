"""Reading logs while they grow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_cli import log_files
from rlhf_cli.errors import CommandError
from tests.support.statuses import a_job, a_stage


def logs_dir(root: Path) -> Callable[[str, int], Path]:
    return lambda stage, attempt: root / f"{stage}-r{attempt}"


def write(root: Path, stage: str, attempt: int, text: str, pod: int = 0) -> None:
    directory = root / f"{stage}-r{attempt}"
    directory.mkdir(exist_ok=True)
    with (directory / f"pod-{pod}.log").open("a") as stream:
        stream.write(text)


JOB = a_job(a_stage("prepare", "Prepare", "Succeeded"), a_stage("sft", attempt=2), a_stage("ppo", "PPO", "Pending", attempt=0))


def test_the_newest_attempt_of_every_stage(tmp_path: Path) -> None:
    for stage, attempt in (("prepare", 1), ("sft", 1), ("sft", 2)):
        write(tmp_path, stage, attempt, "x\n")
    found = log_files.files_of(JOB, None, None, logs_dir(tmp_path))
    assert [file.parent.name for file in found] == ["prepare-r1", "sft-r2"]


def test_one_stage_and_an_older_attempt(tmp_path: Path) -> None:
    write(tmp_path, "sft", 1, "x\n")
    write(tmp_path, "sft", 1, "y\n", pod=1)
    found = log_files.files_of(JOB, "sft", 1, logs_dir(tmp_path))
    assert [str(file.relative_to(tmp_path)) for file in found] == ["sft-r1/pod-0.log", "sft-r1/pod-1.log"]


@pytest.mark.parametrize(
    ("stage", "attempt", "message"),
    [
        pytest.param("sfd", None, "STAGE: 'sfd' is no stage of this job: prepare, sft, ppo", id="unknown stage"),
        pytest.param("sft", 7, "--attempt: 7 has no logs: the newest is 2", id="unknown attempt"),
    ],
)
def test_refused(stage: str, attempt: int | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=message):
        log_files.files_of(JOB, stage, attempt, logs_dir(tmp_path))


def test_a_stage_that_never_started_has_no_files(tmp_path: Path) -> None:
    assert log_files.files_of(JOB, "ppo", None, logs_dir(tmp_path)) == []


def test_only_whole_lines_until_the_end(tmp_path: Path) -> None:
    reader = log_files.LogReader()
    write(tmp_path, "sft", 1, "one\ntw")
    file = tmp_path / "sft-r1" / "pod-0.log"
    assert reader.new_text(file, is_final=False) == "one\n"
    assert reader.new_text(file, is_final=False) == ""
    write(tmp_path, "sft", 1, "o\nthree")
    assert reader.new_text(file, is_final=False) == "two\n"
    assert reader.new_text(file, is_final=True) == "three"


def test_follow_goes_over_to_the_next_attempt_and_ends_with_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state: dict[str, Any] = {"attempt": 1, "phase": "Running"}

    def read_job() -> dict[str, Any]:
        return a_job(a_stage("sft", attempt=state["attempt"], phase=state["phase"]))

    def next_moment(_: float) -> None:
        if state["attempt"] == 1:
            state["attempt"] = 2
            write(tmp_path, "sft", 2, "second\n")
        else:
            state["phase"] = "Succeeded"
            write(tmp_path, "sft", 2, "last")

    monkeypatch.setattr("time.sleep", next_moment)
    write(tmp_path, "sft", 1, "first\n")
    texts = log_files.follow(read_job, lambda: True, lambda job: log_files.files_of(job, "sft", None, logs_dir(tmp_path)), "sft")
    assert list(texts) == ["first\n", "second\n", "last"]


def test_without_anybody_running_the_job_it_prints_once(tmp_path: Path) -> None:
    write(tmp_path, "sft", 2, "all of it")
    texts = log_files.follow(lambda: JOB, lambda: False, lambda job: log_files.files_of(job, None, None, logs_dir(tmp_path)), None)
    assert list(texts) == ["all of it"]
