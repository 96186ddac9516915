"""What is drawn on a terminal, and what is written into a log."""

import io
import os
from collections.abc import Iterator

import pytest
from rich.console import Console

from rlhf_cli.live import LastingStream, LiveTable, PlainLines, console_on, display, render
from tests.support.statuses import a_job, a_stage

WAITING = {"type": "Stalled", "status": "True", "reason": "NoProgress", "message": "no step for 30 minutes"}


def plain(clock: Iterator[float]) -> tuple[PlainLines, io.StringIO]:
    text = io.StringIO()
    return PlainLines(Console(file=text, width=200), lambda: next(clock)), text


def drawn(*stages: dict[str, object], **status: object) -> str:
    text = io.StringIO()
    Console(file=text, width=140, force_terminal=False).print(render(a_job(*stages, **status)))
    return text.getvalue()


def test_a_terminal_gets_the_table_and_a_pipe_gets_lines() -> None:
    assert isinstance(display(Console(file=io.StringIO(), force_terminal=True), lambda: 0.0), LiveTable)
    assert isinstance(display(Console(file=io.StringIO(), force_terminal=False), lambda: 0.0), PlainLines)


def test_the_table_has_a_row_for_every_stage() -> None:
    progress = {"percent": 50, "step": 5, "totalSteps": 10, "etaSeconds": 61}
    text = drawn(a_stage("sft", phase="Succeeded"), a_stage("rm", "RewardModel", attempt=2, progress=progress, metrics={"loss": 0.5}))
    assert [line.split()[0] for line in text.splitlines()] == ["STAGE", "prepare", "sft", "rm"]
    row = text.splitlines()[3]
    for part in ("Running (r2)", "5/10", "1m01s", "loss 0.500", "━"):
        assert part in row


def test_the_table_says_why_nothing_moves() -> None:
    assert "NoProgress: no step for 30 minutes" in drawn(a_stage(), conditions=[WAITING])


def test_a_message_is_not_read_as_markup() -> None:
    refused = {"type": "Accepted", "status": "False", "reason": "Invalid", "message": "spec.stages[0]: [bold] is no rule"}
    assert "spec.stages[0]: [bold] is no rule" in drawn(a_stage(), conditions=[refused])


def test_the_live_table_stops_when_the_block_ends() -> None:
    text = io.StringIO()
    with LiveTable(Console(file=text, force_terminal=True, width=120)) as table:
        table.update(a_job(a_stage("sft", phase="Succeeded")))
        table.note("stopping after a checkpoint")
    assert "stopping after a checkpoint" in text.getvalue()
    assert "Succeeded" in text.getvalue()


def test_lines_for_changes_of_phase_only_once() -> None:
    lines, text = plain(iter(range(100)))
    starting, succeeded = a_stage(phase="Starting"), a_stage(phase="Succeeded", metrics={"loss": 1.5})
    for stage in (starting, starting, succeeded, succeeded):
        lines.update(a_job(stage))
    assert [line.split() for line in text.getvalue().splitlines()] == [
        ["sft", "Starting"],
        ["sft", "Succeeded", "loss", "1.500"],
    ]


def test_steps_are_told_now_and_then() -> None:
    lines, text = plain(iter(range(0, 1000)))
    for step in range(60):
        lines.update(a_job(a_stage(progress={"percent": step, "step": step, "totalSteps": 60})))
    told = [line for line in text.getvalue().splitlines() if "step" in line]
    assert 2 <= len(told) <= 15


def test_a_new_attempt_is_news() -> None:
    lines, text = plain(iter(range(100)))
    lines.update(a_job(a_stage(attempt=1)))
    lines.update(a_job(a_stage(attempt=2)))
    assert text.getvalue().splitlines()[1].split() == ["sft", "Running", "r2"]


def test_a_failure_says_its_reason() -> None:
    lines, text = plain(iter(range(100)))
    lines.update(a_job(a_stage(phase="Failed", reason="DataInvalid", message="sft.jsonl:37: no field 'output'")))
    assert "DataInvalid: sft.jsonl:37: no field 'output'" in text.getvalue()


def test_a_reason_to_wait_is_said_once() -> None:
    lines, text = plain(iter(range(100)))
    for _ in range(3):
        lines.update(a_job(a_stage(phase="Pending"), conditions=[WAITING]))
    assert text.getvalue().count("no step for 30 minutes") == 1


def test_lines_are_not_wrapped() -> None:
    lines, text = plain(iter(range(100)))
    lines.note("x" * 500)
    assert text.getvalue().splitlines() == ["x" * 500]


@pytest.fixture
def broken_pipe() -> Iterator[io.TextIOWrapper]:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        yield stream


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_display_without_a_reader_is_silent(is_terminal: bool, broken_pipe: io.TextIOWrapper) -> None:
    console = console_on(LastingStream(broken_pipe))
    with LiveTable(console) if is_terminal else PlainLines(console, lambda: 0.0) as shown:
        shown.update(a_job(a_stage("sft", phase="Succeeded")))
        shown.note("stopping after a checkpoint")
    broken_pipe.write("what Python flushes as it exits")
    broken_pipe.flush()


def test_a_file_name_that_is_not_utf_8_is_shown_with_a_question_mark() -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="utf-8")
    console_on(LastingStream(stream)).print("files  caf\udce9")
    assert written.getvalue() == b"files  caf?\n"


def test_a_stream_that_was_closed_at_the_start_takes_everything() -> None:
    console_on(LastingStream(None)).print("stopping after a checkpoint")
