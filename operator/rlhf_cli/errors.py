"""How a command refuses: an exit code and lines for standard error. `main.run` prints them; nothing else exits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Not at run time: `rlhf --help` need not load pydantic.
    from rlhf_api.problems import Problem

EX_FAILURE, EX_INTERRUPTED = 1, 130
"""What `rlhf` adds to the exit codes of stages: something failed that is not the user's input; Ctrl-C."""


class CommandError(Exception):
    """The command cannot go on.

    Every line names a field, file or option, its value, the rule and the fix. `exit_code` is one of api.md section 9.
    """

    def __init__(self, exit_code: int, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.exit_code = int(exit_code)
        self.lines = lines


def refused(problems: Iterable[Problem]) -> CommandError:
    """The error for a job or profile with these problems, all of them at once."""
    from rlhf_api.problems import exit_code_of

    found = list(problems)
    return CommandError(exit_code_of(found), *map(str, found))
