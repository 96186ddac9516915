"""Directories of jobs whose files were cut off, by a full disk for example: named, and no reason to hide the other jobs."""

import json
from pathlib import Path

import pytest

from tests.support.cli import Rlhf


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
    pytest.param("state/RLHFJob/default/cut.json", "delete .rlhf/cut", id="the job"),
]


@pytest.mark.parametrize(("file", "fix"), CUT)
def test_the_list_leaves_out_a_damaged_job_and_names_the_file(file: str, fix: str, rlhf: Rlhf) -> None:
    (Path(".rlhf/cut") / file).write_text('{"cl')
    code, printed, said = rlhf("get")
    assert code == 0
    assert [line.split()[0] for line in printed.splitlines()[1:]] == ["whole"]
    assert said == f".rlhf/cut/{file}: is damaged (no JSON): {fix}\n"


@pytest.mark.parametrize(("file", "fix"), CUT)
@pytest.mark.parametrize("command", ["get", "describe", "logs", "cancel", "resume"])
def test_a_damaged_job_is_refused_by_name(command: str, file: str, fix: str, rlhf: Rlhf) -> None:
    (Path(".rlhf/cut") / file).write_text("")
    assert rlhf(command, "cut") == (1, "", f".rlhf/cut/{file}: is damaged (no JSON): {fix}\n")


def test_a_job_cannot_start_where_a_damaged_one_lies(rlhf: Rlhf, tmp_path: Path) -> None:
    Path(".rlhf/cut/session.json").write_text("")
    assert rlhf("new", "cut", "--until", "sft")[0] == 0
    code, _, said = rlhf("run", "cut.yaml", "--fresh")
    assert (code, said.split(":")[0]) == (1, ".rlhf/cut/session.json")
