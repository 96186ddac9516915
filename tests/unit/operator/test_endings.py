"""Exit codes of jobs, from their status."""

from typing import Any

import pytest

from rlhf_operator.core.endings import code_of
from tests.support.statuses import a_job, a_stage


def condition(kind: str, status: str, reason: str = "Valid") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason}


ACCEPTED = condition("Accepted", "True")
FAILED = [ACCEPTED, condition("Failed", "True", "MaxAttemptsExceeded")]


def failed_with(*attempts: dict[str, Any]) -> dict[str, Any]:
    return a_job(a_stage("sft", phase="Succeeded"), a_stage("ppo", "PPO", phase="Failed", attempts=list(attempts)), conditions=FAILED)


@pytest.mark.parametrize(
    ("job", "code"),
    [
        pytest.param(a_job(a_stage(), conditions=[ACCEPTED]), None, id="it runs"),
        pytest.param({"metadata": {}, "spec": {}}, None, id="nobody has looked at it"),
        pytest.param(a_job(conditions=[ACCEPTED, condition("Complete", "True")]), 0, id="complete"),
        pytest.param(a_job(conditions=[condition("Accepted", "False", "LimitExceeded")]), 64, id="not accepted"),
        pytest.param(a_job(conditions=[condition("Accepted", "False", "Unsupported")]), 69, id="unsupported"),
        pytest.param(failed_with({"outcome": "AppError", "exitCode": 3}), 3, id="the code of the pod where there is no contract"),
        pytest.param(failed_with({"outcome": "DataInvalid"}, {"outcome": "Diverged", "exitCode": 76}), 76, id="the last attempt counts"),
        pytest.param(failed_with({"outcome": "HostOutOfMemory", "exitCode": 137}), 72, id="the contract's code wins over the kernel's"),
        pytest.param(failed_with({"outcome": "Disrupted"}), 1, id="no process reports it"),
        pytest.param(failed_with({"outcome": "FromTheFuture", "exitCode": 5}), 5, id="an outcome that this version does not know"),
        pytest.param(failed_with(), 1, id="a deadline before the first attempt"),
        pytest.param(a_job(conditions=FAILED), 1, id="a job that failed without a stage"),
    ],
)
def test_code_of(job: dict[str, Any], code: int | None) -> None:
    assert code_of(job) == code
