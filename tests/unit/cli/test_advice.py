"""Whatever can hold a job up or end it has words that say what to do."""

import re
from pathlib import Path

import pytest

from rlhf_api import names
from rlhf_api.outcome import Outcome
from rlhf_cli.advice import ADVICE, advice_for

GOOD = {"Valid", "Bound", "Admitted", "NoQueue", "AllReady", "NotStalled", "NotSuspended", "Published", "NotRequested", "StagesSucceeded"}
"""Reasons of conditions that are as they should be."""


def bad_reasons() -> set[str]:
    return {value for name, value in vars(names).items() if name.startswith("REASON_") and value not in GOOD}


@pytest.mark.parametrize("reason", sorted(bad_reasons() | {outcome.value for outcome in Outcome if outcome is not Outcome.SUCCEEDED}))
def test_every_bad_reason_has_advice(reason: str) -> None:
    assert advice_for(reason, "rlhf resume chat").endswith(".")


def test_there_is_no_advice_for_what_does_not_exist() -> None:
    assert set(ADVICE) <= bad_reasons() | {outcome.value for outcome in Outcome}
    assert advice_for("FromTheFuture", "rlhf resume chat") == ""


def test_the_command_is_the_one_of_this_user() -> None:
    assert advice_for("User", "kubectl rlhf resume chat") == "Let it go on: kubectl rlhf resume chat, or set spec.suspend to false."
    assert not any("RESUME" in advice_for(reason, "x") for reason in ADVICE)


def test_documents_that_advice_names_exist() -> None:
    repository = Path(__file__).parents[3]
    named = {found for text in ADVICE.values() for found in re.findall(r"docs/[a-z-]+\.md", text)}
    assert named
    assert all((repository / file).is_file() for file in named)
