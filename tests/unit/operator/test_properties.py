"""What holds whatever happens: any sequence of pod ends, evictions, lost nodes, suspensions, reruns, restarts and errors of the API.

The rig checks after every step that a carried-out plan leaves nothing to do.
"""

import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_api import names
from rlhf_api.status import JobPhase, StagePhase
from rlhf_operator.core.model import open_attempt
from rlhf_operator.core.stages import OVER
from rlhf_operator.shell.kube import Conflict, NotFound, Unavailable
from tests.support.rig import Rig, one_stage

SPEC = one_stage(runPolicy={"maxAttempts": 3, "maxDisruptions": 2, "maxParallelStages": 2}, topology={"nodes": 2, "gpusPerNode": 0})
SPEC["stages"] = [SPEC["stages"][0], {**SPEC["stages"][0], "name": "other"}]

STAGES = ("prepare", "sft", "other")
PICK = st.integers(0, 1)
"""Which of the stages that hold an attempt: a step that touches nothing shows nothing."""
STEPS = st.one_of(
    st.tuples(st.just("run"), PICK),
    st.tuples(st.just("finish"), PICK, st.sampled_from([0, 0, 0, 1, 1, 64, 73, 137])),
    st.tuples(st.just("fail one"), PICK, st.sampled_from([1, 70, 73]), st.integers(0, 1)),
    st.tuples(st.just("delete pod"), PICK),
    st.tuples(st.just("delete job"), PICK),
    st.tuples(st.just("suspend"), st.booleans()),
    st.tuples(st.just("pods are slow to end"), st.booleans()),
    st.tuples(st.just("rerun"), st.sampled_from(["sft", "other"])),
    st.tuples(st.just("wait"), st.just(400)),
    st.tuples(st.just("forget")),
    st.tuples(st.just("error"), st.sampled_from(["get", "list", "create", "apply_status", "delete"]), st.booleans()),
)


def pick(rig: Rig, number: int) -> str:
    """A stage that holds an attempt; Prepare when none does."""
    holding = [stage.name for stage in rig.status.stages if open_attempt(stage) is not None]
    return holding[number % len(holding)] if holding else "prepare"


def play(rig: Rig, step: tuple[Any, ...], tokens: list[str]) -> None:
    """One thing happens."""
    match step:
        case ("run", number):
            rig.run(pick(rig, number))
        case ("finish", number, code):
            rig.finish(pick(rig, number), code)
        case ("fail one", number, code, index):
            rig.finish(pick(rig, number), code, index=index)
        case ("delete pod", number):
            for pod in rig.pods(pick(rig, number))[:1]:
                rig.delete_pod(pod)
        case ("delete job", number):
            with contextlib.suppress(NotFound):
                rig.store.delete("Job", "team-a", rig.job(pick(rig, number))["metadata"]["name"])
        case ("suspend", value):
            rig.change(suspend=value)
        case ("pods are slow to end", value):
            rig.ends_deleted_pods = not value
        case ("rerun", stage):
            tokens.append(str(len(tokens)))
            rig.change(rerun={"fromStage": stage, "token": tokens[-1]})
        case ("wait", seconds):
            rig.wait(seconds)
        case ("forget",):
            rig.reconciler = rig.new_reconciler()
        case ("error", verb, applied):  # meets what the next step asks for: by itself a job at rest writes nothing
            error = Conflict("stale") if verb == "apply_status" and not applied else Unavailable("lost")
            rig.api.faults.fail(verb, "*", error, applied=applied)
            rig.checks = False
            return
    calm(rig)


def calm(rig: Rig) -> None:
    """The API is well again, and the operator comes to rest."""
    rig.api.faults.clear()
    rig.checks = True
    rig.settle()


def check(rig: Rig, seen: dict[str, int]) -> None:
    """What no step may break."""
    found = rig.store.find("Job", "team-a")
    jobs = [job["metadata"] for job in found]
    working = {
        job["metadata"]["name"] for job in found if not job["status"].get("conditions") and "deletionTimestamp" not in job["metadata"]
    }
    wanted = {attempt.job_name for stage in rig.status.stages if (attempt := open_attempt(stage)) is not None}
    assert working <= wanted, "a Job works for an attempt that has ended"
    for stage in rig.status.stages:
        assert stage.attempt >= seen.get(stage.name, 0), "an attempt number went back"
        seen[stage.name] = stage.attempt
        assert [attempt.attempt for attempt in stage.attempts] == sorted({attempt.attempt for attempt in stage.attempts})
        assert all(attempt.outcome is not None for attempt in stage.attempts[:-1]), "two attempts are open"
        assert stage.counted_failures <= 3
        assert (stage.phase is StagePhase.SUCCEEDED) == (stage.output is not None)
        assert stage.phase not in OVER or open_attempt(stage) is None
        numbers = [int(job["labels"][names.LABEL_ATTEMPT]) for job in jobs if job["labels"][names.LABEL_STAGE] == stage.name]
        assert all(number <= stage.attempt for number in numbers), "a Job is ahead of the status"
    for stage in STAGES:
        pods = rig.store.find("Pod", "team-a", f"{names.LABEL_STAGE}={stage}")
        running = {pod["metadata"]["labels"][names.LABEL_ATTEMPT] for pod in pods if pod["status"]["phase"] not in ("Succeeded", "Failed")}
        assert len(running) <= 1, "two gangs of a stage run at the same time"
    conditions = {condition.type: condition.status for condition in rig.status.conditions}
    assert not (conditions["Complete"] == conditions["Failed"] == "True")
    assert (rig.status.phase is JobPhase.SUCCEEDED) == (conditions["Complete"] == "True")
    assert conditions["Failed"] == "False" or all(stage.phase in OVER for stage in rig.status.stages)


@settings(max_examples=12)
@given(st.lists(STEPS, min_size=8, max_size=20))
def test_no_sequence_of_events_breaks_a_job(steps: list[tuple[Any, ...]]) -> None:
    rig, seen, tokens = Rig(SPEC), {}, []
    rig.settle()
    check(rig, seen)
    for step in steps:
        play(rig, step, tokens)
        check(rig, seen)


@settings(max_examples=4)
@given(st.lists(STEPS, min_size=3, max_size=8))
def test_whatever_happened_a_job_that_is_left_alone_comes_to_its_end(steps: list[tuple[Any, ...]]) -> None:
    rig, tokens = Rig(SPEC), []
    rig.settle()
    for step in steps:
        play(rig, step, tokens)
    calm(rig)
    rig.ends_deleted_pods = True
    rig.change(suspend=False)
    for _ in range(8):
        for stage in STAGES:
            rig.finish(stage)
        rig.wait(400)
    assert rig.status.phase in (JobPhase.SUCCEEDED, JobPhase.FAILED)
    assert rig.plan().is_empty
