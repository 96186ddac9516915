"""`rlhf run` without the terminal: a job file in, the RLHFJob with its status out, in a directory that survives any kill.

The CLI calls this and shows what it returns. The session submits the job to the embedded cluster and drives that; it starts no stage
itself. Other processes (`rlhf get`, `logs`, `cancel`) open the same directory and read, or leave a note for the driver.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlhf_api import names
from rlhf_api.job import RLHFJob
from rlhf_api.problems import InvalidJob
from rlhf_api.profile import ProfileSpec
from rlhf_api.status import JobStatus
from rlhf_api.validate import find_change_problems, find_problems, find_unsupported, parse_job, parse_profile
from rlhf_operator.core import endings
from rlhf_operator.core.status import is_over
from rlhf_operator.local.claims import find_missing_claims
from rlhf_operator.local.cluster import LocalCluster, is_at_rest, utc_now
from rlhf_operator.local.faults import Faults
from rlhf_operator.local.machine import Machine, profile_of, this_machine
from rlhf_operator.local.processes import LocalRuntime, Runtime
from rlhf_operator.local.store import Store
from rlhf_operator.local.workdir import Busy, NoSuchJob, Workdir
from rlhf_operator.shell.kube import Object

__all__ = ["NOT_IMITATED", "Busy", "LocalSession", "NoSuchJob", "Refused"]

Refused = InvalidJob
"""Nothing has run: `problems` and `exit_code` (64, or 69 when all of them are Unsupported) say why."""

INTERRUPTED = 130
NOT_IMITATED = (
    "scheduling and resources beyond a GPU count: all pods are placed at once on one node",
    "CEL rules and admission policies: the same rules run in Python instead",
    "RBAC, quota and Pod Security",
    "DNS, Services and NetworkPolicies: created and stored as in a cluster, also with Isolate, but without effect",
    "image pulls, read-only root file systems and users",
    "cgroup memory limits",
    "probes",
    "Kueue: a queue admits every Job at once",
    "StorageClasses: a volume is bound at once",
    "pagination of listings",
    "clocks that differ between nodes",
)
"""What the embedded cluster does differently from a real one: printed by `rlhf run --explain`."""


def _never() -> bool:
    return False


class LocalSession:
    """One job in one directory. Cheap to open; only `run` drives."""

    def __init__(
        self, workdir: Workdir, claims: Mapping[str, Path], profile: Mapping[str, Any] | None, runtime: Runtime, machine: Machine | None
    ) -> None:
        self._workdir = workdir
        self._claims = claims
        self._profile = profile
        self._runtime = runtime
        self._machine = machine
        self._was_interrupted = False
        self._is_aborted = False
        self.faults = Faults()
        """Errors of the API that tests inject."""

    @classmethod
    def open(
        cls,
        workdir: Path,
        *,
        claims: Mapping[str, Path] | None = None,
        profile: Mapping[str, Any] | None = None,
        runtime: Runtime | None = None,
        machine: Machine | None = None,
    ) -> "LocalSession":
        """The session of a directory, which need not exist.

        Args:
            claims: directory of each claim. They are remembered with the job: later sessions need not name them.
            profile: a ClusterRLHFProfile, or only its spec; None takes the one that was given before, else makes one from the machine.
            runtime: how pods are run; tests give a scripted one.
            machine: what there is; tests give one, else it is looked up when needed.
        """
        place = Workdir(Path(workdir).resolve())
        known = {**place.read_claims(), **{name: Path(path).resolve() for name, path in (claims or {}).items()}}
        return cls(place, known, profile, runtime or LocalRuntime(), machine)

    def check(self, job_wire: Mapping[str, Any]) -> RLHFJob:
        """The job that `submit` would store. Touches nothing, so a caller can ask before it makes room.

        Raises:
            Refused: the manifest breaks rules, is Unsupported here, or names a claim without a directory.
        """
        job = parse_job(job_wire)
        problems = [*find_unsupported(job), *find_missing_claims(job, self._claims)]
        if problems:
            raise Refused(problems)
        return job

    def submit(self, job_wire: Mapping[str, Any]) -> Object:
        """Store the job. Submitting an equal job again changes nothing.

        Raises:
            Refused: as in `check`.
            FileExistsError: the directory holds another job.
            Busy: another process drives the job of this directory.
        """
        job = self.check(job_wire)
        with self._workdir.drive():
            self._remember_options()
            try:
                known = self._workdir.read_job()
            except NoSuchJob:
                return self._create(job)
        if (known["metadata"]["name"], known["spec"]) != (job.metadata.name, job.spec.to_wire()):
            raise FileExistsError(f"{self._workdir.path}: holds another job, or this one before it was edited: take another directory")
        return known

    def run(self, on_change: Callable[[Object], None], should_stop: Callable[[], bool] = _never) -> Object:
        """Drive the job until it is over, suspended or refused; returns it then.

        Args:
            on_change: gets the RLHFJob whenever its status has changed.
            should_stop: asked ten times a second; once it says yes the job is suspended, which saves a checkpoint.

        Raises:
            Refused: the job names a claim without a directory.
            Busy: another process drives the job.
        """
        with self._workdir.drive():
            self._workdir.take_suspend_note()  # a note to an earlier driver
            self._was_interrupted = self._is_aborted = False
            stored = self._workdir.read_job()
            job = RLHFJob.from_wire({key: stored[key] for key in ("apiVersion", "kind", "metadata", "spec")})
            if _may_start_pods(stored):
                self._refuse_missing_claims(job)
            self._remember_options()
            self._write_profile(job)
            gpus = (self._machine or this_machine()).gpus
            cluster = LocalCluster(self._workdir, self._runtime, self._claims, gpus, self.faults)
            return asyncio.run(cluster.run(on_change, lambda moving: self._tick(moving, should_stop)))

    def abort(self) -> None:
        """End every pod at once, without a checkpoint. May be called from a signal handler; `run` returns soon after."""
        self._is_aborted = True

    def suspend(self) -> None:
        """Stop the job after a checkpoint, whoever drives it. Without a driver it is stopped here."""
        if self._workdir.is_driven():
            self._workdir.read_job()
            self._workdir.ask_to_suspend()
            return
        self._change({"suspend": True})
        self.run(lambda job: None)

    def resume(self) -> None:
        """Take a suspension back; `run` goes on from there."""
        self._change({"suspend": False})

    def rerun(self, from_stage: str, token: str) -> None:
        """Ask for a stage, its dependants and every changed stage again; `run` does it.

        Raises:
            Refused: the stage does not exist, or the job runs.
        """
        self._change({"rerun": {"fromStage": from_stage, "token": token}})

    def replace_spec(self, job_wire: Mapping[str, Any]) -> None:
        """Put an edited job file in place of the submitted one.

        Raises:
            Refused: the file breaks rules, names a claim without a directory, or changes what may not change now.
        """
        job = parse_job(job_wire)
        self._refuse_missing_claims(job)
        self._change(job.spec.to_wire())

    def job(self) -> Object:
        """The RLHFJob with its status, as JSON; up to date also while another process drives it.

        Raises:
            NoSuchJob: nothing was submitted here.
        """
        return self._workdir.read_job()

    def events(self) -> list[Object]:
        """Events of the job, oldest first."""
        return self._workdir.read_events()

    def is_running(self) -> bool:
        """True while a process drives the job."""
        return self._workdir.is_driven()

    def logs_dir(self, stage: str, attempt: int) -> Path:
        """Where the output of an attempt's pods is: `pod-<index>.log`."""
        return self._workdir.path / "logs" / f"{stage}-r{attempt}"

    def root(self) -> Path:
        """The job's directory on its volume."""
        job = self.job()
        claim = job["spec"]["storage"].get("existingClaim")
        return (self._claims[claim] if claim else self._workdir.volume) / str(job["metadata"]["uid"])

    def directory(self, stage: str, attempt: int) -> Path:
        """Where an attempt writes: metrics.jsonl, samples.jsonl, output/, checkpoints/, logs/."""
        return self.root() / names.attempt_directory(stage, attempt)

    def exit_code(self) -> int:
        """What `rlhf run` and `resume` exit with: 0 Complete; the code of the outcome that failed the job; 64 or 69 refused; 130
        interrupted; 1 otherwise."""
        job = self.job()
        status = JobStatus.from_wire(job.get("status", {}))
        if self._was_interrupted and not is_over(status):
            return INTERRUPTED
        code = endings.code_of(job)
        return endings.WITHOUT_CODE if code is None else code

    def _create(self, job: RLHFJob) -> Object:
        store = Store(utc_now, self._workdir.state)
        for claim in self._claims:
            body = {"metadata": {"name": claim}, "spec": {"accessModes": ["ReadWriteMany", "ReadWriteOnce"]}}
            store.create("PersistentVolumeClaim", job.metadata.namespace, body)
            store.update_status("PersistentVolumeClaim", job.metadata.namespace, claim, {"phase": "Bound"})
        metadata = {"name": job.metadata.name, "labels": job.metadata.labels, "annotations": job.metadata.annotations}
        return store.create(names.KIND_JOB, job.metadata.namespace, {"metadata": metadata, "spec": job.spec.to_wire()})

    def _remember_options(self) -> None:
        """What the command line gave, for sessions that come later."""
        self._workdir.write_claims(self._claims)
        if self._profile is not None:
            self._workdir.write_profile(self._profile)

    def _write_profile(self, job: RLHFJob) -> None:
        """The profile under the name that the job uses. A running job keeps its snapshot, so this matters to new jobs and reruns."""
        rules = self._rules(job)
        store = Store(utc_now, self._workdir.state)
        body = {"metadata": {"name": job.spec.profile}, "spec": rules.to_wire()}
        if store.find(names.KIND_PROFILE, ""):
            store.update(names.KIND_PROFILE, "", body)
        else:
            store.create(names.KIND_PROFILE, "", body)

    def _rules(self, job: RLHFJob) -> ProfileSpec:
        # Read now and not in `open`: a job that was discarded meanwhile takes its profile along.
        profile = self._profile if self._profile is not None else self._workdir.read_profile()
        if profile is None:
            return profile_of(self._machine or this_machine(), job.spec)
        return parse_profile(profile).spec if "spec" in profile else ProfileSpec.from_wire(profile)

    def _refuse_missing_claims(self, job: RLHFJob) -> None:
        if problems := find_missing_claims(job, self._claims):
            raise Refused(problems)

    def _change(self, changes: Mapping[str, Any]) -> None:
        """Edit the stored spec under the rules for changes.

        Raises:
            Refused: the change is not allowed, or not now.
        """
        with self._workdir.drive():
            known = self._workdir.read_job()
            old = RLHFJob.from_wire(known)
            wire = {**known, "spec": {**known["spec"], **changes}}
            problems = find_problems({key: wire[key] for key in ("apiVersion", "kind", "metadata", "spec")})
            problems += [] if problems else find_change_problems(old, RLHFJob.from_wire(wire))
            if problems:
                raise Refused(problems)
            Store(utc_now, self._workdir.state).update(names.KIND_JOB, known["metadata"]["namespace"], wire)

    def _tick(self, cluster: LocalCluster, should_stop: Callable[[], bool]) -> None:
        if self._is_aborted:
            cluster.kubelet.kill_all()
        if not self._was_interrupted and (self._is_aborted or should_stop()):
            self._was_interrupted = True
            cluster.change_spec(lambda spec: spec.update(suspend=True))
        if self._workdir.take_suspend_note():
            cluster.change_spec(lambda spec: spec.update(suspend=True))


def _may_start_pods(job: Object) -> bool:
    """False when the job only ends its pods, or is over: then its claims are not needed, and may be gone."""
    is_done = is_at_rest(job) and is_over(JobStatus.from_wire(job.get("status", {})))
    return not (is_done or job["spec"].get("suspend", False))
