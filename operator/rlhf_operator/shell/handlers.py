"""Kopf's part: watch events in, keys into the work queue. Handlers compute a key and a fingerprint, never wait, and never fail.

Fingerprints keep the operator's own status writes, and the hundreds of Job updates that change nothing for us, from causing work.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import kopf

from rlhf_api import names
from rlhf_operator.shell.connection import Connection
from rlhf_operator.shell.known import Known, Seen, read_seen
from rlhf_operator.shell.slots import Slots
from rlhf_operator.shell.workqueue import Key, Lane, WorkQueue

_LOG = logging.getLogger(__name__)
Fingerprint = tuple[object, ...]
_NEW_JOB: Fingerprint = ((), None, False, False, None)
"""A Job that was just created: nothing has happened to it yet."""


@dataclass(slots=True)
class Handlers:
    """What the handlers need and remember."""

    queue: WorkQueue
    known: Known
    slots: Slots
    _jobs: dict[str, Fingerprint] = field(default_factory=dict)
    _profiles: dict[str, int] = field(default_factory=dict)

    def on_rlhfjob(self, event: Mapping[str, Any]) -> None:
        """Enqueue a job that is new, edited or being deleted."""
        body, kind = event["object"], event["type"]
        key = (body["metadata"]["namespace"], body["metadata"]["name"])
        if kind == "DELETED":
            self.known.drop(key)
            self._start(self.slots.free(key))
            self.queue.add(key)  # the round finds nothing, and forgets what was known
            return
        seen = read_seen(body)
        old = self.known.put(key, seen)
        if kind is None:
            self.slots.listed()
        self._count(key, old, seen)
        if _is_news(old, seen):
            is_waiting = not seen.is_running and self.slots.is_full(key[0], seen.profile)
            self.queue.add(key, Lane.LOW if kind is None or is_waiting else Lane.NORMAL)

    def on_job(self, event: Mapping[str, Any]) -> None:
        """Enqueue the RLHFJob of a Job that started, became ready, ended or goes away."""
        body, kind = event["object"], event["type"]
        uid, key = body["metadata"]["uid"], _owner_of(body["metadata"])
        if key is None:
            return
        before = self._jobs.get(uid, _NEW_JOB)
        now = ("deleted",) if kind == "DELETED" else fingerprint(body)
        if kind == "DELETED":
            self._jobs.pop(uid, None)
        else:
            self._jobs[uid] = now
        if now != before:
            _LOG.debug("Job %s: %s, was %s", body["metadata"]["name"], now, before, extra={"job": "/".join(key)})
            # That a new Job has started only makes the status newer: jobs without any Job go first.
            self.queue.add(key, Lane.LOW if kind is None or (before == _NEW_JOB and not now[0]) else Lane.NORMAL)

    def on_profile(self, event: Mapping[str, Any]) -> None:
        """Enqueue a profile that is new or edited, and the jobs that it may have refused or that wait for its limit."""
        body, kind = event["object"], event["type"]
        name, generation = body["metadata"]["name"], int(body["metadata"].get("generation", 0))
        if kind == "DELETED":
            self._profiles.pop(name, None)
            self._start(self.slots.set_limit(name, None))
            return
        limit = body.get("spec", {}).get("limits", {}).get("maxRunningJobsPerNamespace")
        self._start(self.slots.set_limit(name, limit if isinstance(limit, int) else None))
        if self._profiles.get(name) != generation:
            self._profiles[name] = generation
            self.queue.add(("", name))
            for key in self.known.waiting_for(name):
                self.queue.add(key, Lane.LOW)

    def _count(self, key: Key, old: Seen | None, seen: Seen) -> None:
        """Only an end frees a slot: what an event shows of a job that does not run may be older than the slot it has just taken."""
        if seen.is_running:
            self.slots.hold(key, seen.profile)
        elif old is not None and old.is_running:
            self._start(self.slots.free(key))

    def _start(self, keys: list[Key]) -> None:
        for key in keys:
            self.queue.add(key)


def fingerprint(job: Mapping[str, Any]) -> Fingerprint:
    """What of a Job can change a decision."""
    spec, status = job.get("spec", {}), job.get("status", {})
    conditions = tuple(sorted(c["type"] for c in status.get("conditions", ()) if c.get("status") == "True" and c["type"] != "Suspended"))
    started = None if spec.get("suspend") else status.get("startTime")
    is_ready = (status.get("ready") or 0) >= (spec.get("completions") or 1)
    are_pods_gone = bool(conditions) and not status.get("active")  # before its end a Job without pods is one that has just started
    return (conditions, started, is_ready, are_pods_gone, job["metadata"].get("deletionTimestamp"))


def register(handlers: Handlers, connection: Connection) -> kopf.OperatorRegistry:
    """A registry of kopf with our three watches and the login."""
    registry = kopf.OperatorRegistry()

    async def rlhfjob(event: Mapping[str, Any], **_: object) -> None:
        handlers.on_rlhfjob(event)

    async def job(event: Mapping[str, Any], **_: object) -> None:
        handlers.on_job(event)

    async def profile(event: Mapping[str, Any], **_: object) -> None:
        handlers.on_profile(event)

    async def login(**_: object) -> kopf.ConnectionInfo:
        return await connection.for_kopf()

    kopf.on.event(names.GROUP, names.VERSION, names.PLURAL_JOB, registry=registry)(rlhfjob)
    kopf.on.event("batch", "v1", "jobs", registry=registry)(job)
    kopf.on.event(names.GROUP, names.VERSION, names.PLURAL_PROFILE, registry=registry)(profile)
    kopf.on.login(registry=registry)(login)
    return registry


def _is_news(old: Seen | None, seen: Seen) -> bool:
    if old is None:
        return not seen.is_settled
    return (old.generation, old.is_being_deleted) != (seen.generation, seen.is_being_deleted)


def _owner_of(metadata: Mapping[str, Any]) -> Key | None:
    """Key of the RLHFJob that controls a Job. Labels are not asked: anybody may copy them."""
    for owner in metadata.get("ownerReferences", ()):
        if owner.get("controller") and owner.get("kind") == names.KIND_JOB and owner["apiVersion"].startswith(f"{names.GROUP}/"):
            return (metadata["namespace"], owner["name"])
    return None
