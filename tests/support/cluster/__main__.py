"""`python -m tests.support.cluster build | up | down`: a cluster to work with, below the user's cache directory.

`build` makes the programs that the tests need and starts nothing. `up` leaves a control plane running and prints how to use it. `down`
ends it and removes every trace; it is harmless when nothing runs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.cluster import binaries, state
from tests.support.cluster.control_plane import ControlPlane, install_crds, remove_directory


def directory() -> Path:
    """Where the running cluster keeps everything."""
    return binaries.cache_directory() / "cluster"


def up(where: Path) -> ControlPlane:
    """Start a control plane that outlives this process, with our CRDs and the policy on limits.

    Raises:
        RuntimeError: one is running already.
    """
    if running := state.living(where / "programs.json"):
        raise RuntimeError(f"a cluster is running already ({', '.join(running)}): make cluster-down")
    remove_directory(where)
    plane = ControlPlane.start(where, outlives_us=True)
    state.write(where / "programs.json", plane.pids)
    install_crds(plane, with_limits=True)
    return plane


def down(where: Path) -> None:
    """End what `up` started."""
    for name in state.end(where / "programs.json"):
        print(f"ended {name}", file=sys.stderr)
    remove_directory(where)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.cluster", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("build", "up", "down"))
    command = parser.parse_args(arguments).command
    if command == "build":
        binaries.ensure(*binaries.CONTROL_PLANE)
    elif command == "up":
        print(f"export KUBECONFIG={up(directory()).kubeconfig}")
    else:
        down(directory())
    return 0


if __name__ == "__main__":
    sys.exit(main())
