"""A line of the log is one JSON object with the fields that people search by."""

import json
import logging
import sys

import pytest

from rlhf_operator.shell.logs import MAX_TEXT, JsonFormatter
from tests.support.rig import Rig, one_stage


def line(message: str, *args: object, exc_info: bool = False, **fields: object) -> dict[str, object]:
    record = logging.LogRecord("rlhf", logging.INFO, __file__, 1, message, args, sys.exc_info() if exc_info else None)
    record.__dict__.update(fields)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    return dict(json.loads(text))


def test_a_line_has_time_level_and_words() -> None:
    found = line("%s of %s", 3, 4)
    assert (found["level"], found["msg"], found["logger"]) == ("info", "3 of 4", "rlhf")
    assert str(found["ts"]).endswith("Z")


def test_known_fields_become_keys_and_others_do_not() -> None:
    found = line("x", job="team-a/chat", attempt=2, exit_code=0, secret="no")
    assert (found["job"], found["attempt"], found["exit_code"]) == ("team-a/chat", 2, 0)
    assert "secret" not in found


def test_long_texts_are_cut() -> None:
    assert len(str(line("x", culprit="p" * 1000)["culprit"])) == MAX_TEXT


def test_a_traceback_stays_on_the_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        assert "ValueError" in str(line("failed", exc_info=True)["traceback"])


def test_a_decision_is_told_with_its_evidence(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare")
    rig.run("sft")
    with caplog.at_level(logging.INFO, "rlhf_operator.shell.decision_log"):
        rig.end(rig.pods("sft")[0], 64)
        rig.settle()
    ended = [record for record in caplog.records if getattr(record, "exit_code", None) == 64]
    assert ended
    assert (ended[0].stage, ended[0].attempt, ended[0].outcome) == ("sft", 1, "ConfigInvalid")
    assert any(record.getMessage().startswith("StageFailed") for record in caplog.records)
