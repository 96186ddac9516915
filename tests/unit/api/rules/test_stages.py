"""Rules about one stage and its block. Each is obeyed and broken once."""

import pytest

from rlhf_api.rules.stages import RULES
from rlhf_api.validate import find_problems
from tests.support.manifests import chat_7b
from tests.support.rule_cases.stages import CASES
from tests.support.rules import NF4, assert_breaks, assert_obeys


def test_every_rule_has_a_case() -> None:
    assert {rule.message for rule in RULES} == CASES.keys()


@pytest.mark.parametrize("message", CASES)
def test_a_job_may(message: str) -> None:
    assert_obeys(CASES, message)


@pytest.mark.parametrize("message", CASES)
def test_a_job_may_not(message: str) -> None:
    assert_breaks(CASES, message)


@pytest.mark.parametrize(
    ("topology", "fields"),
    [
        pytest.param({"gpusPerNode": 0, "processesPerNode": 1}, [], id="one process, written out"),
        pytest.param({"gpusPerNode": 8}, ["gpusPerNode"], id="several GPUs"),
        pytest.param({"gpusPerNode": 0, "processesPerNode": 2}, ["processesPerNode"], id="several processes"),
        pytest.param({"nodes": 2, "gpusPerNode": 2}, ["nodes", "gpusPerNode"], id="several nodes of several GPUs"),
    ],
)
def test_a_quantize_stage_has_one_process(topology: dict[str, object], fields: list[str]) -> None:
    problems = find_problems(chat_7b({f"{NF4}.topology": topology}))
    assert [problem.path for problem in problems] == [f"{NF4}.topology.{field}" for field in fields]
