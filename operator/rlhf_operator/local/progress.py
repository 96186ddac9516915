"""Progress of running attempts: pod 0 is asked over HTTP, its answer is checked, and how long its step has stood still is measured.

The bounds are those of the cluster (operator.md section 5): two seconds, 16 KiB, no redirects, no proxy. Nothing in an answer decides
anything but figures and the progress deadline of the pod's own attempt.
"""

import asyncio
import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from rlhf_api.outcome import MAX_PROGRESS_BYTES
from rlhf_operator.core import progress
from rlhf_operator.core.model import Reading

TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where the progress of an attempt is."""

    stage: str
    attempt: int
    port: int


@dataclass(slots=True)
class ProgressReader:
    """Reads one job's progress and remembers when each attempt last advanced."""

    clock: Callable[[], datetime]
    monotonic: Callable[[], float] = time.monotonic
    _advanced: dict[tuple[str, int], tuple[object, float]] = field(default_factory=dict)

    async def read(self, job_uid: str, target: Target) -> Reading | None:
        """The newest answer of an attempt; None when there is no valid one."""
        answer = await asyncio.to_thread(fetch, target.port)
        document = progress.parse(answer, job_uid, target.stage, target.attempt) if answer is not None else None
        if document is None:
            return None
        key, now = (target.stage, target.attempt), self.monotonic()
        position = (document.step, document.state)
        if self._advanced.get(key, (None, 0.0))[0] != position:
            self._advanced[key] = (position, now)
        return Reading(document, self.clock(), now - self._advanced[key][1])


def fetch(port: int, path: str = "/progress") -> bytes | None:
    """The body of an answer within the bounds; None for anything else. Blocks for at most about two seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        connection.request("GET", path, headers={"Accept-Encoding": "identity", "Connection": "close"})
        response = connection.getresponse()
        if response.status != 200:
            return None
        body = b""
        while chunk := response.read1(MAX_PROGRESS_BYTES + 1 - len(body)):
            body += chunk
            if len(body) > MAX_PROGRESS_BYTES or time.monotonic() > deadline:
                return None
        return body
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
