"""The logs of a job's pods: files of the working directory in, new text out, as it is written."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf_cli.errors import CommandError
from rlhf_cli.stage_rows import FINISHED

POLL_SECONDS = 0.3
"""Files give no notice when they grow. A reader does not notice a shorter delay."""

LogsDirectory = Callable[[str, int], Path]


class LogReader:
    """Reads each file from where it stopped. Whole lines only, so that two pods do not share one."""

    def __init__(self) -> None:
        self._positions: dict[Path, int] = {}

    def new_text(self, file: Path, *, is_final: bool) -> str:
        """What was appended since the last call; with `is_final` also a last line without its end."""
        with file.open("rb") as stream:
            stream.seek(self._positions.get(file, 0))
            data = stream.read()
        whole = data if is_final else data[: data.rfind(b"\n") + 1]
        self._positions[file] = self._positions.get(file, 0) + len(whole)
        return whole.decode("utf-8", errors="replace")


def files_of(job: Mapping[str, Any], stage: str | None, attempt: int | None, logs_dir: LogsDirectory) -> list[Path]:
    """The log files to show: of `stage` or of all stages, of `attempt` or of the newest one. Those that exist.

    Raises:
        CommandError: 64, when the job has no such stage or attempt.
    """
    stages = [known for known in _stages(job) if stage in (None, known["name"])]
    if not stages and stage is not None:
        raise CommandError(64, f"STAGE: {stage!r} is no stage of this job: {', '.join(known['name'] for known in _stages(job))}")
    wanted = [(known["name"], attempt or known.get("attempt") or 0) for known in stages]
    files = [file for name, number in wanted if number for file in sorted(logs_dir(name, number).glob("*.log"))]
    if attempt is not None and not files:
        raise CommandError(
            64, f"--attempt: {attempt} has no logs: the newest is {max((known.get('attempt') or 0 for known in stages), default=0)}"
        )
    return files


def follow(
    read_job: Callable[[], Mapping[str, Any]],
    is_running: Callable[[], bool],
    find: Callable[[Mapping[str, Any]], list[Path]],
    stage: str | None,
) -> Iterator[str]:
    """Text as it is written, across attempts, until the stage (or the job) ends or nobody runs the job."""
    reader = LogReader()
    while True:
        # Asked before the files are read: what was written in between is read now, not lost.
        is_over = not is_running() or _has_ended(read_job(), stage)
        yield from (text for file in find(read_job()) if (text := reader.new_text(file, is_final=is_over)))
        if is_over:
            return
        time.sleep(POLL_SECONDS)


def _has_ended(job: Mapping[str, Any], stage: str | None) -> bool:
    phases = [known.get("phase") for known in _stages(job) if stage in (None, known["name"])]
    return bool(phases) and all(phase in FINISHED for phase in phases)


def _stages(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    return (job.get("status") or {}).get("stages") or []
