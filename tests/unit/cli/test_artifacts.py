"""`rlhf chat` and `plot`, without a model."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_cli import conversation
from rlhf_cli.commands.artifacts import model_directory
from rlhf_cli.errors import CommandError
from tests.support.cli import Rlhf


class Repeater:
    def reply(self, messages: list[dict[str, str]], *, max_new_tokens: int, temperature: float) -> str:
        return f"{len(messages)} {messages[-1]['content']} {max_new_tokens} {temperature}"


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that looks like a model, and a model that repeats."""
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(conversation, "_load", lambda directory: Repeater())
    return tmp_path


def test_messages_are_one_conversation(rlhf: Rlhf, artifact: Path) -> None:
    called = rlhf("chat", artifact, "-m", "hello", "-m", "你好", "--temperature", 0.5, "--max-new-tokens", 9)
    assert called == (0, "1 hello 9 0.5\n3 你好 9 0.5\n", "")


def test_a_conversation_reads_standard_input(rlhf: Rlhf, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Any = iter(["hello", ""])
    monkeypatch.setattr("builtins.input", lambda *_: next(answers))
    code, printed, _ = rlhf("chat", artifact)
    assert code == 0
    assert "model> 1 hello 256 0.0" in printed


@pytest.mark.parametrize("place", [".", "model", "output/model"])
def test_the_model_is_found_in_an_artifact_an_output_and_an_attempt(place: str, tmp_path: Path) -> None:
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / place / "config.json").write_text("{}")
    assert model_directory(tmp_path) == tmp_path / place


def test_a_directory_without_model(rlhf: Rlhf, tmp_path: Path) -> None:
    code, _, said = rlhf("chat", tmp_path, "-m", "hello")
    assert code == 66
    assert said == f"ARTIFACT: '{tmp_path}' has no model (config.json): name the directory that `rlhf run` printed last\n"
    with pytest.raises(CommandError):
        model_directory(tmp_path / "nowhere")
    with pytest.raises(CommandError, match="has no model"):
        model_directory(tmp_path / ("x" * 300))


def write_metrics(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "metrics.jsonl").write_text("".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in (1, 2, 3)))


def test_curves_are_drawn_beside_the_metrics(rlhf: Rlhf, tmp_path: Path) -> None:
    write_metrics(tmp_path / "volume" / "uid" / "stages" / "sft" / "r1")
    assert rlhf("plot", tmp_path) == (0, f"wrote {tmp_path}/curves.png (sft)\n", "")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw(rlhf: Rlhf, tmp_path: Path) -> None:
    code, _, said = rlhf("plot", tmp_path)
    assert code == 66
    assert "has no metrics.jsonl with steps" in said


def test_a_picture_that_cannot_be_written(rlhf: Rlhf, tmp_path: Path) -> None:
    write_metrics(tmp_path / "stages" / "sft" / "r1")
    code, _, said = rlhf("plot", tmp_path, "--to", tmp_path / "nowhere" / "x.png")
    assert code == 74
    assert "No such file or directory" in said
