"""`rlhf-operator`: the operator's command line. Options in, an exit code out; everything else is in `shell/process.py`."""

import gc
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="The operator of RLHFJobs.")


@app.callback()
def main() -> None:
    """Run the operator of RLHFJobs, in a cluster or out of it."""


@app.command()
def run(
    kubeconfig: Annotated[Path | None, typer.Option(help="Kubeconfig; in a pod the service account is the default.")] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.")] = None,
    namespace: Annotated[list[str] | None, typer.Option(help="Watch only this namespace; may be repeated. Default: all.")] = None,
    lease_namespace: Annotated[
        str, typer.Option(help="Namespace of the Lease outside a cluster; in a pod it is the pod's.")
    ] = "rlhf-system",
    lease_name: Annotated[str, typer.Option(help="Name of the Lease: of several operators with one name, one leads.")] = "rlhf-operator",
    leader_election: Annotated[bool, typer.Option(help="Lead only with the Lease; off means that nobody else runs.")] = True,
    cluster_domain: Annotated[str, typer.Option(help="DNS domain of the cluster.")] = "cluster.local",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of /healthz, /readyz and /metrics; 0: a free one.")] = 8080,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Jobs reconciled at the same time.")] = 16,
    requests_per_second: Annotated[float, typer.Option(min=1, help="Requests to the API server, on average.")] = 500,
    request_burst: Annotated[float, typer.Option(min=1, help="Requests to the API server at once.")] = 1000,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Watch RLHFJobs and carry them out, until SIGTERM."""
    import uvloop  # heavy imports sit in the command that needs them

    from rlhf_operator.shell import logs
    from rlhf_operator.shell.connection import NoConnection
    from rlhf_operator.shell.process import OperatorProcess
    from rlhf_operator.shell.settings import Options

    logs.configure(log_level)
    options = Options(
        kubeconfig=kubeconfig,
        context=context,
        namespaces=tuple(namespace or ()),
        lease_namespace=lease_namespace,
        lease_name=lease_name,
        leader_election=leader_election,
        cluster_domain=cluster_domain,
        port=port,
        num_workers=workers,
        requests_per_second=requests_per_second,
        request_burst=request_burst,
    )

    _look_for_cycles_seldom()

    async def operate() -> int:
        return await OperatorProcess(options).run()  # made inside the loop: its locks belong to it

    try:
        code = uvloop.run(operate())
    except NoConnection as error:
        typer.echo(f"rlhf-operator: {error}", err=True)
        code = 1
    sys.exit(code)


def _look_for_cycles_seldom() -> None:
    """The JSON of requests and watches is freed by counting references; looking for cycles in between took 7 % of the CPU time.

    What the imports made stays for good, so it is looked through once and never again. The figures are for a process of a hundred MiB.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


if __name__ == "__main__":
    app()
