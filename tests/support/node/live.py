"""An RLHFJob in a real cluster, as a test sees it: its status, its pods, its files, and the ways to hurt it."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlhf_api import names
from tests.support.cluster import ControlPlane
from tests.support.cluster.rest import Refused
from tests.support.eventually import eventually
from tests.support.node import volumes

NAMESPACE = "default"
STEP_SECONDS = 120.0
"""Longest time that any one thing may take on two busy cores: a deadline for what hangs, not a measure of speed."""

_JOBS = f"/apis/rlhf.dev/v1alpha1/namespaces/{NAMESPACE}/rlhfjobs"
_TYPES = {"sft": ("SFT", "sft"), "rm": ("RewardModel", "rewardModel"), "ppo": ("PPO", "ppo"), "nf4": ("Quantize", "quantize")}
_TYPES["publish"] = ("Publish", "publish")
Stage = dict[str, Any]


class LiveJob:
    """A job with a volume of its own, below `directory` on this machine; the claim has the name of the job."""

    def __init__(self, plane: ControlPlane, name: str, directory: Path) -> None:
        self.plane, self.name, self.directory = plane, name, directory
        volumes.make_claim(plane.kubectl, NAMESPACE, name, directory)

    def apply(self, stages: Mapping[str, Mapping[str, Any]], *, profile: str = "fake", **spec: Any) -> None:
        """Create the job, or change it. `stages` has the block of each stage by its name: sft, rm, ppo, nf4 or publish."""
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND_JOB,
            "metadata": {"name": self.name, "namespace": NAMESPACE},
            "spec": {
                "profile": profile,
                "model": {"source": {"uri": "builtin://models/tiny-llama"}},
                "topology": {"nodes": 2, "gpusPerNode": 0},
                "storage": {"existingClaim": self.name},
                "stages": [{"name": name, "type": _TYPES[name][0], **_block(name, block)} for name, block in stages.items()],
            }
            | spec,
        }
        volumes.apply(self.plane.kubectl, body)

    def change(self, **spec: Any) -> None:
        """Change fields of the spec, as `kubectl patch` does."""
        self.plane.rest().merge(f"{_JOBS}/{self.name}", {"spec": spec})

    def delete(self) -> None:
        """Delete the job, as a user does. A job that is gone already is fine."""
        try:
            self.plane.rest().delete(f"{_JOBS}/{self.name}")
        except Refused as error:
            if error.code != 404:
                raise

    def remove(self) -> None:
        """Delete the job and its claim; the files stay until the cluster goes."""
        self.delete()
        volumes.remove_claim(self.plane.kubectl, NAMESPACE, self.name)

    @property
    def uid(self) -> str:
        """The job's uid."""
        return str(self.plane.rest().get(f"{_JOBS}/{self.name}")["metadata"]["uid"])

    def status(self) -> dict[str, Any]:
        """What the operator says; empty before it said anything."""
        found: dict[str, Any] = self.plane.rest().get(f"{_JOBS}/{self.name}").get("status", {})
        return found

    def stage(self, name: str) -> Stage:
        """A stage's status; empty before there is one."""
        return next((stage for stage in self.status().get("stages", []) if stage["name"] == name), {})

    def attempt(self, stage: str, number: int) -> dict[str, Any]:
        """An attempt's status; empty before there is one."""
        return next((attempt for attempt in self.stage(stage).get("attempts", []) if attempt["attempt"] == number), {})

    def condition(self, kind: str) -> dict[str, Any]:
        """A condition of the job; empty before there is one."""
        return next((found for found in self.status().get("conditions", []) if found["type"] == kind), {})

    def is_true(self, kind: str) -> bool:
        """Whether a condition is True."""
        return self.condition(kind).get("status") == "True"

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = STEP_SECONDS) -> Any:
        """Wait for something; when it does not come, the failure shows the job's status and events."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := condition():
                return value
            time.sleep(0.1)
        raise AssertionError(f"{self.name}: {what} did not come true within {seconds:g} s\n{self.story()}")

    def wait_for_phase(self, stage: str, phase: str, *, attempt: int = 0, seconds: float = STEP_SECONDS) -> Stage:
        """Return once a stage is in a phase, in this attempt when one is named. A job that ends first fails the test."""

        def has_come() -> Stage | None:
            status = self.stage(stage)
            return status if status.get("phase") == phase and attempt in (0, status.get("attempt")) else None

        found: Stage = self.wait(has_come, f"stage {stage} {phase}" + (f" in attempt {attempt}" if attempt else ""), seconds)
        return found

    def wait_for_end(self, seconds: float = STEP_SECONDS) -> dict[str, Any]:
        """The status of the finished job."""
        self.wait(lambda: self.is_true("Complete") or self.is_true("Failed"), "the end of the job", seconds)
        return self.status()

    def wait_for_completion(self, seconds: float = STEP_SECONDS) -> dict[str, Any]:
        """The status of the job that succeeded."""
        status = self.wait_for_end(seconds)
        assert self.is_true("Complete"), self.story()
        return status

    def events(self, reason: str) -> list[str]:
        """Messages of the job's events with this reason, oldest first."""
        found = self.plane.rest().items(f"/api/v1/namespaces/{NAMESPACE}/events", fieldSelector=f"involvedObject.name={self.name}")
        return [event.get("message", "") for event in found if event.get("reason") == reason]

    def jobs(self) -> list[str]:
        """Names of the attempts' Jobs that exist."""
        selector = f"{names.LABEL_JOB}={self.name}"
        found = self.plane.rest().items(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", labelSelector=selector)
        return sorted(job["metadata"]["name"] for job in found)

    def pods(self, stage: str = "", attempt: int = 0) -> list[dict[str, Any]]:
        """Pods of the job, of one stage, or of one attempt, by completion index."""
        labels = {names.LABEL_JOB: self.name, names.LABEL_STAGE: stage, names.LABEL_ATTEMPT: str(attempt or "")}
        selector = ",".join(f"{key}={value}" for key, value in labels.items() if value)
        found = self.plane.rest().items(f"/api/v1/namespaces/{NAMESPACE}/pods", labelSelector=selector)
        return sorted(found, key=lambda pod: pod["metadata"]["name"])

    def wait_for_running_pods(self, stage: str, attempt: int, count: int = 2, seconds: float = STEP_SECONDS) -> list[dict[str, Any]]:
        """The pods of an attempt, once all of them run."""

        def running() -> list[dict[str, Any]]:
            pods = self.pods(stage, attempt)
            return pods if [pod["status"].get("phase") for pod in pods] == ["Running"] * count else []

        found: list[dict[str, Any]] = self.wait(running, f"{count} running pods of {stage} r{attempt}", seconds)
        return found

    def evict(self, pod: Mapping[str, Any]) -> None:
        """The eviction API, which a drain uses."""
        name = pod["metadata"]["name"]
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
        self.plane.rest().create(f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction", body)

    def act(self, actions: Mapping[str, Mapping[str, Any]]) -> None:
        """What the fake trainer's pods are to do (fake_launcher.py)."""
        (self.directory / "actions.json").write_text(json.dumps(actions), encoding="utf-8")

    def release(self, file: str = "go") -> None:
        """Let pods go on that wait for this file."""
        (self.directory / file).touch()

    def attempts(self, stage: str) -> list[Path]:
        """Directories of a stage's attempts on the volume, oldest first."""
        found = (self.directory / self.uid / "stages" / stage).glob("r[0-9]*")
        return sorted(found, key=lambda path: int(path.name[1:]))

    def story(self) -> str:
        """Status, events and the ends of the pods' logs: what a failed test needs to show."""
        events = self.plane.kubectl("get", "events", "--namespace", NAMESPACE, "--sort-by=.lastTimestamp")
        logs = [self._log(pod) for pod in self.pods()]
        return "\n".join([json.dumps(self.status(), indent=1), events[-6000:], *logs])

    def _log(self, pod: Mapping[str, Any]) -> str:
        name = pod["metadata"]["name"]
        try:
            return f"--- {name} {pod['status'].get('phase')}\n" + self.plane.kubectl("logs", "--namespace", NAMESPACE, name, "--tail=30")
        except Exception as error:
            return f"--- {name}: {error}"


def eventually_gone(job: LiveJob) -> None:
    """Wait until nothing of a deleted job is left."""
    eventually(lambda: not job.jobs() and not job.pods(), STEP_SECONDS, f"the end of everything that belongs to {job.name}")


def _block(name: str, block: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's block; what belongs to the stage itself stands beside it."""
    own = {key: block[key] for key in ("topology", "strategy", "runPolicy") if key in block}
    return {**own, _TYPES[name][1]: {key: value for key, value in block.items() if key not in own}}
