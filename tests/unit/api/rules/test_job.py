"""Rules about a job as a whole: references between stages, combinations, the base model. Each is obeyed and broken once."""

import pytest

from rlhf_api.rules.job import RULES
from rlhf_api.validate import UNSET, find_problems
from tests.support.manifests import chat_7b
from tests.support.rule_cases.job import CASES
from tests.support.rules import PPO, RM, assert_breaks, assert_obeys


def test_every_rule_has_a_case() -> None:
    assert {rule.message for rule in RULES} == CASES.keys()


@pytest.mark.parametrize("message", CASES)
def test_a_job_may(message: str) -> None:
    assert_obeys(CASES, message)


@pytest.mark.parametrize("message", CASES)
def test_a_job_may_not(message: str) -> None:
    assert_breaks(CASES, message)


@pytest.mark.parametrize(
    ("changes", "paths"),
    [
        pytest.param({"spec.strategy": "gemini"}, ["spec.strategy"], id="a strategy that all stages inherit"),
        pytest.param({f"{PPO}.strategy": "gemini"}, [f"{PPO}.strategy"], id="a strategy of one stage"),
        pytest.param({"spec.strategy": "3d", f"{PPO}.strategy": "gemini"}, ["spec.strategy", f"{PPO}.strategy"], id="one of each"),
        pytest.param({"spec.topology.tensorParallel": 2}, ["spec.topology"], id="a topology that two stages inherit"),
        pytest.param({f"{RM}.topology.tensorParallel": 2}, [f"{RM}.topology"], id="a topology of one stage"),
    ],
)
def test_to_blame_is_what_the_user_wrote(changes: dict[str, object], paths: list[str]) -> None:
    problems = find_problems(chat_7b({"spec.model.lora": {}} | changes))
    assert [problem.path for problem in problems] == paths
    assert UNSET not in [problem.value for problem in problems]
