"""What is wrong with a document: problems, and the errors that carry them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from rlhf_api.outcome import ExitCode

_LONGEST_VALUE = 120


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to repair."""

    path: str
    """As the user typed it: `spec.stages[2].ppo.rolloutBatchSize`. Empty for the document itself."""
    value: object
    """What stands there, or `UNSET`."""
    rule: str
    """What must hold, ending in the fix."""
    exit_code: ExitCode = field(default=ExitCode.CONFIG, compare=False)

    def __str__(self) -> str:
        value = repr(self.value)
        shown = value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}…"
        return f"{self.path or 'document'}: {shown} {self.rule}"


class InvalidDocument(ValueError):
    """A job or profile that breaks rules; `problems` has all of them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @property
    def exit_code(self) -> ExitCode:
        """69 when every problem is a combination or source that is Unsupported, else 64."""
        return exit_code_of(self.problems)


class InvalidJob(InvalidDocument):
    """A job file that breaks rules."""


class InvalidProfile(InvalidDocument):
    """A profile that breaks rules."""


def exit_code_of(problems: Iterable[Problem]) -> ExitCode:
    """The exit code that a list of problems calls for: 0 without any, 69 when all are Unsupported, else 64."""
    codes = {problem.exit_code for problem in problems}
    if not codes:
        return ExitCode.SUCCEEDED
    return ExitCode.UNSUPPORTED if codes == {ExitCode.UNSUPPORTED} else ExitCode.CONFIG
