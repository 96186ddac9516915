"""Points between two writes where a test lets the process die, in a cluster and in `rlhf run`."""

import os
import signal

VARIABLE = "RLHF_CRASH_POINT"
POINTS = ("observed", "before", "status", "action", "after")
"""Names of the reconciler's points, in order."""


def crash_here(point: str) -> None:
    """Die as by `kill -9` when the variable names this point."""
    if os.environ.get(VARIABLE) == point:
        os.kill(os.getpid(), signal.SIGKILL)
        os._exit(137)  # process 1 of a container is immune to a SIGKILL from inside
