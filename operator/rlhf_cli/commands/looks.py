"""`rlhf get`, `describe` and `logs`: what jobs do, on this machine or on a cluster, without disturbing them."""

import json
from datetime import UTC, datetime

import typer
from typer import Exit

from rlhf_cli.cluster.target import chosen
from rlhf_cli.options import (
    AllNamespaces,
    Attempt,
    Context,
    Follow,
    JobName,
    Kubeconfig,
    Namespace,
    OnCluster,
    Output,
    OutputFormat,
    Stage,
    Workdir,
)


def get(
    job: JobName = None,
    workdir: Workdir = None,
    output: OutputFormat = Output.TABLE,
    cluster: OnCluster = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
) -> None:
    """List jobs, or show one.

    The jobs below .rlhf (or of a namespace, when an option names a cluster), or one of them with its stages and attempts.
    """
    is_cluster = cluster or all_namespaces
    if target := chosen(cluster=is_cluster, kubeconfig=kubeconfig, context=context, namespace=namespace, workdir=workdir):
        from rlhf_cli.cluster import actions

        return actions.get(target, job, output, is_everywhere=all_namespaces)
    from rich.console import Console

    from rlhf_cli import job_tables, workdirs
    from rlhf_operator.local.session import LocalSession

    is_list = job is None and workdir is None
    directories = workdirs.all_workdirs() if is_list else [workdirs.find_workdir(job, workdir)]
    damaged = {directory: damage for directory in directories if (damage := workdirs.damage_of(directory))}
    for damage in damaged.values():  # one broken job does not hide the others
        typer.echo(damage, err=True)
    jobs = [LocalSession.open(directory).job() for directory in directories if directory not in damaged]
    if output is Output.JSON:
        typer.echo(json.dumps({"items": jobs} if is_list else jobs[0], ensure_ascii=False))
    elif is_list:
        job_tables.print_list(Console(), jobs, datetime.now(UTC))
    else:
        job_tables.print_details(Console(), jobs[0], datetime.now(UTC))
    return None


def describe(
    job: JobName = None,
    workdir: Workdir = None,
    cluster: OnCluster = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """Explain a job: what happened, to whom, what to do.

    A job of this machine, or of a cluster when an option names one.
    """
    if target := chosen(cluster=cluster, kubeconfig=kubeconfig, context=context, namespace=namespace, workdir=workdir):
        from rlhf_cli.cluster import actions

        return actions.describe(target, job)
    from rich.console import Console

    from rlhf_cli import job_tables, workdirs
    from rlhf_cli.driving import handle
    from rlhf_operator.local.session import LocalSession

    directory = workdirs.find_workdir(job, workdir)

    def command(verb: str, name: str, *rest: str) -> str:
        return " ".join(["rlhf", verb, handle(directory), *rest])

    job_tables.print_story(Console(), LocalSession.open(directory).job(), (), datetime.now(UTC), command)
    return None


def logs(
    job: JobName = None,
    stage: Stage = None,
    follow: Follow = False,
    attempt: Attempt = None,
    workdir: Workdir = None,
    cluster: OnCluster = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """Print the logs of a job's processes, or of its pods when an option names a cluster."""
    if target := chosen(cluster=cluster, kubeconfig=kubeconfig, context=context, namespace=namespace, workdir=workdir):
        from rlhf_cli.cluster import actions

        raise Exit(actions.logs(target, job, stage, is_following=follow, attempt=attempt))
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
