"""`--claim NAME=DIR`."""

from pathlib import Path

import pytest

from rlhf_cli.claims import parse_claims
from rlhf_cli.errors import CommandError


def test_claims_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "a=b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_claims(["models=models", f"data={tmp_path}/a=b"]) == {"models": tmp_path / "models", "data": tmp_path / "a=b"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["models"], "--claim: 'models' must be NAME=DIR", id="no directory"),
        pytest.param(["=x"], "--claim: '=x' must be NAME=DIR", id="no name"),
        pytest.param(["a=.", "a=.."], "--claim: 'a' is given twice", id="twice"),
        pytest.param(["a=~nobody-here/x"], "--claim: 'a=~nobody-here/x' names no directory", id="the home of nobody"),
        pytest.param([f"a={'x' * 300}"], "names no directory", id="a name longer than any file may have"),
        pytest.param(["a=nowhere"], "--claim: 'a=nowhere' names no directory; create it first: mkdir -p nowhere", id="does not exist"),
    ],
)
def test_refused(options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match=message) as caught:
        parse_claims(options)
    assert caught.value.exit_code == 64
