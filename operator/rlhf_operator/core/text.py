"""Text from pods, servers and users on its way into a status: data, never markup. Control characters go, length is cut."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from rlhf_api import names
from rlhf_api.outcome import CheckpointRef
from rlhf_api.status import MAX_METRICS, MAX_STAGE_MESSAGE, CheckpointStatus, Metric

_CHECKPOINT = re.compile(rf"{names.DIR_STAGES}/([-a-z0-9]+)/r[1-9][0-9]{{0,8}}/{names.DIR_CHECKPOINTS}/[0-9]{{1,16}}")


def clean(text: str, limit: int = MAX_STAGE_MESSAGE) -> str:
    """One printable line of at most `limit` characters."""
    flat = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def metrics(values: Mapping[str, float]) -> tuple[Metric, ...]:
    """The finite figures, headline ones first, then by name; as many as a status holds, each name once."""
    names_in_order = sorted(values, key=lambda name: (name not in names.HEADLINE_METRICS, name))
    found: dict[str, float] = {}
    for name in names_in_order:
        if math.isfinite(values[name]) and (cleaned := clean(name, 63)):
            found.setdefault(cleaned, values[name])  # the name is a key in the status: a second one would be refused, and all with it
    return tuple(Metric(name=name, value=value) for name, value in found.items())[:MAX_METRICS]


def checkpoint(reference: CheckpointRef | None, stage: str) -> CheckpointStatus | None:
    """A checkpoint that a pod of the stage reported; None when it is not one of its own: `stages/<stage>/r<N>/checkpoints/<step>`."""
    found = _CHECKPOINT.fullmatch(reference.path) if reference is not None else None
    if reference is None or found is None or found[1] != stage:
        return None
    # A year that the API's format does not have: the checkpoint counts without it.
    time = reference.time if reference.time is not None and 1970 <= reference.time.year < 9999 else None
    return CheckpointStatus(path=reference.path, step=reference.step, digest=reference.digest, time=time)


def newer(known: CheckpointStatus | None, reported: CheckpointStatus | None) -> CheckpointStatus | None:
    """The checkpoint with more steps; a later report of the same step wins."""
    if reported is None or (known is not None and known.step > reported.step):
        return known
    return reported


def seconds_between(start: datetime | None, end: datetime) -> int:
    """Whole seconds from start to end; 0 when nothing started."""
    return max(0, int((end - start).total_seconds())) if start is not None else 0


def clock(moment: datetime) -> str:
    """A time of day for a message: 12:00:05Z."""
    return moment.astimezone(UTC).strftime("%H:%M:%SZ")
