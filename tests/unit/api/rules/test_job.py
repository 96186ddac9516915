"""Rules about a job as a whole: references between stages, combinations, the base model. Each is obeyed and broken once."""

import pytest

from rlhf_api.rules.job import RULES
from tests.support.rule_cases.job import CASES
from tests.support.rules import assert_breaks, assert_obeys


def test_every_rule_has_a_case() -> None:
    assert {rule.message for rule in RULES} == CASES.keys()


@pytest.mark.parametrize("message", CASES)
def test_a_job_may(message: str) -> None:
    assert_obeys(CASES, message)


@pytest.mark.parametrize("message", CASES)
def test_a_job_may_not(message: str) -> None:
    assert_breaks(CASES, message)
