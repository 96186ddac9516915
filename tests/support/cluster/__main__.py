"""`python -m tests.support.cluster build | up | down`: a cluster to work with, below the user's cache directory.

`build` makes the programs that the tests need and starts nothing. `up` leaves a whole cluster running, with a node and the operator, and
prints how to use it; `up --without-node` leaves a control plane only, which needs no root. `down` ends either and removes every trace; it is
harmless when nothing runs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.cluster import binaries, state
from tests.support.cluster.control_plane import ControlPlane, install_crds, remove_directory
from tests.support.node import keep


def directory() -> Path:
    """Where the running cluster keeps everything."""
    return binaries.cache_directory() / "cluster"


def up(where: Path) -> ControlPlane:
    """Start a control plane without a node that outlives this process, with our CRDs and the policy on limits.

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.cluster", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("build", "up", "down"))
    parser.add_argument("--without-node", action="store_true", help="up: a control plane only")
    options = parser.parse_args(arguments)
    if options.command == "build":
        binaries.ensure(*binaries.CONTROL_PLANE, "helm")
    elif options.command == "up":
        plane = up(directory()) if options.without_node else keep.up(directory())
        print(f"export KUBECONFIG={plane.kubeconfig} PATH={binaries.ensure('kubectl')['kubectl'].parent}:$PATH")
    else:
        keep.down(directory())
    return 0


if __name__ == "__main__":
    sys.exit(main())
