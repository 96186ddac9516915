"""Rules about a profile. Each is obeyed and broken once."""

import pytest

from rlhf_api.rules.profile import RULES
from rlhf_api.validate import find_profile_problems
from tests.support.manifests import h100_profile
from tests.support.rule_cases.profile import CASES, PATTERNS


def test_every_rule_has_a_case() -> None:
    assert {rule.message for rule in RULES} == CASES.keys() - PATTERNS.keys()


@pytest.mark.parametrize("message", CASES)
def test_a_profile_may(message: str) -> None:
    assert find_profile_problems(h100_profile(CASES[message][0])) == []


@pytest.mark.parametrize("message", [message for message in CASES if message not in PATTERNS])
def test_a_profile_may_not(message: str) -> None:
    _, broken, path = CASES[message]
    assert [(problem.path, problem.rule) for problem in find_profile_problems(h100_profile(broken))] == [(path, message)]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_profile_may_not_break_a_pattern(pattern: str) -> None:
    _, broken, path = PATTERNS[pattern]
    (problem,) = find_profile_problems(h100_profile(broken))
    assert problem.path == path
    assert f"matching {pattern}: " in problem.rule


@pytest.mark.parametrize("count", ["100Gi", "0", "-1", "1.5", "1k", "", " 1", "1\n", "\u0661", 1])
def test_an_extended_resource_is_counted_in_whole_numbers(count: object) -> None:
    """The GPUs of a pod multiply it: what is no whole number would stop every decision about every job of the profile."""
    problems = find_profile_problems(h100_profile({"spec.resources": {"perGpu": {"extended": {"rdma/hca": count}}}}))
    assert [problem.path for problem in problems] == ["spec.resources.perGpu.extended.rdma/hca"]
