"""`rlhf run`, `resume` and `cancel`: drive a job on this machine. The embedded backend does the work; here it is watched and stopped.

`resume` and `cancel` also change a job on a cluster, when an option names one; there the operator drives it.
"""

from typing import Annotated

import typer
from typer import Exit, Option

from rlhf_cli.cluster.target import chosen
from rlhf_cli.options import (
    Claims,
    Context,
    JobFile,
    JobName,
    Kubeconfig,
    Namespace,
    NewProfile,
    OnCluster,
    Output,
    OutputFormat,
    Profile,
    Workdir,
)


def _explain(wanted: bool) -> None:
    if wanted:
        from rlhf_operator.local.session import NOT_IMITATED

        typer.echo("\n".join(["What `rlhf run` does not imitate of a cluster:", *(f"- {part}" for part in NOT_IMITATED)]))
        raise Exit


def run(
    job_file: JobFile,
    workdir: Workdir = None,
    claim: Claims = None,
    profile: Profile = None,
    fresh: Annotated[
        bool, Option("--fresh", help="Discard an earlier job in the working directory, its checkpoints and outputs too.")
    ] = False,
    output: OutputFormat = Output.TABLE,
    explain: Annotated[
        bool, Option("--explain", callback=_explain, is_eager=True, help="Print what differs from a cluster, and exit.")
    ] = False,
) -> None:
    """Run a job on this machine.

    Ctrl-C saves a checkpoint and exits 130; `rlhf resume` goes on there. A second Ctrl-C does not wait for the checkpoint.
    Exits 0 when the job is complete, else with the code of what ended it; 64 when the job is refused.
    """
    from rlhf_cli.driving import start

    raise Exit(start(job_file, workdir=workdir, claims=claim or [], profile=profile, is_fresh=fresh, as_json=output is Output.JSON))


def resume(
    job: JobName = None,
    workdir: Workdir = None,
    claim: Claims = None,
    profile: NewProfile = None,
    output: OutputFormat = Output.TABLE,
    cluster: OnCluster = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """Go on with a job where it stopped.

    After Ctrl-C, a crash or `rlhf cancel` it goes on from the newest checkpoint. A failed job runs its failed stage again; named by its
    job file, with the changes made there. Exits like `rlhf run`; on a cluster at once, because there the operator drives the job.
    """
    if target := chosen(cluster=cluster, kubeconfig=kubeconfig, context=context, namespace=namespace, workdir=workdir):
        from rlhf_cli.cluster import actions

        return actions.resume(target, job)
    from rlhf_cli.driving import go_on

    raise Exit(go_on(job, workdir=workdir, claims=claim or [], profile=profile, as_json=output is Output.JSON))


def cancel(
    job: JobName = None,
    workdir: Workdir = None,
    cluster: OnCluster = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """Stop a job after a checkpoint.

    `rlhf resume` goes on there.
    """
    if target := chosen(cluster=cluster, kubeconfig=kubeconfig, context=context, namespace=namespace, workdir=workdir):
        from rlhf_cli.cluster import actions

        return actions.cancel(target, job)
    from rlhf_cli.driving import stop

    typer.echo(stop(job, workdir=workdir))
    return None
