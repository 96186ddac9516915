"""What each command does on a cluster, from a target to lines on the screen. `rlhf --cluster …` and `kubectl rlhf …` both end here."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from rlhf_api.outcome import ExitCode
from rlhf_cli import job_tables
from rlhf_cli.cluster import control, pod_logs
from rlhf_cli.cluster.connection import connect
from rlhf_cli.cluster.jobs import Jobs
from rlhf_cli.cluster.target import Target
from rlhf_cli.cluster.waiting import wait_for_end
from rlhf_cli.errors import EX_INTERRUPTED, CommandError
from rlhf_cli.options import Output


def submit(target: Target, job_file: Path, *, is_waiting: bool, as_json: bool) -> int:
    """Create a job; with `is_waiting`, watch it to its end. The exit code of the process."""
    jobs = _open(target)
    job = control.submit(jobs, job_file, is_namespace_given=target.namespace is not None)
    name = job["metadata"]["name"]
    where = Target(kubeconfig=target.kubeconfig, context=target.context, namespace=jobs.namespace, program=target.program)
    said = Console(stderr=as_json)
    _say(said, f"rlhfjob/{name} created in namespace {jobs.namespace} of {jobs.connection.context}")
    if not is_waiting:
        _say(said, f"watch it: {where.command('logs', name, '-f')}   why: {where.command('describe', name)}")
        _print_json(job, as_json)
        return 0
    try:
        job, code = wait_for_end(said, lambda: jobs.get(name))  # type: ignore[assignment]  # a mapping that came from JSON
    except KeyboardInterrupt:
        _say(said, f"{name} goes on; stop it with: {where.command('cancel', name)}")
        return EX_INTERRUPTED
    if code:
        _say(Console(stderr=True), f"{name}: why, and what to do: {where.command('describe', name)}")
    _print_json(job, as_json)
    return code


def get(target: Target, job: str | None, output: Output, *, is_everywhere: bool = False) -> None:
    """List the jobs of the namespace, or of all namespaces, or show one job.

    Raises:
        CommandError: 64, when a job or a namespace is named together with all namespaces.
    """
    named_too = f"JOB: {job!r}" if job is not None else f"--namespace: {target.namespace!r}" if target.namespace is not None else ""
    if is_everywhere and named_too:
        raise CommandError(ExitCode.CONFIG, f"{named_too} and --all-namespaces contradict each other: remove one")
    name = None if job is None else named(job)
    jobs = _open(target)
    if name is None:
        found = jobs.everywhere() if is_everywhere else jobs.every()
        if output is Output.JSON:
            typer.echo(json.dumps({"items": [_bare(item) for item in found]}, ensure_ascii=False))
        else:
            start = target.command("submit", "-f", "JOB_FILE")
            where = "any namespace" if is_everywhere else f"namespace {jobs.namespace}"
            empty = f"no jobs in {where} of {jobs.connection.context}; submit one: {start}"
            job_tables.print_list(Console(), found, _now(), empty=empty, has_namespaces=is_everywhere)
    elif output is Output.JSON:
        typer.echo(json.dumps(_bare(jobs.get(name)), ensure_ascii=False))
    else:
        job_tables.print_details(Console(), jobs.get(name), _now())


def describe(target: Target, job: str | None) -> None:
    """What happened, to whom, and what to do; then everything that is known."""
    name = named(job)
    jobs = _open(target)
    found = jobs.get(name)
    try:
        events = jobs.events(found)
    except CommandError as error:
        events = []
        typer.echo(f"events: {error}", err=True)
    job_tables.print_story(Console(), found, events, _now(), target.command)


def logs(target: Target, job: str | None, stage: str | None, *, is_following: bool, attempt: int | None) -> int:
    """Print the logs of the pods. The exit code: 130 after Ctrl-C."""
    name = named(job)
    jobs = _open(target)

    def note(text: str) -> None:
        typer.echo(text, err=True)

    texts = pod_logs.follow(jobs, name, stage, attempt, note) if is_following else pod_logs.read(jobs, name, stage, attempt)
    try:
        for text in texts:
            typer.echo(text, nl=False)
    except KeyboardInterrupt:
        return EX_INTERRUPTED
    return 0


def cancel(target: Target, job: str | None) -> None:
    """Suspend a job."""
    name = named(job)
    typer.echo(f"{control.cancel(_open(target), name)}; go on with: {target.command('resume', name)}")


def resume(target: Target, job: str | None) -> None:
    """Let a suspended or failed job go on."""
    name = named(job)
    typer.echo(f"{control.resume(_open(target), name)}; watch it: {target.command('logs', name, '-f')}")


def named(job: str | None) -> str:
    """The name of the job, which a cluster needs.

    Raises:
        CommandError: 64, when none is given, or an empty one, whose path would be that of the list.
    """
    if not job:
        found = "JOB: must" if job is None else f"JOB: {job!r} is no name: a job must"
        raise CommandError(ExitCode.CONFIG, f"{found} be named on a cluster, where others have jobs too: list them with get")
    return job


def _open(target: Target) -> Jobs:
    return Jobs(connect(target))


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


def _bare(job: Mapping[str, Any]) -> dict[str, Any]:
    """The object without the bookkeeping of server-side apply, as kubectl shows it."""
    metadata = {key: value for key, value in job["metadata"].items() if key != "managedFields"}
    return {**job, "metadata": metadata}


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _print_json(job: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_bare(job), ensure_ascii=False))
