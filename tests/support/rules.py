"""How a rule of a job is tested: a change of the documented job that obeys it, one that breaks it, and the path to blame."""

from rlhf_api.validate import find_problems
from tests.support.manifests import chat_7b

SFT, RM, PPO, NF4, PUBLISH = (f"spec.stages[{i}]" for i in range(5))
MODEL = "spec.model.source"
ROWS = f"{SFT}.sft.dataset"

Changes = dict[str, object]
Cases = dict[str, tuple[Changes, Changes, str]]
"""Message of a rule -> (a change that obeys it, a change that breaks it, the path to blame)."""


def assert_obeys(cases: Cases, message: str) -> None:
    """The first change of a case leaves a job without any problem."""
    assert find_problems(chat_7b(cases[message][0])) == []


def assert_breaks(cases: Cases, message: str) -> None:
    """The second change of a case is reported in the words of the rule, perhaps with numbers after them, at the path to blame."""
    _, broken, path = cases[message]
    assert path in {problem.path for problem in find_problems(chat_7b(broken)) if problem.rule.startswith(message)}
