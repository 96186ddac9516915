"""A cluster without processes: the real reconciler, API in memory and Job runner, pods played by the test, and a clock that the test moves.

After every round the rig checks the promise of `decide`: a carried-out plan leaves nothing to do.
"""

import copy
import json
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from rlhf_api import names
from rlhf_api.status import AttemptStatus, JobStatus, StageStatus
from rlhf_operator.core.decide import decide
from rlhf_operator.core.model import Observed, Plan, Reading, Settings
from rlhf_operator.local.jobs import JobRunner
from rlhf_operator.local.memory import MemoryApi
from rlhf_operator.local.recorder import LocalRecorder
from rlhf_operator.local.store import Store
from rlhf_operator.shell.kube import NotFound, Object
from rlhf_operator.shell.observe import observe
from rlhf_operator.shell.reconciler import Reconciler

T = TypeVar("T")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DIGEST = "sha256:" + "0" * 64

HELLO: dict[str, Any] = {
    "model": {"source": {"uri": "builtin://models/tiny-llama"}},
    "topology": {"gpusPerNode": 0},
    "storage": {"size": "1Gi"},
    "stages": [
        {
            "name": "sft",
            "type": "SFT",
            "sft": {"dataset": {"uri": "builtin://datasets/tiny-chat-sft"}, "maxSteps": 10, "globalBatchSize": 8},
        },
        {
            "name": "rm",
            "type": "RewardModel",
            "rewardModel": {"dataset": {"uri": "builtin://datasets/tiny-chat-preference"}, "maxSteps": 10, "globalBatchSize": 8},
        },
        {
            "name": "ppo",
            "type": "PPO",
            "ppo": {
                "prompts": {"uri": "builtin://datasets/tiny-chat-prompts"},
                "steps": 3,
                "rolloutBatchSize": 8,
                "minibatchSize": 4,
                "criticWarmupSteps": 1,
            },
        },
    ],
}
PROFILE: dict[str, Any] = {
    "image": "local",
    "allowUnpinnedImage": True,
    "limits": {"maxNodes": 8, "maxGpus": 64},
    "resources": {"perProcess": {"memory": "16Gi"}},
    "retry": {"backoffSeconds": 10},
}


def one_stage(**changes: Any) -> dict[str, Any]:
    """A spec whose only written stage is `sft`."""
    return {**copy.deepcopy(HELLO), "stages": copy.deepcopy(HELLO["stages"][:1]), **changes}


