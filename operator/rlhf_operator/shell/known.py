"""What the watches last said about each RLHFJob: the few facts that pacing needs. Events in, answers about a key out.

Nothing is decided from it that the job's own round does not observe anew. It may be stale or empty without harm.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rlhf_api import names
from rlhf_operator.shell.workqueue import Key

_OVER = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An RLHFJob as the last event showed it."""

    uid: str
    generation: int
    is_being_deleted: bool
    created: datetime
    profile: str
    phase: str
    has_begun: bool
    """A stage has an attempt."""
    is_resting: bool
    """Over, and its newest generation was looked at, or to be suspended: it starts nothing, and needs no slot for that."""
    waits_for_slot: bool
    """It has begun before, and was suspended or run again: now it waits like a new job."""
    is_settled: bool
    """Over, its newest generation was looked at, and no time to live runs: only a change brings work."""
    stalls: tuple[str, ...]
    """Reasons why stages wait."""

    @property
    def is_running(self) -> bool:
        """It counts towards `maxRunningJobsPerNamespace`: what `status.holds_slot` says of a status that can be read."""
        return self.has_begun and not self.waits_for_slot and self.phase not in (*_OVER, "Suspended")


def read_seen(body: Mapping[str, Any]) -> Seen:
    """The facts from the JSON of an RLHFJob. Its status may be anything that somebody wrote: missing parts are no error."""
    metadata, spec, status = body["metadata"], body.get("spec", {}), body.get("status", {})
    generation, phase, stages = int(metadata.get("generation", 0)), str(status.get("phase", "Pending")), status.get("stages", ())
    is_over = phase in _OVER and status.get("observedGeneration") == generation
    return Seen(
        uid=metadata["uid"],
        generation=generation,
        is_being_deleted="deletionTimestamp" in metadata,
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        profile=str(spec.get("profile", "")),
        phase=phase,
        has_begun=any(stage.get("attempt") for stage in stages),
        is_resting=is_over or bool(spec.get("suspend")),
        waits_for_slot=any(condition.get("reason") == names.REASON_CONCURRENCY_LIMIT for condition in status.get("conditions", ())),
        is_settled=is_over and spec.get("runPolicy", {}).get("ttlSecondsAfterFinished") is None,
        stalls=tuple(stage["reason"] for stage in stages if stage.get("reason") and stage.get("phase") not in ("Failed", "Restarting")),
    )


@dataclass(slots=True)
class Known:
    """All RLHFJobs that the watches showed."""

    _seen: dict[Key, Seen] = field(default_factory=dict)

    def get(self, key: Key) -> Seen | None:
        """The newest facts; None for a job that no event has shown, or that is gone."""
        return self._seen.get(key)

    def put(self, key: Key, seen: Seen) -> Seen | None:
        """Keep the newest facts; returns those before, if they were of the same object."""
        old = self._seen.get(key)
        self._seen[key] = seen
        return old if old is not None and old.uid == seen.uid else None

    def drop(self, key: Key) -> None:
        """The job is gone."""
        self._seen.pop(key, None)

    def waiting_for(self, profile: str) -> list[Key]:
        """Jobs of a profile that do not run: an edit of it may be what they wait for."""
        return [key for key, seen in self._seen.items() if seen.profile == profile and not (seen.is_running or seen.is_settled)]

    def num_running(self, profile: str) -> int:
        """Jobs of a profile that run, in all namespaces."""
        return sum(seen.is_running and seen.profile == profile for seen in self._seen.values())

    def phases(self) -> Mapping[str, int]:
        """Jobs by phase."""
        return Counter(seen.phase for seen in self._seen.values())

    def stalls(self) -> Mapping[str, int]:
        """Waiting stages by reason. Reasons that are not ours are counted together: labels must not grow without bound."""
        return Counter(
            reason if reason in _REASONS else "Other" for seen in self._seen.values() if seen.is_running for reason in seen.stalls
        )


_REASONS = frozenset(value for name, value in vars(names).items() if name.startswith("REASON_"))
