"""`rlhf get` and `logs`: what the jobs of this machine do, read from their working directories without disturbing them."""

import json
from datetime import UTC, datetime
from typing import Annotated

import typer
from typer import Argument, Option

from rlhf_cli.options import JobName, Output, OutputFormat, Workdir


def get(job: JobName = None, workdir: Workdir = None, output: OutputFormat = Output.TABLE) -> None:
    """List jobs, or show one.

    The jobs below .rlhf, or one of them with its stages and attempts.
    """
    from rich.console import Console

    from rlhf_cli import job_tables, workdirs
    from rlhf_operator.local.session import LocalSession

    is_list = job is None and workdir is None
    directories = workdirs.all_workdirs() if is_list else [workdirs.find_workdir(job, workdir)]
    jobs = [LocalSession.open(directory).job() for directory in directories]
    if output is Output.JSON:
        typer.echo(json.dumps({"items": jobs} if is_list else jobs[0], ensure_ascii=False))
    elif is_list:
        job_tables.print_list(Console(), jobs, datetime.now(UTC))
    else:
        job_tables.print_details(Console(), jobs[0], datetime.now(UTC))


def logs(
    job: JobName = None,
    stage: Annotated[
        str | None, Argument(metavar="STAGE", show_default=False, help="Stage to show; all of them when none is named.")
    ] = None,
    follow: Annotated[bool, Option("--follow", "-f", help="Go on until the stage (or the job) ends.")] = False,
    attempt: Annotated[int | None, Option(min=1, show_default=False, help="Attempt to show. Default: the newest.")] = None,
    workdir: Workdir = None,
) -> None:
    """Print the logs of a job's processes."""
    from rlhf_cli import log_files, workdirs
    from rlhf_operator.local.session import LocalSession

    if workdir is not None and stage is None:
        job, stage = None, job  # the directory names the job: the only argument left is the stage
    session = LocalSession.open(workdirs.find_workdir(job, workdir))
    texts = log_files.follow(
        session.job,
        session.is_running if follow else lambda: False,
        lambda found: log_files.files_of(found, stage, attempt, session.logs_dir),
        stage,
    )
    for text in texts:
        typer.echo(text, nl=False)
