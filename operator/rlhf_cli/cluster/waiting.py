"""Wait for a job on a cluster: its rows on the screen until it ends, the exit code of its outcome at the end.

Nothing here drives the job: Ctrl-C stops watching, and the job goes on.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console

from rlhf_cli.cluster.connection import Unreachable
from rlhf_cli.live import display
from rlhf_operator.core.endings import code_of

POLL_SECONDS = 1.0
"""One GET a second: less than a `kubectl get -w` of one user costs the API server."""


def wait_for_end(console: Console, read_job: Callable[[], Mapping[str, Any]]) -> tuple[Mapping[str, Any], int]:
    """The job as it ended, and the code to exit with: 0 complete, that of its outcome when it failed, 64 or 69 when it is not accepted.

    Raises:
        KeyboardInterrupt: the user stopped watching.
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
    """The job, again and again. While nobody answers it waits, and says so once: training goes on without the API server too."""
    is_silent = False
    while True:
        try:
            job = read_job()
        except Unreachable as error:
            if not is_silent:
                note(f"{error}; still waiting")
            is_silent = True
            time.sleep(POLL_SECONDS)
            continue
        is_silent = False
        yield job
