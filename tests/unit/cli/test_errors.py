"""Problems become lines and exit codes."""

from rlhf_api.outcome import ExitCode
from rlhf_api.problems import Problem
from rlhf_cli.errors import refused


def test_all_problems_are_said_at_once() -> None:
    error = refused(
        [Problem("spec.seed", -1, "must be at least 0: try 42"), Problem("spec.strategy", "3d", "is not supported", ExitCode.UNSUPPORTED)]
    )
    assert error.exit_code == 64
    assert error.lines == ("spec.seed: -1 must be at least 0: try 42", "spec.strategy: '3d' is not supported")


def test_only_things_that_are_not_supported() -> None:
    assert refused([Problem("spec.strategy", "3d", "is not supported", ExitCode.UNSUPPORTED)]).exit_code == 69
