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
OutputFormat = Annotated[Output, Option("--output", "-o", help="table for people; json: one object on standard output.")]
