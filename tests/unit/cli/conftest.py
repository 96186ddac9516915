"""`rlhf` in this process: arguments in, exit code and what was printed out."""

from collections.abc import Callable

import pytest

from rlhf_cli.main import run

Rlhf = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rlhf(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rlhf:
    """Call `rlhf("validate", file)`; get exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(caught.value.code or 0), printed.out, printed.err

    return call
