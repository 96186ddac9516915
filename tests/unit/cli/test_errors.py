"""Problems become lines and exit codes."""

from dataclasses import dataclass

import pytest

from rlhf_cli.errors import exit_code_of, line_of, refused


@dataclass(frozen=True)
class AProblem:
    path: str = "spec.seed"
    value: object = -1
    rule: str = "must be at least 0: try 42"
    exit_code: int = 64


def test_a_line_has_path_value_and_rule() -> None:
    assert line_of(AProblem()) == "spec.seed: -1 must be at least 0: try 42"


def test_a_long_value_is_cut() -> None:
    assert len(line_of(AProblem(value="x" * 1000))) < 200


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        pytest.param([], 0, id="no problem"),
        pytest.param([64], 64, id="a mistake"),
        pytest.param([69, 69], 69, id="only things that are not supported"),
        pytest.param([69, 64], 64, id="a mistake beside something not supported"),
    ],
)
def test_exit_code(codes: list[int], expected: int) -> None:
    assert exit_code_of(AProblem(exit_code=code) for code in codes) == expected


def test_all_problems_are_said_at_once() -> None:
    error = refused([AProblem(), AProblem(path="spec.stages", exit_code=69)])
    assert error.exit_code == 64
    assert len(error.lines) == 2
