"""The directory of a job: where its objects, volume and logs are, who drives it now, and what other processes ask of that driver.

state/      the objects of the embedded cluster        volume/     the job's own claim
logs/       output of the pods                         pods/       run.json and termination message of each pod
lock        held by the process that drives the job    suspend     asks the driver to suspend
session.json    claims and profile given on the command line
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_api import names
from rlhf_operator.shell.kube import Object

_ASKING_SECONDS = 0.5
"""Far more than a question takes, also on a machine that is busy."""


class Busy(Exception):
    """Another process drives the job."""


class NoSuchJob(Exception):
    """The directory holds no job."""


@dataclass(frozen=True, slots=True)
class Workdir:
    """One job's directory."""

    path: Path

    @property
    def state(self) -> Path:
        """Objects of the embedded cluster."""
        return self.path / "state"

    @property
    def volume(self) -> Path:
        """The job's own claim."""
        return self.path / "volume"

    def read_job(self) -> Object:
        """The RLHFJob as it was last written, by whichever process.

        Raises:
            NoSuchJob: nothing was submitted here.
        """
        found = self._read(names.KIND_JOB)
        if not found:
            raise NoSuchJob(f"{self.path}: no job here: give the directory of a job that rlhf run started")
        return found[0]

    def read_events(self) -> list[Object]:
        """Events of the job, oldest first."""
        return sorted(self._read("Event"), key=lambda event: int(event["sequence"]))

    def read_claims(self) -> dict[str, Path]:
        """Claims that were given to the job, by whichever command."""
        return {name: Path(directory) for name, directory in self._read_session().get("claims", {}).items()}

    def write_claims(self, claims: Mapping[str, Path]) -> None:
        """Remember the claims, so that `rlhf resume` needs no options."""
        self._write_session(claims={name: str(directory) for name, directory in sorted(claims.items())})

    def read_profile(self) -> dict[str, Any] | None:
        """The profile that was given to the job; None when it was made from the machine."""
        profile: dict[str, Any] | None = self._read_session().get("profile")
        return profile

    def write_profile(self, profile: Mapping[str, Any]) -> None:
        """Remember the profile: its limits hold for the whole job, not for one command."""
        self._write_session(profile=dict(profile))

    def is_driven(self) -> bool:
        """True while a process drives the job."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDONLY)  # whoever may read a job may ask; another user, for example
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that only ask do not see each other
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)

    @contextmanager
    def drive(self) -> Iterator[None]:
        """Hold the job. The lock goes with the process, however it ends.

        Raises:
            Busy: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _lock(descriptor):
                owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
                raise Busy(f"{self.path}: process {owner} drives this job")
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def ask_to_suspend(self) -> None:
        """Leave a note for the process that drives the job."""
        (self.path / "suspend").touch()

    def take_suspend_note(self) -> bool:
        """True once for each note."""
        note = self.path / "suspend"
        if not note.exists():
            return False
        note.unlink(missing_ok=True)
        return True

    def _read_session(self) -> dict[str, Any]:
        path = self.path / "session.json"
        if not path.exists():
            return {}
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return document

    def _write_session(self, **parts: object) -> None:
        """Replace these parts; the others stay."""
        temporary = self.path / "session.tmp"
        temporary.write_text(json.dumps({**self._read_session(), **parts}), encoding="utf-8")
        os.replace(temporary, self.path / "session.json")

    def _read(self, kind: str) -> list[Object]:
        found = []
        for path in sorted((self.state / kind).glob("*/*.json")):
            try:
                found.append(json.loads(path.read_text(encoding="utf-8")))
            except FileNotFoundError:
                continue  # deleted meanwhile
        for obj in found:
            obj["metadata"].pop("managedFields", None)
        return found


def _lock(descriptor: int) -> bool:
    """Take the lock, or find that somebody holds on to it: one who only asks whether the job is driven has it for an instant."""
    end = time.monotonic() + _ASKING_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
