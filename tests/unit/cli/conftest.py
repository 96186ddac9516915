"""`rlhf` for the tests of its commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_cli.main import run_plugin
from tests.support.cli import Rlhf, rlhf_in
from tests.support.small_api import SmallApi, small_api


@pytest.fixture
def rlhf(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rlhf:
    """Call `rlhf("validate", file)`; get exit code, standard output and standard error."""
    return rlhf_in(capsys, monkeypatch)


@pytest.fixture
def kubectl_rlhf(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rlhf:
    """Call `kubectl rlhf get …`."""
    return rlhf_in(capsys, monkeypatch, run_plugin)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[SmallApi]:
    """A small API server; its kubeconfig names the namespace team-a."""
    with small_api(tmp_path) as served:
        yield served
