"""`rlhf validate`, `plan` and `new`: everything about a job file that needs neither a cluster nor a model."""

import json
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Exit, Option

from rlhf_cli.errors import CommandError
from rlhf_cli.options import JobFile, Output, OutputFormat, Profile


def validate(job_file: JobFile, output: OutputFormat = Output.TABLE) -> None:
    """Check a job file.

    Exits 0 when it is valid, and says what this version cannot run yet. Else prints one problem a line (path: value rule) and exits 64, or
    69 when all of them are combinations that are not supported.
    """
    from rlhf_api.job import RLHFJob
    from rlhf_api.problems import exit_code_of
    from rlhf_api.validate import find_problems, find_unsupported
    from rlhf_cli.job_files import read_object

    try:
        wire = read_object(job_file)
    except CommandError as error:
        if output is Output.JSON:
            typer.echo(_verdict([{"path": "", "value": None, "rule": line, "exitCode": error.exit_code} for line in error.lines], []))
        raise
    problems = find_problems(wire)
    limits = [] if problems else [str(limit) for limit in find_unsupported(RLHFJob.from_wire(wire))]
    if output is Output.JSON:
        found = [
            {"path": problem.path, "value": _for_json(problem.value), "rule": problem.rule, "exitCode": int(problem.exit_code)}
            for problem in problems
        ]
        typer.echo(_verdict(found, limits))
    elif problems:
        typer.echo("\n".join(map(str, problems)), err=True)
    else:
        typer.echo("\n".join([f"{job_file}: valid", *(f"cannot run yet: {limit}" for limit in limits)]))
    raise Exit(exit_code_of(problems))


def _verdict(problems: list[dict[str, object]], limits: list[str]) -> str:
    return json.dumps({"valid": not problems, "problems": problems, "unsupported": limits}, ensure_ascii=False, allow_nan=False)


def _for_json(value: object) -> object:
    """The value, or how it looks where JSON cannot hold it: nothing at all, NaN, an infinity."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return repr(value)
    return value


def plan(job_file: JobFile, profile: Profile = None, output: OutputFormat = Output.TABLE) -> None:
    """Show how each stage would run.

    Strategy, processes, memory and steps, before anything is started. Exits 64 when a stage does not fit, 69 when it is not supported.
    """
    from rich.console import Console

    from rlhf_api.job import RLHFJob
    from rlhf_api.validate import find_problems
    from rlhf_cli.errors import refused
    from rlhf_cli.job_files import read_object
    from rlhf_cli.plans import choose_profile, plan_rows, print_plan

    wire = read_object(job_file)
    if problems := find_problems(wire):
        raise refused(problems)
    spec = RLHFJob.from_wire(wire).spec
    limits, basis = choose_profile(spec, profile)
    rows = plan_rows(spec, limits)
    if output is Output.JSON:
        typer.echo(json.dumps([row.to_wire() for row in rows], ensure_ascii=False))
    else:
        print_plan(Console(), rows, basis)
    raise Exit(max((row.exit_code for row in rows), default=0))


def new(
    name: Annotated[str, Argument(show_default=False, help="Name of the job: lower-case letters, digits and dashes, at most 36.")],
    model: Annotated[str, Option(metavar="URI", help="Base model.")] = "builtin://models/tiny-llama",
    revision: Annotated[str | None, Option(show_default=False, help="Commit id of an hf:// model: 40 hex digits.")] = None,
    size: Annotated[str | None, Option(show_default=False, help="Number of parameters, for the memory plan: 7B, 350M.")] = None,
    until: Annotated[str, Option(help="Last stage: sft, rm, ppo, nf4 or publish.")] = "publish",
    nodes: Annotated[int, Option(help="Pods of an attempt, one per node.")] = 1,
    gpus: Annotated[int, Option(help="GPUs per node; 0 = CPU only.")] = 0,
    lora: Annotated[bool, Option("--lora", help="Train adapters instead of all weights.")] = False,
    file: Annotated[
        Path | None, Option(metavar="FILE", show_default=False, help="Where to write; - is standard output. Default: NAME.yaml.")
    ] = None,
) -> None:
    """Write a commented job file.

    It is valid as written; the comments say what to change.
    """
    from rlhf_cli.errors import refused
    from rlhf_cli.job_files import parse_text
    from rlhf_cli.new_job import UNTIL, Wishes, claim_options, job_text

    if until not in UNTIL:
        raise CommandError(64, f"--until: {until!r} must be one of {', '.join(UNTIL)}")
    wishes = Wishes(name=name, model=model, revision=revision, size=size, until=until, nodes=nodes, gpus=gpus, lora=lora)
    text = job_text(wishes)
    from rlhf_api.validate import find_problems

    if problems := find_problems(parse_text("the new job", text)):
        raise refused(problems)
    if str(file) == "-":
        typer.echo(text, nl=False)
        return
    target = file or Path(f"{name}.yaml")
    _write_new(target, text)
    typer.echo(f"wrote {target}\nnext: rlhf plan {target}   then: rlhf run {target}{claim_options(wishes)}")


def _write_new(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise CommandError(64, f"--file: '{file}' exists; it is not overwritten: name another file") from error
    except OSError as error:
        raise CommandError(74, f"--file: '{file}' cannot be written ({error.strerror}): name another file") from error
