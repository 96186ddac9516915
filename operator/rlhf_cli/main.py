"""`rlhf`: the command line. A thin skin: each command reads its options, calls one library and returns an exit code.

Nothing heavy is imported here, so that `rlhf --help` answers at once; a command imports what it needs. Every refusal is a `CommandError`;
`run` prints its lines to standard error, one problem a line, and exits with its code (api.md section 9).
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from rlhf_cli.commands import artifacts, checks, jobs, looks
from rlhf_cli.errors import CommandError

app = typer.Typer(
    name="rlhf",
    help="Aligned chat models from one job file: SFT, reward model, PPO, quantize, publish. On this machine, as on a cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    *(jobs.run, jobs.resume, jobs.cancel),
    *(checks.validate, checks.plan, checks.new),
    *(looks.get, looks.logs),
    *(artifacts.chat, artifacts.plot),
):
    app.command()(command)


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point of the `rlhf` program. `arguments` are those after its name; None takes them from the process."""
    try:
        app(args=arguments, prog_name="rlhf")
    except CommandError as error:
        print(*error.lines, sep="\n", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(0)
