"""`rlhf submit`, and the commands of the plugin `kubectl rlhf`, which always talk to a cluster."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Exit, Option

from rlhf_cli.cluster.target import Target
from rlhf_cli.options import (
    AllNamespaces,
    Attempt,
    ClusterJob,
    Context,
    Follow,
    Kubeconfig,
    Namespace,
    Output,
    OutputFormat,
    Stage,
)

PLUGIN = "kubectl rlhf"

File = Annotated[
    Path, Option("--file", "-f", metavar="JOB_FILE", show_default=False, help="RLHFJob file (YAML or JSON), or - for standard input.")
]
Wait = Annotated[bool, Option("--wait", help="Watch the job to its end. Ctrl-C stops watching; the job goes on.")]
OptionalClusterJob = Annotated[
    str | None, typer.Argument(metavar="JOB", show_default=False, help="Name of the RLHFJob; all of the namespace when none is named.")
]


def submit(
    file: File,
    wait: Wait = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Create a job on a cluster.

    Exits 0 once it is created; with --wait like `rlhf run`: 0 when complete, 64 or 69 when the cluster does not accept it, else the code
    of what ended it.
    """
    _submit(Target(kubeconfig=kubeconfig, context=context, namespace=namespace), file, wait, output)


def plugin_submit(
    file: File,
    wait: Wait = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Create a job.

    Exits 0 once it is created; with --wait like `rlhf run`.
    """
    _submit(_plugin_target(kubeconfig, context, namespace), file, wait, output)


def plugin_get(
    job: OptionalClusterJob = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
    output: OutputFormat = Output.TABLE,
    all_namespaces: AllNamespaces = False,
) -> None:
    """List the jobs of a namespace or of all, or show one with its stages and attempts."""
    from rlhf_cli.cluster import actions

    actions.get(_plugin_target(kubeconfig, context, namespace), job, output, is_everywhere=all_namespaces)


def plugin_describe(job: ClusterJob, context: Context = None, kubeconfig: Kubeconfig = None, namespace: Namespace = None) -> None:
    """Explain a job: what happened, to whom, what to do."""
    from rlhf_cli.cluster import actions

    actions.describe(_plugin_target(kubeconfig, context, namespace), job)


def plugin_logs(
    job: ClusterJob,
    stage: Stage = None,
    follow: Follow = False,
    attempt: Attempt = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """Print the logs of a job's pods, across stages and attempts with -f."""
    from rlhf_cli.cluster import actions

    raise Exit(actions.logs(_plugin_target(kubeconfig, context, namespace), job, stage, is_following=follow, attempt=attempt))


def plugin_cancel(job: ClusterJob, context: Context = None, kubeconfig: Kubeconfig = None, namespace: Namespace = None) -> None:
    """Stop a job after a checkpoint. Its nodes become free."""
    from rlhf_cli.cluster import actions

    actions.cancel(_plugin_target(kubeconfig, context, namespace), job)


def plugin_resume(job: ClusterJob, context: Context = None, kubeconfig: Kubeconfig = None, namespace: Namespace = None) -> None:
    """Let a suspended job go on, or run the failed stage of a failed one again."""
    from rlhf_cli.cluster import actions

    actions.resume(_plugin_target(kubeconfig, context, namespace), job)


def _plugin_target(kubeconfig: Path | None, context: str | None, namespace: str | None) -> Target:
    return Target(kubeconfig=kubeconfig, context=context, namespace=namespace, program=PLUGIN)


def _submit(target: Target, file: Path, is_waiting: bool, output: Output) -> None:
    from rlhf_cli.cluster import actions

    raise Exit(actions.submit(target, file, is_waiting=is_waiting, as_json=output is Output.JSON))
