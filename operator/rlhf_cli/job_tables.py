"""The tables of `rlhf get`: the columns that `kubectl get rlhf` has, and one job with its stages and attempts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from rlhf_cli import story
from rlhf_cli.live import line, why_it_waits
from rlhf_cli.stage_rows import byte_size, duration, rows_of
from rlhf_cli.tables import print_whole

NEVER = "–"


NO_JOBS_HERE = "no jobs below .rlhf; start one: rlhf run JOB_FILE"


def print_list(
    console: Console, jobs: Iterable[Mapping[str, Any]], now: datetime, *, empty: str = NO_JOBS_HERE, has_namespaces: bool = False
) -> None:
    """One line a job: Phase, Stage, Done, Reason, Age, as the CRD's printer columns; before them the namespace, where there are several."""
    table = Table(box=None, pad_edge=False)
    for heading in (*(["NAMESPACE"] if has_namespaces else []), "NAME", "PHASE", "STAGE", "DONE", "REASON", "AGE"):
        table.add_column(heading, no_wrap=True)
    num_jobs = 0
    for job in jobs:
        num_jobs += 1
        status = job.get("status") or {}
        cells = (status.get("phase", "Pending"), status.get("currentStage", ""), status.get("stagesSummary", ""), status.get("reason", ""))
        name = [job["metadata"]["namespace"], job["metadata"]["name"]] if has_namespaces else [job["metadata"]["name"]]
        table.add_row(*name, *cells, _age(job["metadata"].get("creationTimestamp"), now))
    if num_jobs:
        print_whole(console, table)
    else:
        _text(console, empty)


def print_story(
    console: Console, job: Mapping[str, Any], events: Sequence[Mapping[str, Any]], now: datetime, command: Callable[..., str]
) -> None:
    """`rlhf describe`: the answers first, then all details. `command` writes a command about this job as its user would type it."""
    answers = (
        ("What happened", story.what_happened(job, now)),
        ("To whom", story.to_whom(job, now)),
        ("What to do", story.what_to_do(job, now, command)),
    )
    for title, lines in answers:
        _section(console, title, lines)
    print_details(console, job, now)
    _section(console, "Conditions", story.condition_lines(job, now))
    _section(console, "Events", story.event_lines(events, now))


def _section(console: Console, title: str, lines: Sequence[str]) -> None:
    """Nothing at all when there is nothing to say."""
    if not lines:
        return
    _text(console, title)
    for line_ in lines:
        _text(console, f"  {line_}")
    console.print()


def print_details(console: Console, job: Mapping[str, Any], now: datetime) -> None:
    """One job: why it waits, every stage with its newest numbers, every attempt with how it ended, and what was published."""
    status = job.get("status") or {}
    head = (job["metadata"]["name"], status.get("phase", "Pending"), status.get("stagesSummary", ""), status.get("reason", ""))
    _text(console, "  ".join(part for part in head if part))
    if waits := why_it_waits(job):
        _text(console, waits)
    console.print()
    for row in rows_of(job):
        _text(console, line(row))
    console.print()
    stages = status.get("stages") or []
    print_whole(console, _attempts(stages, now))
    for message in _messages(stages):
        _text(console, message)
    for artifact in status.get("artifacts") or []:
        _text(console, f"artifact {artifact['uri']}  {byte_size(artifact.get('sizeBytes'))}  {artifact['digest']}")


def _attempts(stages: Iterable[Mapping[str, Any]], now: datetime) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("ATTEMPT", "OUTCOME", "EXIT", "BUDGET", "TOOK", "RESUMED FROM"):
        table.add_column(heading, no_wrap=True)
    for stage in stages:
        for attempt in stage.get("attempts") or []:
            table.add_row(*_attempt_cells(stage["name"], attempt, now))
    return table


def _attempt_cells(stage: str, attempt: Mapping[str, Any], now: datetime) -> tuple[str, ...]:
    resumed = attempt.get("resumedFrom") or {}
    return (
        f"{stage}/r{attempt['attempt']}",
        attempt.get("outcome") or NEVER,
        str(attempt["exitCode"]) if attempt.get("exitCode") is not None else NEVER,
        attempt.get("budget") or NEVER,
        _took(attempt, now),
        f"{resumed['path']}" if resumed else NEVER,
    )


def _messages(stages: Iterable[Mapping[str, Any]]) -> list[str]:
    """What attempts said when they ended, below the table: such a line is longer than a column."""
    attempts = [(stage["name"], attempt) for stage in stages for attempt in stage.get("attempts") or []]
    return [f"{name}/r{attempt['attempt']}: {attempt['message']}" for name, attempt in attempts if attempt.get("message")]


def _took(attempt: Mapping[str, Any], now: datetime) -> str:
    start, end = attempt.get("startTime"), attempt.get("endTime")
    return duration(((_time(end) if end else now) - _time(start)).total_seconds()) if start else NEVER


def _age(created: str | None, now: datetime) -> str:
    return duration((now - _time(created)).total_seconds()) if created else NEVER


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _text(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
