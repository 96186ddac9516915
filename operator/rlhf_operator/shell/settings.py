"""How the process is set up: options of the command line as values, and the settings of kopf, which only brings the events."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kopf

from rlhf_api import names


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says."""

    kubeconfig: Path | None = None
    context: str | None = None
    namespaces: tuple[str, ...] = ()
    """Namespaces to watch; empty: all of them."""
    lease_namespace: str = "rlhf-system"
    lease_name: str = names.MANAGER
    """Operators with one name lead one after the other; those of two installations, for different namespaces, at the same time."""
    leader_election: bool = True
    cluster_domain: str = "cluster.local"
    port: int = 8080
    """Of health and metrics; 0 takes a free one, which the log names."""
    num_workers: int = 16
    """Jobs reconciled at the same time. More of them load the API server; they do not make training faster."""
    requests_per_second: float = 500.0
    request_burst: float = 1000.0


class _NoMemory(kopf.DiffBaseStorage):
    """Kopf may remember nothing on our objects, nor work out what changed: events only name a key here."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        """Nothing to compare."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Nothing was kept."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Keep nothing."""


def configure_kopf(settings: kopf.OperatorSettings) -> None:
    """Kopf as an event shell: no peering, no events of its own, no memory on objects, and watches that notice a dead connection."""
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.persistence.finalizer = f"{names.GROUP}/unused"
    settings.persistence.diffbase_storage = _NoMemory()
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = 600
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 70
    settings.watching.label_selectors["batch", "v1", "jobs"] = names.LABEL_JOB_UID
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.queueing.idle_timeout = 1
    settings.queueing.worker_limit = None
    settings.execution.max_workers = 4
    settings.process.ultimate_exiting_timeout = 25
