"""`maxRunningJobsPerNamespace` through the whole shell: events, queue, slots, rounds. At no time do more jobs run than the profile allows."""

from typing import Any

import pytest

from rlhf_api import names
from rlhf_operator.shell.handlers import Handlers
from rlhf_operator.shell.known import Known
from rlhf_operator.shell.kube import Unavailable
from rlhf_operator.shell.metrics import Metrics
from rlhf_operator.shell.slots import Slots
from rlhf_operator.shell.workers import Workers
from rlhf_operator.shell.workqueue import WorkQueue
from tests.support.rig import PROFILE, Rig, at_once, one_stage

SPEC = one_stage(profile="default")  # as the API server completes it
CHAT, OTHER = ("team-a", "chat"), ("team-a", "other")


class Shell:
    """Two jobs and room for one. Watch events are delivered, and keys are worked on, until nothing is left to do."""

    def __init__(self) -> None:
        self.rig = Rig(SPEC, {**PROFILE, "limits": {"maxRunningJobsPerNamespace": 1}})
        self.seen = 0
        self.clock = 0.0
        self.slots = Slots(clock=lambda: 100.0, _is_settled=True)
        queue, known = WorkQueue(clock=lambda: self.clock), Known()
        self.handlers = Handlers(queue, known, self.slots)
        self.workers = Workers(queue, self.rig.reconciler, self.rig.api, known, self.slots, Metrics())
        self.settle()
        self.rig.now = self.rig.now.replace(second=1)  # the other is the younger one
        self.rig.store.create(names.KIND_JOB, "team-a", {"metadata": {"name": "other"}, "spec": SPEC})
        self.settle()

    def settle(self, seconds: float = 5.0) -> None:
        """Events, rounds and timers of the next seconds."""
        for _ in range(300):
            self.rig.runner.sync()
            self.rig._end_deleted_pods()
            self.deliver()
            assert len(self.running()) <= 1, self.running()
            key = self.workers.queue.take()
            if key is None and seconds <= 0:
                return
            if key is None:
                seconds, self.clock = seconds - 5, self.clock + 5
                continue
            at_once(self.workers._round(key))
            self.workers.queue.done(key)
        raise AssertionError("the shell does not come to rest")

    def deliver(self) -> None:
        """The watch events since the last time."""
        handlers = {
            names.KIND_JOB: self.handlers.on_rlhfjob,
            "Job": self.handlers.on_job,
            names.KIND_PROFILE: self.handlers.on_profile,
        }
        for event in self.rig.store.events_since(self.seen):
            if event.object["kind"] in handlers:
                handlers[event.object["kind"]]({"type": event.type, "object": event.object})
        self.seen = self.rig.store.version

    def running(self) -> set[str]:
        """Jobs that have pods."""
        pods = self.rig.store.find("Pod", "team-a")
        return {pod["metadata"]["labels"][names.LABEL_JOB] for pod in pods if pod["status"]["phase"] not in ("Succeeded", "Failed")}

    def change(self, key: tuple[str, str], **spec: Any) -> None:
        """The user edits a job."""
        body = self.rig.store.get(names.KIND_JOB, *key)
        body["spec"].update(spec)
        self.rig.store.update(names.KIND_JOB, "team-a", body)
        self.settle()

    def end(self, key: tuple[str, str], code: int = 0) -> None:
        """What runs of a job ends."""
        for pod in self.rig.store.find("Pod", "team-a", f"{names.LABEL_JOB}={key[1]}"):
            if pod["status"]["phase"] not in ("Succeeded", "Failed"):
                self.rig.end(pod, code)
        self.settle()

    def reason(self, key: tuple[str, str]) -> str:
        """Why the job waits."""
        return str(self.rig.store.get(names.KIND_JOB, *key)["status"]["reason"])

    def phase(self, key: tuple[str, str]) -> str:
        """Phase of the job."""
        return str(self.rig.store.get(names.KIND_JOB, *key)["status"]["phase"])


def test_a_new_job_waits_until_the_one_before_has_ended() -> None:
    shell = Shell()
    assert (shell.running(), shell.reason(OTHER)) == ({"chat"}, "ConcurrencyLimit")
    shell.end(CHAT)
    assert shell.running() == {"chat"}, "between two stages the job keeps its slot"
    shell.end(CHAT)
    assert shell.phase(CHAT) == "Succeeded"
    assert shell.running() == {"other"}


def test_a_suspended_job_gives_its_slot_back_and_waits_for_another_when_it_is_resumed() -> None:
    shell = Shell()
    shell.change(CHAT, suspend=True)
    assert shell.running() == {"other"}
    shell.change(CHAT, suspend=False)
    assert (shell.running(), shell.reason(CHAT)) == ({"other"}, "ConcurrencyLimit")
    shell.settle(700)
    assert shell.running() == {"other"}, "however often it is looked at"
    shell.change(OTHER, suspend=True)
    assert shell.running() == {"chat"}
    assert shell.reason(CHAT) == ""


@pytest.mark.parametrize(("verb", "kind"), [("create", "Job"), ("apply_status", names.KIND_JOB)])
def test_a_start_whose_answer_was_lost_keeps_its_slot(verb: str, kind: str) -> None:
    shell = Shell()
    shell.change(CHAT, suspend=True)
    shell.change(CHAT, suspend=False)
    shell.rig.store.create(names.KIND_JOB, "team-a", {"metadata": {"name": "third"}, "spec": SPEC})
    shell.settle()
    body = shell.rig.store.get(names.KIND_JOB, *OTHER)
    shell.rig.store.update(names.KIND_JOB, "team-a", {**body, "spec": {**body["spec"], "suspend": True}})
    for _ in range(4):
        shell.deliver()
        at_once(shell.workers._round(OTHER))
        shell.rig.runner.sync()
        shell.rig._end_deleted_pods()
    assert shell.phase(OTHER) == "Suspended"
    shell.rig.api.faults.fail(verb, kind, Unavailable("connection lost"), applied=True)
    at_once(shell.workers._round(CHAT))
    at_once(shell.workers._round(("team-a", "third")))
    shell.rig.api.faults.clear()
    shell.settle()
    assert shell.running() == {"chat"}


def test_a_rerun_waits_for_a_slot_like_a_new_job() -> None:
    shell = Shell()
    shell.end(CHAT)
    shell.end(CHAT)
    shell.change(CHAT, rerun={"fromStage": "sft", "token": "2"})
    assert (shell.running(), shell.reason(CHAT)) == ({"other"}, "ConcurrencyLimit")
    shell.settle(700)
    shell.end(OTHER)
    shell.end(OTHER)
    assert shell.phase(OTHER) == "Succeeded"
    assert shell.running() == {"chat"}


def test_a_job_between_two_attempts_keeps_its_slot() -> None:
    shell = Shell()
    shell.end(CHAT)
    shell.end(CHAT, 1)
    shell.end(CHAT, 1)
    assert shell.running() == set(), "the third attempt waits for its time"
    shell.settle(100)
    assert shell.reason(OTHER) == "ConcurrencyLimit"


def test_a_job_that_is_named_and_needs_no_slot_passes_it_on() -> None:
    shell = Shell()
    shell.rig.store.create(names.KIND_JOB, "team-a", {"metadata": {"name": "third"}, "spec": SPEC})
    shell.settle()
    shell.change(OTHER, suspend=True)
    shell.end(CHAT)
    shell.end(CHAT)
    assert shell.running() == {"third"}
