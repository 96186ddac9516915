"""`rlhf` in this process: arguments in, exit code and what was printed out. Starting a Python for each call would take most of the time."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

import pytest

from rlhf_cli.main import run

HELLO = """\
apiVersion: rlhf.dev/v1alpha1
kind: RLHFJob
metadata: {name: hello}
spec:
  model: {source: {uri: "builtin://models/tiny-llama"}}
  topology: {gpusPerNode: 0}
  storage: {size: 1Gi}
  stages:
  - {name: sft, type: SFT, sft: {dataset: {uri: "builtin://datasets/tiny-chat-sft"}, maxSteps: 10, globalBatchSize: 8}}
"""
"""The smallest job file: one stage on the built-in data."""


class Called(NamedTuple):
    """How a call ended."""

    code: int
    out: str
    err: str


Rlhf = Callable[..., Called]


def rlhf_in(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, program: Callable[[Sequence[str]], NoReturn] = run
) -> Rlhf:
    """A function: `rlhf("validate", file)`. Lines are 140 wide and without colour. `program` is another entry point."""
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments: object) -> Called:
        with pytest.raises(SystemExit) as caught:
            program([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Called(int(caught.value.code or 0), printed.out, printed.err)

    return call
