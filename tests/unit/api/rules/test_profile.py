"""Rules about a profile. Each is obeyed and broken once."""

import pytest

from rlhf_api.rules.profile import RULES
from rlhf_api.validate import find_profile_problems
from tests.support.manifests import h100_profile
from tests.support.rule_cases.profile import CASES


def test_every_rule_has_a_case() -> None:
    assert {rule.message for rule in RULES} == CASES.keys()


@pytest.mark.parametrize("message", CASES)
def test_a_profile_may(message: str) -> None:
    assert find_profile_problems(h100_profile(CASES[message][0])) == []


@pytest.mark.parametrize("message", CASES)
def test_a_profile_may_not(message: str) -> None:
    _, broken, path = CASES[message]
    assert [(problem.path, problem.rule) for problem in find_profile_problems(h100_profile(broken))] == [(path, message)]
