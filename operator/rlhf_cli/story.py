"""What happened to a job, to whom, and what to do: an RLHFJob and its events (plain dicts) in, sections of lines out. No I/O, no clock."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rlhf_cli.advice import advice_for
from rlhf_cli.stage_rows import duration, phase_of

UNSEEN = timedelta(seconds=30)
"""An operator that runs looks at a job within a second. After this long, nobody does."""
EVENTS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that holds the job up or ended it: a stage or the job, a reason of the API, the operator's words."""

    subject: str
    reason: str
    message: str


def troubles_of(job: Mapping[str, Any]) -> list[Trouble]:
    """The decisive ones, the most important first: refused, failed, then whatever waits."""
    status = job.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    if found := _of_condition(conditions, "Accepted", "False"):
        return [found]
    if found := _of_condition(conditions, "Failed", "True"):
        failed = [stage for stage in status.get("stages") or [] if stage.get("phase") == "Failed"]
        return [Trouble(stage["name"], stage.get("reason") or found.reason, stage.get("message", "")) for stage in failed] or [found]
    waits = (_of_condition(conditions, kind, bad) for kind, bad in (("Stalled", "True"), ("Suspended", "True"), ("StorageReady", "False")))
    return [found for found in waits if found is not None][:1]


def _of_condition(conditions: Mapping[str, Mapping[str, Any]], kind: str, bad: str) -> Trouble | None:
    condition = conditions.get(kind)
    if condition is None or condition.get("status") != bad:
        return None
    return Trouble("job", condition.get("reason", ""), condition.get("message", ""))


def what_happened(job: Mapping[str, Any], now: datetime) -> list[str]:
    """One paragraph a trouble; how far the job is when there is none."""
    troubles = troubles_of(job)
    if troubles:
        return [f"{trouble.subject}: {trouble.reason}{': ' if trouble.message else ''}{trouble.message}" for trouble in troubles]
    if is_unseen(job, now):
        return ["no operator has looked at this job"]
    status = job.get("status") or {}
    stage = status.get("currentStage")
    done = f"{status.get('stagesSummary', '0')} stages done"
    return [f"it is {phase_of(job)}{f' in {stage}' if stage else ''}, {done}; nothing holds it up"]


def is_unseen(job: Mapping[str, Any], now: datetime) -> bool:
    """True when the newest spec should have been looked at by now, and was not."""
    metadata, status = job["metadata"], job.get("status") or {}
    created = metadata.get("creationTimestamp")
    is_old = created is not None and now - _time(created) > UNSEEN
    return is_old and not status.get("observedGeneration")


def to_whom(job: Mapping[str, Any], now: datetime) -> list[str]:
    """The last ended attempt of every stage that had one which did not succeed: pod, node, code, and what it said."""
    lines: list[str] = []
    for stage in (job.get("status") or {}).get("stages") or []:
        ended = [attempt for attempt in stage.get("attempts") or [] if attempt.get("outcome") not in (None, "Succeeded")]
        if ended and stage.get("phase") != "Succeeded":
            lines += _blame(stage, ended[-1], now)
    return lines


def _blame(stage: Mapping[str, Any], attempt: Mapping[str, Any], now: datetime) -> Iterator[str]:
    code = f", exit {attempt['exitCode']}" if attempt.get("exitCode") is not None else ""
    pod = f", pod {attempt['pod']}" if attempt.get("pod") else ""
    node = f" on node {attempt['node']}" if attempt.get("node") else ""
    ended = f", {duration((now - _time(attempt['endTime'])).total_seconds())} ago" if attempt.get("endTime") else ""
    yield f"{stage['name']}/r{attempt['attempt']}: {attempt['outcome']}{code}{pod}{node}{ended}"
    if attempt.get("message"):
        yield f"  {attempt['message']}"
    used = f"counted failures {stage.get('countedFailures') or 0}, disruptions {stage.get('disruptions') or 0}"
    yield f"  {used}; budget used by this one: {attempt.get('budget') or 'None'}"


def what_to_do(job: Mapping[str, Any], now: datetime, command: Callable[..., str]) -> list[str]:
    """Advice for each trouble and for the outcome behind it, then the command that shows more.

    `command("logs", name, "-f")` is that command as this user would type it.
    """
    name = str(job["metadata"]["name"])
    if is_unseen(job, now):
        where = "its Deployment (kubectl -n rlhf-system get deploy,pods) and the namespaces that it watches"
        return [f"Ask the platform team whether the operator runs: look at {where}."]
    lines = []
    for trouble in troubles_of(job):
        reasons = dict.fromkeys((trouble.reason, *_outcomes_behind(job, trouble)))
        lines += [words for reason in reasons if (words := advice_for(reason, command("resume", name)))]
        if trouble.subject != "job":
            lines.append(f"Read its log: {command('logs', name, trouble.subject)}")
    if lines:
        return lines
    if phase_of(job) == "Succeeded":
        return [f"Nothing: it is complete. {_artifacts(job)}".rstrip()]
    return [f"Nothing. Watch it: {command('logs', name, '-f')}"]


def _outcomes_behind(job: Mapping[str, Any], trouble: Trouble) -> list[str]:
    """How the last attempt of the stage in trouble ended."""
    for stage in (job.get("status") or {}).get("stages") or []:
        if stage["name"] == trouble.subject and stage.get("attempts"):
            return [stage["attempts"][-1].get("outcome") or ""]
    return []


def _artifacts(job: Mapping[str, Any]) -> str:
    uris = [artifact["uri"] for artifact in (job.get("status") or {}).get("artifacts") or []]
    return f"Published: {', '.join(uris)}" if uris else ""


def condition_lines(job: Mapping[str, Any], now: datetime) -> list[str]:
    """`Accepted       True   Valid  3m20s ago  message`, in the order of the status."""
    lines = []
    for condition in (job.get("status") or {}).get("conditions") or []:
        since = condition.get("lastTransitionTime")
        age = f"{duration((now - _time(since)).total_seconds())} ago" if since else ""
        head = f"{condition['type']:<14} {condition['status']:<7} {condition.get('reason', ''):<20} {age:<12}"
        lines.append(f"{head} {condition.get('message', '')}".rstrip())
    return lines


def event_lines(events: Sequence[Mapping[str, Any]], now: datetime) -> list[str]:
    """The newest events, oldest first: `3m20s ago  Warning  AttemptFailed  (x2) …`."""
    lines = []
    for event in events[-EVENTS_SHOWN:]:
        seen = time_of_event(event)
        age = f"{duration((now - _time(seen)).total_seconds())} ago" if seen else ""
        count = (event.get("series") or {}).get("count") or event.get("count") or 1
        times = f"(x{count}) " if count > 1 else ""
        lines.append(
            f"{age:<12} {event.get('type', ''):<8} {event.get('reason', ''):<20} {times}{event.get('message') or event.get('note', '')}"
        )
    return lines


def time_of_event(event: Mapping[str, Any]) -> str:
    """When an event was last seen, as text that sorts."""
    series = event.get("series") or {}
    found = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return str(found or event["metadata"].get("creationTimestamp") or "")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
