"""`--claim NAME=DIR`: which directory stands for which PersistentVolumeClaim on this machine."""

import os
from pathlib import Path

from rlhf_api.outcome import ExitCode
from rlhf_cli.errors import CommandError


def parse_claims(options: list[str]) -> dict[str, Path]:
    """The directory of each claim, absolute.

    Raises:
        CommandError: 64, for an option that is not NAME=DIR, a claim given twice, or a directory that does not exist.
    """
    claims: dict[str, Path] = {}
    for option in options:
        name, separator, directory = option.partition("=")
        if not (name and separator and directory):
            raise CommandError(ExitCode.CONFIG, f"--claim: {option!r} must be NAME=DIR, for example --claim models=./models")
        if name in claims:
            raise CommandError(ExitCode.CONFIG, f"--claim: {name!r} is given twice; one directory stands for one claim")
        path = Path(os.path.expanduser(directory)).absolute()  # unlike Path.expanduser, leaves ~nobody as it is
        if not os.path.isdir(path):
            raise CommandError(ExitCode.CONFIG, f"--claim: {option!r} names no directory; create it first: mkdir -p {directory}")
        claims[name] = path
    return claims
