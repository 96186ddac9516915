"""Rules about sources, datasets, model inputs, topologies and storage. Each is obeyed and broken once."""

import pytest

from rlhf_api.rules.inputs import RULES
from rlhf_api.validate import find_problems
from tests.support.manifests import chat_7b
from tests.support.rule_cases.inputs import CASES
from tests.support.rules import PUBLISH, assert_breaks, assert_obeys


def test_every_rule_has_a_case() -> None:
    assert {rule.message for rule in RULES} == CASES.keys()


@pytest.mark.parametrize("message", CASES)
def test_a_job_may(message: str) -> None:
    assert_obeys(CASES, message)


@pytest.mark.parametrize("message", CASES)
def test_a_job_may_not(message: str) -> None:
    assert_breaks(CASES, message)


@pytest.mark.parametrize("uri", ["pvc://models", "pvc://models/", "pvc://models/chat/"])
def test_a_destination_is_a_folder_of_a_claim(uri: str) -> None:
    problems = find_problems(chat_7b({f"{PUBLISH}.publish.destination": {"uri": uri}}))
    assert [problem.path for problem in problems] == [f"{PUBLISH}.publish.destination.uri"]
