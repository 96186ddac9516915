"""The logs of a job's pods: pods in, lines out, each with stage, attempt and pod in front: `ppo/r2/0 step 40 …`.

Following goes across stages and attempts, as the operator makes them. One thread reads each pod, because the API server answers with an
endless stream for each; the caller's thread finds new pods and prints.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from rlhf_api import names
from rlhf_cli.cluster.connection import ApiRefused, Unreachable
from rlhf_cli.cluster.jobs import Jobs, Object
from rlhf_cli.cluster.refusals import explain
from rlhf_cli.cluster.waiting import NOT_FOUND, patiently
from rlhf_cli.errors import CommandError
from rlhf_cli.stage_rows import FINISHED, phase_of, rows_of

POLL_SECONDS = 1.0
BAD_REQUEST = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A pod whose container has written something."""

    pod: str
    stage: str
    attempt: int
    index: int

    @property
    def label(self) -> str:
        """What stands before each line."""
        return f"{self.stage}/r{self.attempt}/{self.index}"


def sources(job: Mapping[str, Any], pods: list[Object], stage: str | None, attempt: int | None) -> list[Source]:
    """Pods to read, in the order of the job: of `stage` or of all, of `attempt` or of the newest one that has pods.

    Raises:
        CommandError: 64, when the job has no such stage.
    """
    found = all_sources(job, pods, stage, attempt)
    newest = newest_attempts(found)
    return [source for source in found if source.attempt == newest[source.stage]]


def all_sources(job: Mapping[str, Any], pods: list[Object], stage: str | None, attempt: int | None) -> list[Source]:
    """The same with every attempt, when none is named.

    Raises:
        CommandError: 64, when the job has no such stage.
    """
    order = [row.name for row in rows_of(job)]
    if stage is not None and stage not in order:
        raise CommandError(64, f"STAGE: {stage!r} is no stage of this job: {', '.join(order)}")
    found = [source for pod in pods if (source := _source(pod)) and stage in (None, source.stage) and attempt in (None, source.attempt)]
    return sorted(found, key=lambda source: (order.index(source.stage), source.attempt, source.index, source.pod))


def newest_attempts(found: Iterable[Source]) -> dict[str, int]:
    """The newest attempt of each stage that has pods."""
    newest: dict[str, int] = {}
    for source in found:
        newest[source.stage] = max(source.attempt, newest.get(source.stage, 0))
    return newest


def _source(pod: Object) -> Source | None:
    """None for a pod that has not run yet, or is none of ours."""
    labels = pod["metadata"].get("labels") or {}
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    has_run = any({"running", "terminated"} & set(status.get("state") or {}) for status in statuses)
    if not has_run or names.LABEL_STAGE not in labels:
        return None
    index = labels.get(names.LABEL_COMPLETION_INDEX, "0")
    attempt = labels.get(names.LABEL_ATTEMPT, "0")
    return Source(pod=pod["metadata"]["name"], stage=labels[names.LABEL_STAGE], attempt=int(attempt), index=int(index))


def read(jobs: Jobs, name: str, stage: str | None, attempt: int | None) -> Iterator[str]:
    """What the pods have written so far.

    Raises:
        CommandError: there is no such stage, or none of its pods is left.
    """
    job = jobs.get(name)
    found = sources(job, jobs.pods(job), stage, attempt)
    if not found:
        raise CommandError(64, _nothing_to_read(job, name, stage, attempt))
    for source in found:
        try:
            yield from (_labelled(source, line)[1] for line in jobs.log(source.pod, follow=False))
        except ApiRefused as error:
            raise explain(error, jobs.connection, f"read the log of {source.pod}", source.pod) from error


def _nothing_to_read(job: Mapping[str, Any], name: str, stage: str | None, attempt: int | None) -> str:
    which = f"--attempt: {attempt}" if attempt is not None else f"STAGE: {stage!r}" if stage is not None else f"JOB: {name!r}"
    fix = "the last two attempts of a stage keep theirs; older logs are in the logs/ directory of the attempt on the job's volume"
    return f"{which} has no pod that has run ({phase_of(job)}): {fix}"


