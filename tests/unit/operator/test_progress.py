"""An answer of pod 0 is untrusted: only a progress document of the attempt that was asked counts."""

import json
from typing import Any

import pytest

from rlhf_operator.core import progress

GOOD: dict[str, Any] = {"version": 1, "jobUid": "u", "stage": "ppo", "attempt": 2, "state": "training", "step": 5, "metrics": {"loss": 1.0}}


def parse(document: Any) -> Any:
    answer = document if isinstance(document, bytes) else json.dumps(document).encode()
    return progress.parse(answer, "u", "ppo", 2)


def test_a_document_of_this_attempt_is_read() -> None:
    document = parse(GOOD)
    assert (document.step, document.metrics) == (5, {"loss": 1.0})


def test_unknown_keys_are_dropped() -> None:
    assert parse({**GOOD, "phase": "Succeeded"}) is not None


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({**GOOD, "jobUid": "other"}, id="another job"),
        pytest.param({**GOOD, "stage": "sft"}, id="another stage"),
        pytest.param({**GOOD, "attempt": 1}, id="an older attempt"),
        pytest.param({**GOOD, "state": "winning"}, id="an unknown state"),
        pytest.param({**GOOD, "step": -1}, id="a number out of range"),
        pytest.param({**GOOD, "percent": 101}, id="more than all"),
        pytest.param(json.dumps({**GOOD, "metrics": {"loss": float("nan")}}).encode(), id="not finite"),
        pytest.param(b"<html>", id="no JSON"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"[" * 10_000, id="too deep"),
        pytest.param({**GOOD, "padding": "x" * 20_000}, id="too long"),
        pytest.param([], id="a list"),
    ],
)
def test_anything_else_is_no_answer(answer: Any) -> None:
    assert parse(answer) is None
