"""A rank fails in a gang of two real containers: what counts, what is tried again, what is not (operator.md sections 4 and 11)."""

from collections.abc import Callable

from tests.support.jobs import SFT
from tests.support.node.live import LiveJob

NewJob = Callable[[str], LiveJob]


def test_a_rank_that_exits_1_uses_up_an_attempt_and_the_gang_starts_again(new_job: NewJob) -> None:
    job = new_job("exit-1")
    job.act({"sft/r1/1": {"exit": 1}, "sft/r1/0": {"until": "never"}})
    job.apply({"sft": SFT})
    job.wait_for_completion()
    first = job.attempt("sft", 1)
    assert (first["outcome"], first["budget"], first["exitCode"], first["index"]) == ("AppError", "Attempt", 1, 1)
    assert (job.stage("sft")["countedFailures"], job.stage("sft").get("disruptions", 0), job.stage("sft")["attempt"]) == (1, 0, 2)
    (event,) = job.events("AttemptFailed")
    assert all(word in event for word in ("exit 1", "exit-1-sft-r1-1", "rlhf-node")), event


def test_exit_code_64_fails_the_stage_after_one_attempt(new_job: NewJob) -> None:
    job = new_job("exit-64")
    job.act({"sft/r1/1": {"exit": 64}, "sft/r1/0": {"until": "never"}})
    job.apply({"sft": SFT})
    job.wait_for_end()
    stage = job.stage("sft")
    assert (stage["phase"], stage["reason"], stage["attempt"]) == ("Failed", "ConfigInvalid", 1)
    assert job.condition("Failed")["reason"] == "ConfigInvalid"


def test_the_kernel_kills_a_rank_that_takes_too_much_memory(new_job: NewJob) -> None:
    job = new_job("oom")
    job.act({"sft/r1/1": {"eat": True}, "sft/r1/0": {"until": "never"}})
    job.apply({"sft": SFT})
    job.wait_for_completion()
    first = job.attempt("sft", 1)
    assert (first["outcome"], first["budget"], first["index"]) == ("HostOutOfMemory", "Attempt", 1)
    assert job.stage("sft")["countedFailures"] == 1


def test_a_stage_that_fails_every_time_spends_its_attempts(new_job: NewJob) -> None:
    job = new_job("exit-3-times")
    job.act({"sft": {"exit": 3}})
    job.apply({"sft": SFT}, runPolicy={"maxAttempts": 2}, topology={"gpusPerNode": 0})
    job.wait_for_end()
    stage = job.stage("sft")
    assert (stage["phase"], stage["reason"], stage["countedFailures"]) == ("Failed", "MaxAttemptsExceeded", 2)