def follow(
    jobs: Jobs, name: str, stage: str | None, attempt: int | None, note: Callable[[str], None], *, poll_seconds: float = POLL_SECONDS
) -> Iterator[str]:
    """Lines as they are written, across pods, attempts and stages, until the stage (or the job) ends.

    Raises:
        CommandError: there is no such job or stage, or the job was deleted; its pods may end in peace, and their last words come first.
    """
    lines: SimpleQueue[str] = SimpleQueue()
    readers: dict[str, threading.Thread] = {}
    looks = patiently(lambda: jobs.get(name), note)
    first: Mapping[str, int] | None = None  # what is older than the newest attempt now is over; what comes later is all shown
    while True:
        try:
            job = next(looks)
        except CommandError:
            yield from _rest_of(lines, readers, poll_seconds)
            raise
        # Asked before the pods are listed: a pod of the last moment is read now, not lost.
        is_over = _has_ended(job, stage, attempt)
        try:
            found = all_sources(job, jobs.pods(job), stage, attempt)
        except Unreachable:
            continue
        first = newest_attempts(found) if first is None else first
        for source in found:
            if source.pod not in readers and source.attempt >= first.get(source.stage, 0):
                readers[source.pod] = _start(jobs, source, lines.put, poll_seconds)
        yield from _lines_of(lines, poll_seconds)
        if is_over:
            yield from _rest_of(lines, readers, poll_seconds)
            return


def _rest_of(lines: SimpleQueue[str], readers: Mapping[str, threading.Thread], poll_seconds: float) -> Iterator[str]:
    """Everything until no pod is read any more."""
    while any(reader.is_alive() for reader in readers.values()):
        yield from _lines_of(lines, poll_seconds)
    yield from _lines_of(lines, 0)


def _lines_of(lines: SimpleQueue[str], seconds: float) -> Iterator[str]:
    """Everything that is written in the next `seconds`."""
    end = time.monotonic() + seconds
    while True:
        try:
            yield lines.get(timeout=max(0.0, end - time.monotonic())) if end > time.monotonic() else lines.get_nowait()
        except Empty:
            if time.monotonic() >= end:
                return


def _has_ended(job: Mapping[str, Any], stage: str | None, attempt: int | None) -> bool:
    stages = [known for known in (job.get("status") or {}).get("stages") or [] if stage in (None, known["name"])]
    if attempt is not None and stages and all((known.get("attempt") or 0) > attempt for known in stages):
        return True
    return phase_of(job) in FINISHED or (bool(stages) and all(known.get("phase") in FINISHED for known in stages))


def _start(jobs: Jobs, source: Source, put: Callable[[str], None], poll_seconds: float) -> threading.Thread:
    reader = threading.Thread(target=_read_to_end, args=(jobs, source, put, poll_seconds), name=f"log of {source.pod}", daemon=True)
    reader.start()
    return reader


def _read_to_end(jobs: Jobs, source: Source, put: Callable[[str], None], poll_seconds: float) -> None:
    """All lines of a pod once, whatever happens to connections: the last reading begins after the container has ended."""
    since = ""
    is_last = False
    while not is_last:
        try:
            is_last = _is_over(jobs.pod(source.pod))
            for line in jobs.log(source.pod, follow=not is_last, since=since or None):
                written, text = _labelled(source, line)
                if written > since:
                    put(text)
                    since = written
        except ApiRefused as error:
            if error.code != BAD_REQUEST:
                put("" if error.code == NOT_FOUND else f"{source.label} (no log: {error.message})\n")
                return
        except Unreachable:
            is_last = False
        except CommandError as error:
            put(f"{source.label} (no log: {error})\n")
            return
        if not is_last:
            time.sleep(poll_seconds)


def _is_over(pod: Object | None) -> bool:
    statuses = ((pod or {}).get("status") or {}).get("containerStatuses") or []
    return pod is None or any("terminated" in (status.get("state") or {}) for status in statuses)


def _labelled(source: Source, line: bytes) -> tuple[str, str]:
    """When a line was written, and the line for the reader."""
    written, _, text = line.decode("utf-8", errors="replace").partition(" ")
    return written, f"{source.label} {text if text.endswith(chr(10)) else text + chr(10)}"
