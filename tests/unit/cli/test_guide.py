"""The guide shows what the program prints."""

from pathlib import Path

import pytest

from tests.support.cli import Rlhf

GUIDE = Path(__file__).parents[3] / "docs" / "guide.md"


def test_two_mistakes_are_named_as_the_guide_shows(rlhf: Rlhf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rlhf("new", "my-chat")
    job = Path("my-chat.yaml")
    text = job.read_text().replace("globalBatchSize: 32", "globalBatchSise: 32", 1).replace("minibatchSize: 64", "minibatchSize: 48", 1)
    job.write_text(text)
    code, _, said = rlhf("validate", job)
    assert code == 64
    assert f"```console\n$ rlhf validate my-chat.yaml\n{said}```" in GUIDE.read_text()
