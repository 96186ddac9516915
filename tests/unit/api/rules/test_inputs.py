"""Rules about sources, datasets, model inputs, topologies and storage. Each is obeyed and broken once."""

import pytest

from rlhf_api.rules.inputs import RULES
from rlhf_api.validate import find_problems
from tests.support.manifests import chat_7b
from tests.support.rule_cases.inputs import CASES, PATTERNS
from tests.support.rules import PUBLISH, ROWS, assert_breaks, assert_obeys


def test_every_rule_has_a_case() -> None:
    assert {rule.message for rule in RULES} == CASES.keys() - PATTERNS.keys()


@pytest.mark.parametrize("message", CASES)
def test_a_job_may(message: str) -> None:
    assert_obeys(CASES, message)


@pytest.mark.parametrize("message", [message for message in CASES if message not in PATTERNS])
def test_a_job_may_not(message: str) -> None:
    assert_breaks(CASES, message)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_job_may_not_break_a_pattern(pattern: str) -> None:
    _, broken, path = PATTERNS[pattern]
    (problem,) = find_problems(chat_7b(broken))
    assert problem.path == path
    assert f"matching {pattern}: " in problem.rule, "and after it, what to write instead"


@pytest.mark.parametrize("split", ["/claims/data/team-b/chat", "../x", "..", ".", ".hidden", "a/b", "a\\b", "a b", "a\n", "-x", ""])
def test_a_split_is_a_name_and_no_path(split: str) -> None:
    """Prepare makes a path of it: one that leads elsewhere would read what the profile does not allow, past `sha256`."""
    problems = find_problems(chat_7b({ROWS: {"uri": "pvc://data/team-a/chat", "split": split}}))
    assert [problem.path for problem in problems] == [f"{ROWS}.split"]


@pytest.mark.parametrize("split", ["train", "test", "train-00000-of-00002", "v1.2", "a..b", "Train_SFT", "2024"])
def test_a_split_may_have_any_usual_name(split: str) -> None:
    assert find_problems(chat_7b({ROWS: {"uri": "pvc://data/team-a/chat", "split": split}})) == []


@pytest.mark.parametrize("uri", ["pvc://models", "pvc://models/", "pvc://models/chat/"])
def test_a_destination_is_a_folder_of_a_claim(uri: str) -> None:
    problems = find_problems(chat_7b({f"{PUBLISH}.publish.destination": {"uri": uri}}))
    assert [problem.path for problem in problems] == [f"{PUBLISH}.publish.destination.uri"]
