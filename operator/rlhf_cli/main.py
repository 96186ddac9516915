"""`rlhf`, and `kubectl rlhf`: the command line. A thin skin: each command reads its options, calls one library and returns an exit code.

Nothing heavy is imported here, so that `rlhf --help` answers at once; a command imports what it needs. Every refusal is a `CommandError`;
`run` prints its lines to standard error, one problem a line, and exits with its code (api.md section 9).
"""

import codecs
import io
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from rlhf_cli.commands import artifacts, checks, cluster, jobs, looks
from rlhf_cli.errors import CommandError


def _program(name: str, text: str) -> typer.Typer:
    return typer.Typer(
        name=name,
        help=text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


app = _program(
    "rlhf", "Aligned chat models from one job file: SFT, reward model, PPO, quantize, publish. On this machine, as on a cluster."
)
plugin = _program("kubectl-rlhf", "RLHFJobs on a cluster: submit, explain, follow and stop them.")
for command in (
    *(jobs.run, jobs.resume, jobs.cancel),
    *(checks.validate, checks.plan, checks.new),
    *(cluster.submit, looks.get, looks.describe, looks.logs),
    *(artifacts.chat, artifacts.plot),
):
    app.command()(command)
plugin.command("submit")(cluster.plugin_submit)
plugin.command("get")(cluster.plugin_get)
plugin.command("describe")(cluster.plugin_describe)
plugin.command("logs")(cluster.plugin_logs)
plugin.command("cancel")(cluster.plugin_cancel)
plugin.command("resume")(cluster.plugin_resume)


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point of the `rlhf` program. `arguments` are those after its name; None takes them from the process."""
    _run(app, "rlhf", arguments)


def run_plugin(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point of `kubectl-rlhf`, which kubectl runs for `kubectl rlhf`. It always talks to a cluster."""
    _run(plugin, cluster.PLUGIN, arguments)


def _run(program: typer.Typer, name: str, arguments: Sequence[str] | None) -> NoReturn:
    _replace_what_cannot_be_encoded()
    try:
        program(args=arguments, prog_name=name)
    except CommandError as error:
        print(*error.lines, sep="\n", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(0)


def _replace_what_cannot_be_encoded() -> None:
    """Print `?` for what an encoding lacks: a dash of ours in latin-1 is no reason to fail. UTF-8 has everything."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(errors="replace")
