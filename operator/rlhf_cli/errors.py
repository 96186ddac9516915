"""How a command refuses: an exit code and lines for standard error. `main.run` prints them; nothing else exits."""

from collections.abc import Iterable
from typing import Protocol


class ProblemLike(Protocol):
    """What `rlhf_api.validate.Problem` offers. A protocol, so that `rlhf --help` need not load pydantic."""

    @property
    def path(self) -> str: ...
    @property
    def value(self) -> object: ...
    @property
    def rule(self) -> str: ...
    @property
    def exit_code(self) -> int: ...


class CommandError(Exception):
    """The command cannot go on.

    Every line names a field, file or option, its value, the rule and the fix. `exit_code` is one of api.md section 9.
    """

    def __init__(self, exit_code: int, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.exit_code = int(exit_code)
        self.lines = lines


def line_of(problem: ProblemLike) -> str:
    """One problem as one line: `path: value rule`. A value too long for a line is cut: the path says where to look."""
    value = repr(problem.value)
    return f"{problem.path}: {value if len(value) <= 120 else value[:117] + '...'} {problem.rule}"


def exit_code_of(problems: Iterable[ProblemLike]) -> int:
    """0 without problems; 69 when every one is something that is Unsupported; else 64."""
    codes = {int(problem.exit_code) for problem in problems}
    if not codes:
        return 0
    return 69 if codes == {69} else 64


def refused(problems: Iterable[ProblemLike]) -> CommandError:
    """The error for a job or profile with these problems, all of them at once."""
    found = list(problems)
    return CommandError(exit_code_of(found), *(line_of(problem) for problem in found))
