"""Watching a job on a cluster to its end."""

import io
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from rich.console import Console

from rlhf_cli.cluster import waiting
from rlhf_cli.cluster.connection import ApiRefused, Unreachable
from rlhf_cli.cluster.waiting import patiently, wait_for_end
from rlhf_cli.errors import CommandError
from tests.support.statuses import a_job, a_stage

COMPLETE = a_job(
    a_stage(phase="Succeeded"), phase="Succeeded", conditions=[{"type": "Complete", "status": "True", "reason": "StagesSucceeded"}]
)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.0)


def answers(*given: Mapping[str, Any] | Exception) -> Callable[[], Mapping[str, Any]]:
    left = iter(given)

    def read() -> Mapping[str, Any]:
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    return read


def test_it_ends_with_the_job_and_its_code() -> None:
    text = io.StringIO()
    job, code = wait_for_end(Console(file=text, width=120), answers(a_job(a_stage()), COMPLETE))
    assert (job, code) == (COMPLETE, 0)
    assert [line.split()[:2] for line in text.getvalue().splitlines()] == [["sft", "Running"], ["sft", "Succeeded"]]


def test_a_refused_job_is_not_waited_for() -> None:
    refused = a_job(
        a_stage(phase="Pending"), conditions=[{"type": "Accepted", "status": "False", "reason": "LimitExceeded", "message": "too big"}]
    )
    text = io.StringIO()
    assert wait_for_end(Console(file=text, width=120), answers(refused))[1] == 64
    assert "LimitExceeded: too big" in text.getvalue()


def test_silence_is_said_once_and_waited_for() -> None:
    said: list[str] = []
    silence = Unreachable(1, "nobody answers")
    read = answers(silence, silence, a_job(a_stage()), silence, COMPLETE)
    found = list(itertools.islice(patiently(read, said.append), 2))
    assert found[1] is COMPLETE
    assert said == ["nobody answers; still waiting"] * 2


def absence() -> CommandError:
    error = CommandError(64, "JOB: 'hello' is no RLHFJob")
    error.__cause__ = ApiRefused(404, {"reason": "NotFound"})
    return error


def of_uid(uid: str) -> Mapping[str, Any]:
    job = a_job(a_stage())
    return {**job, "metadata": {**job["metadata"], "uid": uid}}


@pytest.mark.parametrize("then", [absence(), of_uid("u-2")], ids=["gone", "another job of that name"])
def test_a_job_that_is_deleted_meanwhile_is_no_mistake_of_the_user(then: Mapping[str, Any] | Exception) -> None:
    looks = patiently(answers(of_uid("u-1"), then), pytest.fail)
    next(looks)
    with pytest.raises(CommandError, match="JOB: 'hello' was deleted meanwhile") as caught:
        next(looks)
    assert caught.value.exit_code == 1


def test_a_job_that_was_never_there_is_one() -> None:
    with pytest.raises(CommandError, match="is no RLHFJob") as caught:
        next(patiently(answers(absence()), pytest.fail))
    assert caught.value.exit_code == 64
