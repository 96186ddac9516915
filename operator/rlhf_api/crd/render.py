"""`python -m rlhf_api.crd.render [--check] [DIRECTORY]`: write `crds/`, or exit 1 when what is there differs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf_api.crd.definitions import job_definition, profile_definition
from rlhf_api.crd.policies import change_policy, profile_policy
from rlhf_api.crd.yaml import dump

_HEADER = "# Generated from operator/rlhf_api by `python -m rlhf_api.crd.render`. Do not edit: change the models or rules there.\n"


def render() -> dict[str, str]:
    """File name below `crds/` -> content. What is optional has a folder of its own, which `kubectl apply -f crds/` leaves out."""
    return {
        "clusterrlhfprofiles.rlhf.dev.yaml": _HEADER + dump(profile_definition()),
        "optional/profile-limits.yaml": _HEADER + dump(*profile_policy()),
        "rlhfjob-changes.yaml": _HEADER + dump(*change_policy()),
        "rlhfjobs.rlhf.dev.yaml": _HEADER + dump(job_definition()),
    }


def find_drift(directory: Path) -> list[str]:
    """Names of files that are missing or differ from the models."""
    return [name for name, content in render().items() if not _has_content(directory / name, content)]


def write(directory: Path) -> None:
    """Write every file below the directory."""
    for name, content in render().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def _has_content(path: Path, content: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == content


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m rlhf_api.crd.render", description="Render crds/ from the models.")
    parser.add_argument("directory", nargs="?", type=Path, default=Path("crds"), help="where to write (default: crds)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file differs")
    options = parser.parse_args(arguments)
    if not options.check:
        write(options.directory)
        return 0
    drift = find_drift(options.directory)
    for name in drift:
        print(f"{options.directory / name} differs from the models: run python -m rlhf_api.crd.render", file=sys.stderr)
    return 1 if drift else 0


if __name__ == "__main__":
    sys.exit(main())
