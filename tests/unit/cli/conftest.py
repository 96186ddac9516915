"""`rlhf` for the tests of its commands."""

import pytest

from tests.support.cli import Rlhf, rlhf_in


@pytest.fixture
def rlhf(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rlhf:
    """Call `rlhf("validate", file)`; get exit code, standard output and standard error."""
    return rlhf_in(capsys, monkeypatch)