class Rig:
    """One RLHFJob and everything around it."""

    def __init__(
        self, spec: Mapping[str, Any] = HELLO, profile: Mapping[str, Any] | None = PROFILE, *, settings: Settings | None = None
    ) -> None:
        self.now = NOON
        self.store = Store(lambda: self.now)
        self.api = MemoryApi(self.store)
        self.runner = JobRunner(self.store, lambda: self.now)
        self.settings = settings or Settings(progress_write_seconds=0, uid_write_seconds=0)
        self.reconciler = self.new_reconciler()
        self.ends_deleted_pods = True
        """Play a kubelet that ends deleted pods at once."""
        self.checks = True
        """Check the promise of `decide`; not while the API is about to fail."""
        self.requeue: float | None = None
        self.key = ("team-a", "chat")
        self.store.create("Namespace", "", {"metadata": {"name": "team-a", "labels": {"team": "a"}}})
        self.store.create("Node", "", {"metadata": {"name": "node-1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
        if profile is not None:
            self.store.create(names.KIND_PROFILE, "", {"metadata": {"name": "default"}, "spec": dict(profile)})
        self.uid = self.store.create(names.KIND_JOB, "team-a", {"metadata": {"name": "chat"}, "spec": copy.deepcopy(dict(spec))})[
            "metadata"
        ]["uid"]

    def new_reconciler(self) -> Reconciler:
        """An operator that has just started and knows nothing."""
        return Reconciler(self.api, clock=lambda: self.now, recorder=LocalRecorder(self.store), settings=self.settings)

    # ---- the world moves
    def settle(self, *, checks: bool = True) -> None:
        """Reconcile, and let the Job controller and the kubelet act, until nothing changes."""
        for _ in range(30):
            version = self.store.version
            self.runner.sync()
            self._end_deleted_pods()
            self.requeue = self.run_once()
            self.runner.sync()
            if version == self.store.version and self.requeue != 0:
                break
        else:
            raise AssertionError(f"the job does not come to rest: {self.plan()}")
        if checks and self.checks:
            assert self.plan().is_empty, self.plan()

    def run_once(self) -> float | None:
        """One reconcile."""
        return at_once(self.reconciler.reconcile(self.key))

    def observed(self) -> Observed:
        """What the operator sees now."""
        soft = self.reconciler._soft.get(self.key)
        assert soft is not None
        return at_once(observe(self.api, *self.key, copy.copy(soft), self.settings, self.now))

    def plan(self) -> Plan:
        """What the operator would do now."""
        try:
            self.body()
        except NotFound:
            return Plan()
        return decide(self.observed(), self.now)

    def wait(self, seconds: float) -> None:
        """Time passes, and the operator looks."""
        self.now += timedelta(seconds=seconds)
        self.settle()

    def change(self, **spec: Any) -> None:
        """The user edits the spec."""
        body = self.body()
        body["spec"].update(copy.deepcopy(spec))
        self.store.update(names.KIND_JOB, "team-a", body)
        self.settle()

    # ---- pods are played
    def run(self, stage: str) -> None:
        """All pods of the current attempt become ready."""
        for pod in self.pods(stage):
            self.report(pod, phase="Running", ready=True)
        self.settle()

    def finish(
        self, stage: str, exit_code: int = 0, *, index: int | None = None, report: Mapping[str, Any] | str | None = None, **state: Any
    ) -> None:
        """The pods of the current attempt (or one of them) end. Successful ones leave a valid report unless told otherwise."""
        for pod in self.pods(stage):
            if index is None or pod["metadata"]["labels"][names.LABEL_COMPLETION_INDEX] == str(index):
                self.end(pod, exit_code, report=report, **state)
        self.settle()

    def end(self, pod: Object, exit_code: int, *, report: Mapping[str, Any] | str | None = None, **state: Any) -> None:
        """One pod ends. `state` goes into the container's terminated state."""
        stage = pod["metadata"]["labels"][names.LABEL_STAGE]
        if report is None and exit_code == 0:
            report = {"version": 1, "outcome": "Succeeded", "exitCode": 0, "outputDigest": digest_of(stage), "metrics": {"loss": 1.5}}
        message = report if isinstance(report, str) else json.dumps(report) if report is not None else ""
        self.report(pod, phase="Failed" if exit_code else "Succeeded", terminated={"exitCode": exit_code, "message": message, **state})

    def report(
        self, pod: Object, *, phase: str, ready: bool = False, terminated: Mapping[str, Any] | None = None, waiting: Mapping[str, Any] | None = None,
        placed: bool = True, unschedulable: str = "", disrupted: str = "",
    ) -> None:  # fmt: skip
        """Write the status of a pod, as a kubelet and a scheduler do."""
        now = self.store.now()
        state: dict[str, Any] = {"running": {"startedAt": now}} if phase == "Running" else {}
        if terminated is not None:
            state = {"terminated": {"reason": "Error", "finishedAt": now, **terminated}}
        if waiting is not None:
            state = {"waiting": dict(waiting)}
        conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": now}]
        if placed:
            conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": now})
        if unschedulable:
            conditions.append({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": unschedulable})
        if disrupted:
            conditions.append({"type": "DisruptionTarget", "status": "True", "reason": disrupted})
        container = {"name": names.CONTAINER, "ready": ready, "state": state}
        status = {"phase": phase, "podIP": "10.0.0.1", "conditions": conditions, "containerStatuses": [container]}
        live = self.store.get("Pod", "team-a", pod["metadata"]["name"])
        if placed and "nodeName" not in live["spec"]:
            live["spec"]["nodeName"] = "node-1"
            self.store.update("Pod", "team-a", live)
        self.store.update_status("Pod", "team-a", pod["metadata"]["name"], status)

    def delete_pod(self, pod: Object) -> None:
        """kubectl delete pod."""
        self.store.delete("Pod", "team-a", pod["metadata"]["name"])

    def progress(self, stage: str, step: int, *, idle_seconds: float = 0.0, **document: Any) -> None:
        """Pod 0 answers."""
        from rlhf_api.outcome import ProgressDocument

        wire = {"jobUid": self.uid, "stage": stage, "attempt": self.stage(stage).attempt, "state": "training", "step": step, **document}
        self.reconciler.report_progress(self.key, stage, Reading(ProgressDocument.from_wire(wire), self.now, idle_seconds))
        self.settle()

    def succeed(self, *stages: str) -> None:
        """Run these stages to their end, one after the other."""
        self.settle()
        for stage in stages:
            self.run(stage)
            self.finish(stage)

    # ---- what is there
    def body(self) -> Object:
        """The RLHFJob."""
        return self.store.get(names.KIND_JOB, "team-a", "chat")

    @property
    def status(self) -> JobStatus:
        """The job's status."""
        return JobStatus.from_wire(self.body().get("status", {}))

    def stage(self, name: str) -> StageStatus:
        """A stage's status."""
        return next(stage for stage in self.status.stages if stage.name == name)

    def attempt(self, stage: str) -> AttemptStatus:
        """The newest attempt of a stage."""
        return self.stage(stage).attempts[-1]

    def phases(self) -> str:
        """All phases in one line: `prepare Succeeded, sft Running`."""
        return ", ".join(f"{stage.name} {stage.phase}" for stage in self.status.stages)

    def condition(self, kind: str) -> tuple[str, str, str]:
        """Status, reason and message."""
        found = next(condition for condition in self.status.conditions if condition.type == kind)
        return found.status, found.reason, found.message

    def jobs(self) -> list[str]:
        """Names of the Jobs that exist."""
        return [job["metadata"]["name"] for job in self.store.find("Job", "team-a")]

    def job(self, stage: str) -> Object:
        """The Job of the current attempt."""
        return self.store.get("Job", "team-a", f"chat-{stage}-r{self.stage(stage).attempt}")

    def run_json(self, stage: str) -> dict[str, Any]:
        """run.json of the current attempt."""
        wire: dict[str, Any] = json.loads(self.job(stage)["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_RUN])
        return wire

    def pods(self, stage: str) -> list[Object]:
        """Pods of the current attempt, in the order of their index."""
        selector = f"{names.LABEL_STAGE}={stage},{names.LABEL_ATTEMPT}={self.stage(stage).attempt}"
        return sorted(
            self.store.find("Pod", "team-a", selector), key=lambda pod: int(pod["metadata"]["labels"][names.LABEL_COMPLETION_INDEX])
        )

    def events(self) -> list[str]:
        """Reasons of all events, oldest first."""
        found = sorted(self.store.find("Event", "team-a"), key=lambda event: event["sequence"])
        return [event["reason"] for event in found]

    def event(self, reason: str) -> str:
        """Message of the newest event with this reason."""
        found = [event for event in self.store.find("Event", "team-a") if event["reason"] == reason]
        return str(max(found, key=lambda event: event["sequence"])["message"])

    def _end_deleted_pods(self) -> None:
        for pod in self.store.find("Pod", "team-a"):
            if "deletionTimestamp" in pod["metadata"] and self.ends_deleted_pods:
                if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                    self.end(pod, 143)
                self.store.delete("Pod", "team-a", pod["metadata"]["name"], grace=0)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits: the API in memory answers at once, so no event loop is needed."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waited")


def digest_of(stage: str) -> str:
    """The digest that a stage reports as its output in these tests."""
    return "sha256:" + stage.encode().hex().ljust(64, "0")
