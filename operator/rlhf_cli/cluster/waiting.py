"""Wait for a job on a cluster: its rows on the screen until it ends, the exit code of its outcome at the end.

Nothing here drives the job: Ctrl-C stops watching, and the job goes on.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console

from rlhf_cli.cluster.connection import ApiRefused, Unreachable
from rlhf_cli.errors import EX_FAILURE, CommandError
from rlhf_cli.live import display
from rlhf_operator.core.endings import code_of

POLL_SECONDS = 1.0
"""One GET a second: less than a `kubectl get -w` of one user costs the API server."""
NOT_FOUND = 404


def wait_for_end(console: Console, read_job: Callable[[], Mapping[str, Any]]) -> tuple[Mapping[str, Any], int]:
    """The job as it ended, and the code to exit with: 0 complete, that of its outcome when it failed, 64 or 69 when it is not accepted.

    Raises:
        KeyboardInterrupt: the user stopped watching.
        CommandError: the job was deleted.
    """
    with display(console, time.monotonic) as shown:
        for job in patiently(read_job, shown.note):
            shown.update(job)
            code = code_of(job)
            if code is not None:
                return job, code
            time.sleep(POLL_SECONDS)
    raise AssertionError("a job is read until it ends")


def patiently(read_job: Callable[[], Mapping[str, Any]], note: Callable[[str], None]) -> Iterator[Mapping[str, Any]]:
    """The job, again and again. While nobody answers it waits, and says so once: training goes on without the API server too.

    Raises:
        CommandError: the job was never there, or it was deleted since the first look, perhaps to make room for another of its name.
    """
    is_silent = False
    first: Mapping[str, Any] | None = None
    while True:
        try:
            job = read_job()
        except Unreachable as error:
            if not is_silent:
                note(f"{error}; still waiting")
            is_silent = True
            time.sleep(POLL_SECONDS)
            continue
        except CommandError as error:
            if first is None or not isinstance(error.__cause__, ApiRefused) or error.__cause__.code != NOT_FOUND:
                raise
            raise _deleted(first) from error
        first = first or job
        if job["metadata"].get("uid") != first["metadata"].get("uid"):
            raise _deleted(first)
        is_silent = False
        yield job


def _deleted(job: Mapping[str, Any]) -> CommandError:
    name = job["metadata"]["name"]
    return CommandError(
        EX_FAILURE, f"JOB: '{name}' was deleted meanwhile, and its pods and their logs with it; what it had published stays where it is"
    )
