"""Directories of jobs whose files were cut off, by a full disk for example, or that belong to others: named, and no reason to hide the other jobs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_cli import workdirs
from tests.support.cli import Rlhf
from tests.support.modes import modes_hold


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with the jobs `whole` and `cut`."""
    monkeypatch.chdir(tmp_path)
    for name in ("whole", "cut"):
        state = tmp_path / ".rlhf" / name / "state" / "RLHFJob" / "default"
        state.mkdir(parents=True)
        (state / f"{name}.json").write_text(json.dumps({"kind": "RLHFJob", "metadata": {"name": name}, "status": {"phase": "Running"}}))
        (tmp_path / ".rlhf" / name / "session.json").write_text('{"claims": {}}')
    return tmp_path


CUT = [
    pytest.param("session.json", "delete it, and name the claims again (rlhf resume --claim NAME=DIR)", id="the claims"),
    pytest.param("state/RLHFJob/default/cut.json", "delete .rlhf/cut, or start over with rlhf run --fresh", id="the job"),
    pytest.param("state/Pod/default/cut-sft-r1-0.json", "delete .rlhf/cut, or start over with rlhf run --fresh", id="a pod"),
    pytest.param("state/Event/default/cut.1.json", "delete it: nothing depends on an event", id="an event"),
]


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(("file", "fix"), CUT)
def test_the_list_leaves_out_a_damaged_job_and_names_the_file(file: str, fix: str, rlhf: Rlhf) -> None:
    write(Path(".rlhf/cut") / file, '{"cl')
    code, printed, said = rlhf("get")
    assert code == 0
    assert [line.split()[0] for line in printed.splitlines()[1:]] == ["whole"]
    assert said == f".rlhf/cut/{file}: is damaged (no JSON): {fix}\n"


@pytest.mark.parametrize(("file", "fix"), CUT)
@pytest.mark.parametrize("command", ["get", "describe", "logs", "cancel", "resume"])
def test_a_damaged_job_is_refused_by_name(command: str, file: str, fix: str, rlhf: Rlhf) -> None:
    write(Path(".rlhf/cut") / file, "")
    assert rlhf(command, "cut") == (1, "", f".rlhf/cut/{file}: is damaged (no JSON): {fix}\n")


def test_a_job_cannot_start_where_a_damaged_one_lies(rlhf: Rlhf, tmp_path: Path) -> None:
    Path(".rlhf/cut/session.json").write_text("")
    assert rlhf("new", "cut", "--until", "sft")[0] == 0
    code, _, said = rlhf("run", "cut.yaml", "--fresh")
    assert (code, said.split(":")[0]) == (1, ".rlhf/cut/session.json")


def test_a_file_that_is_deleted_meanwhile_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workdirs, "_files_below", lambda directory: iter([directory / "Event" / "default" / "gone.json"]))
    assert workdirs.damage_of(Path(".rlhf/whole")) is None


@pytest.fixture
def foreign(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file or directory of the job `cut` that this user may not read."""
    path = Path(".rlhf/cut") / request.param
    write(Path(".rlhf/cut/lock"), "1")
    mode = path.stat().st_mode
    path.chmod(0)
    with modes_hold():
        yield path
    path.chmod(mode)


PARTS = pytest.mark.parametrize("foreign", [".", "state", "state/RLHFJob/default", "session.json", "lock"], indirect=True)


@PARTS
def test_the_list_leaves_out_a_job_that_may_not_be_read(foreign: Path, rlhf: Rlhf) -> None:
    code, printed, said = rlhf("get")
    assert code == 0
    assert [line.split()[0] for line in printed.splitlines()[1:]] == ["whole"]
    assert said.startswith(f"{foreign}")
    assert said.endswith(": cannot be read (Permission denied): get access to it, or take another directory (--workdir)\n")


@PARTS
@pytest.mark.parametrize("command", ["get", "describe", "logs", "cancel", "resume"])
def test_a_job_that_may_not_be_read_is_refused_by_name(foreign: Path, command: str, rlhf: Rlhf) -> None:
    code, printed, said = rlhf(command, "cut")
    assert (code, printed) == (1, "")
    assert said.startswith(f"{foreign}")
    assert "cannot be read (Permission denied)" in said


@PARTS
def test_a_job_cannot_start_where_one_lies_that_may_not_be_read(foreign: Path, rlhf: Rlhf) -> None:
    assert rlhf("new", "cut", "--until", "sft").code == 0
    code, _, said = rlhf("run", "cut.yaml")
    assert (code, said.count("\n")) == (1, 1)
    assert "cannot be read (Permission denied)" in said


def test_all_jobs_may_be_unreadable(rlhf: Rlhf) -> None:
    Path(".rlhf").chmod(0)
    with modes_hold():
        code, _, said = rlhf("get")
    Path(".rlhf").chmod(0o755)
    assert (code, said.split(":")[:2]) == (1, [".rlhf", " cannot be read (Permission denied)"])


@pytest.mark.parametrize("command", ["get", "describe", "logs", "cancel", "resume"])
def test_a_name_longer_than_any_file_may_have_is_no_job(command: str, rlhf: Rlhf) -> None:
    code, _, said = rlhf(command, "x" * 300)
    assert code == 64
    assert said == f"JOB: '{'x' * 300}' is no job here: the jobs below .rlhf are cut, whole\n"
