"""The arguments that several commands share, each described once."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


class Output(StrEnum):
    """Who reads the answer."""

    TABLE = "table"
    JSON = "json"


JobFile = Annotated[Path, Argument(metavar="JOB_FILE", show_default=False, help="RLHFJob file (YAML or JSON), or - for standard input.")]
JobName = Annotated[
    str | None,
    Argument(
        metavar="JOB",
        show_default=False,
        help="Name of a job below .rlhf, its working directory, or its job file. Needless when there is only one.",
    ),
]
Workdir = Annotated[
    Path | None,
    Option(metavar="DIR", show_default=False, help="Working directory of the job: objects, volume and logs. Default: .rlhf/<job name>."),
]
Claims = Annotated[
    list[str] | None,
    Option(
        "--claim", metavar="NAME=DIR", show_default=False, help="Directory that stands for the claim NAME of pvc://NAME/… here. Repeatable."
    ),
]
Profile = Annotated[
    Path | None,
    Option(metavar="FILE", show_default=False, help="ClusterRLHFProfile to obey (its image is ignored). Default: made from this machine."),
]
NewProfile = Annotated[
    Path | None,
    Option("--profile", metavar="FILE", show_default=False, help="ClusterRLHFProfile to obey from now on. Default: that of `rlhf run`."),
]
OutputFormat = Annotated[Output, Option("--output", "-o", help="table for people; json: one object on standard output.")]
OnCluster = Annotated[bool, Option("--cluster", help="Talk to the cluster of the current context, not to this machine.")]
Context = Annotated[str | None, Option(metavar="NAME", show_default=False, help="Context of the kubeconfig: that cluster.")]
Kubeconfig = Annotated[
    Path | None, Option(metavar="FILE", show_default=False, help="Kubeconfig: a cluster. Default there: $KUBECONFIG, else ~/.kube/config.")
]
Namespace = Annotated[
    str | None,
    Option("--namespace", "-n", metavar="NAME", show_default=False, help="Namespace on a cluster. Default there: that of the context."),
]
AllNamespaces = Annotated[bool, Option("--all-namespaces", "-A", help="Jobs of all namespaces of a cluster.")]
ClusterJob = Annotated[str, Argument(metavar="JOB", show_default=False, help="Name of the RLHFJob.")]
"""On a cluster a job has a name and nothing else."""
Stage = Annotated[str | None, Argument(metavar="STAGE", show_default=False, help="Stage to show; all of them when none is named.")]
Follow = Annotated[bool, Option("--follow", "-f", help="Go on until the stage (or the job) ends.")]
Attempt = Annotated[int | None, Option(min=1, show_default=False, help="Attempt to show. Default: the newest.")]
