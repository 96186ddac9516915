"""`python -m tests.support.node build`: programs and images of the end-to-end tests, made ahead of them because it takes minutes once."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.cluster import binaries
from tests.support.node import testbed
from tests.support.node.debian import ensure_packages


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.node", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("build",))
    parser.parse_args(arguments)
    ensure_packages()
    binaries.ensure(*binaries.CONTROL_PLANE, *binaries.NODE, "helm")
    with tempfile.TemporaryDirectory() as scratch:
        testbed.build(Path(scratch))
    return 0


if __name__ == "__main__":
    sys.exit(main())
