"""Forgetting a job: its left-over processes, and what the embedded backend made; also when a file of it is damaged."""

import json
from pathlib import Path

import pytest

from rlhf_operator.local.discard import discard
from rlhf_operator.local.processes import PodProcess, Running
from rlhf_operator.local.workdir import Workdir


class Leftovers:
    """A runtime that notes whose processes it was asked to end."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def start(self, pod: PodProcess) -> Running:
        raise NotImplementedError

    def end_leftovers(self, pod_uid: str) -> bool:
        self.ended.append(pod_uid)
        return True


def test_processes_end_and_what_was_made_goes(tmp_path: Path) -> None:
    _pod(tmp_path, "whole", json.dumps({"metadata": {"uid": "u-1"}}))
    (tmp_path / "session.json").write_text("{}")
    (tmp_path / "mine.txt").write_text("kept")
    runtime = Leftovers()
    discard(Workdir(tmp_path), runtime)
    assert runtime.ended == ["u-1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "mine.txt"]


@pytest.mark.parametrize("text", ["", '{"meta', "[]", "{}", '{"metadata": null}'])
def test_a_damaged_pod_keeps_nobody_from_discarding(text: str, tmp_path: Path) -> None:
    _pod(tmp_path, "cut", text)
    _pod(tmp_path, "whole", json.dumps({"metadata": {"uid": "u-1"}}))
    runtime = Leftovers()
    discard(Workdir(tmp_path), runtime)
    assert runtime.ended == ["u-1"]
    assert not (tmp_path / "state").exists()


def _pod(directory: Path, name: str, text: str) -> None:
    pods = directory / "state" / "Pod" / "default"
    pods.mkdir(parents=True, exist_ok=True)
    (pods / f"{name}.json").write_text(text)
