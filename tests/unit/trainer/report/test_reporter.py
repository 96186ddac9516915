"""What a stage tells: progress document, metrics, events, health; and that only rank 0 writes."""

from __future__ import annotations

import json
import math
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rlhf_api.outcome import CheckpointRef, ProgressDocument
from rlhf_trainer.report.heartbeat import Heartbeat, Pulses, create_slots
from rlhf_trainer.report.metrics import JsonLines
from rlhf_trainer.report.progress import Progress
from rlhf_trainer.report.reporter import MAX_NAMED_ROWS, Reporter
from rlhf_trainer.report.server import ProgressServer
from rlhf_trainer.run import Latest
from tests.support.runs import a_run

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
REF = CheckpointRef(path="stages/sft/r1/checkpoints/4", step=4, digest="sha256:" + "0" * 64, time=NOON)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def a_progress(tmp_path: Path) -> Progress:
    return Progress(a_run(tmp_path).config, Latest())


def test_eta_follows_the_pace_of_recent_steps(tmp_path: Path) -> None:
    progress = a_progress(tmp_path)
    progress.total_steps = 10
    assert progress.eta_seconds is None
    for step, clock in ((1, 100.0), (2, 103.0), (3, 106.0)):
        progress.finish_step(step, {}, NOON, clock)
    assert (progress.eta_seconds, progress.percent) == (21.0, 30.0)


def test_document_is_finite_json_of_the_contract(tmp_path: Path) -> None:
    progress = a_progress(tmp_path)
    progress.finish_step(3, {"loss": 0.5, "grad_norm": math.nan}, NOON, 1.0)
    progress.enter("saving", NOON)
    wire = json.loads(json.dumps(progress.document().to_wire(), allow_nan=False))
    document = ProgressDocument.from_wire(wire)
    assert (document.step, document.state, document.metrics) == (3, "saving", {"loss": 0.5})
    assert document.eta_seconds is None
    assert document.percent == 0


def test_steps_evaluations_and_events_become_lines(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    with Reporter(run) as reporter:
        reporter.step(1, {"loss": math.inf})
        reporter.update({"eval_loss": 0.25})
        reporter.samples(1, [{"prompt": "3加4?", "response": "7"}])
        reporter.event("CheckpointSkipped", "a byte changed", checkpoint="x")
    metrics = lines(run.directory / "metrics.jsonl")
    assert [(line["step"], line.get("loss", "-"), line.get("eval_loss", "-")) for line in metrics] == [(1, None, "-"), (1, "-", 0.25)]
    assert lines(run.directory / "samples.jsonl") == [{"step": 1, "prompt": "3加4?", "response": "7"}]
    assert lines(run.directory / "events.jsonl")[-1]["reason"] == "CheckpointSkipped"
    assert run.latest.step == 1
    assert run.latest.metrics["eval_loss"] == 0.25


def test_other_ranks_write_nothing_but_count(tmp_path: Path) -> None:
    run = a_run(tmp_path, rank=1, world_size=2)
    with Reporter(run) as reporter:
        reporter.step(1, {"loss": 1.0})
        reporter.event("X", "y")
    assert list(run.directory.iterdir()) == []
    assert run.latest.step == 1


def test_bad_health_is_one_event_and_a_number(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    with Reporter(run) as reporter:
        for step in range(1, 14):
            reporter.step(step, {"grad_norm": 1.0 if step < 12 else 99.0}, [f"row-{step}-{i}" for i in range(2000)])
    events = [line for line in lines(run.directory / "events.jsonl") if line["reason"] == "HealthBad"]
    assert len(events) == 1
    assert "learningRate" in events[0]["message"]
    assert events[0]["rows"] == [f"row-12-{i}" for i in range(MAX_NAMED_ROWS)]
    assert lines(run.directory / "metrics.jsonl")[-1]["health"] == 2


def test_a_model_that_was_not_trained_here_is_not_judged(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    with Reporter(run) as reporter:
        reporter.update({"eos_fraction": 0.0}, is_judged=False)
        reporter.step(1, {"loss": 1.0})
    assert not (run.directory / "events.jsonl").exists()
    found = lines(run.directory / "metrics.jsonl")
    assert (found[0]["eos_fraction"], found[1]["health"]) == (0.0, 0)


def test_health_survives_a_checkpoint(tmp_path: Path) -> None:
    with Reporter(a_run(tmp_path)) as one, Reporter(a_run(tmp_path)) as other:
        for step in range(1, 12):
            one.step(step, {"grad_norm": 1.0, "loss": math.nan})
        other.health.restore(json.loads(json.dumps(one.health.state(), allow_nan=False)))
        assert [verdict.metric for verdict in other.health.look({"grad_norm": 20.0})] == ["grad_norm"]


def test_an_old_measurement_survives_a_checkpoint(tmp_path: Path) -> None:
    """Of a stage whose evaluations lie further apart than a window is long: resumed, it is still as ill as when it was measured."""
    with Reporter(a_run(tmp_path)) as one, Reporter(a_run(tmp_path)) as other:
        one.update({"eos_fraction": 0.3})
        for step in range(1, 301):
            one.step(step, {"loss": 1.0})
        other.health.restore(json.loads(json.dumps(one.health.state(), allow_nan=False)))
        assert other.health.look({"loss": 1.0}) == []  # known: no second event
        assert other.health.level == 2


def test_health_is_restored_from_a_checkpoint_that_forgot_old_measurements(tmp_path: Path) -> None:
    """Saved before those were kept: the newest 220 entries and nothing older."""
    saved = {"first": {"loss": [1.0] * 10, "eos_fraction": [0.3]}, "recent": [{"loss": 1.0}] * 220, "known": {}}
    with Reporter(a_run(tmp_path)) as reporter:
        reporter.health.restore(saved)
        reporter.update({"eos_fraction": 0.3})
        assert reporter.health.level == 2


def test_resume_takes_over_the_lines_up_to_the_step(tmp_path: Path) -> None:
    first = a_run(tmp_path)
    with Reporter(first) as reporter:
        for step in range(1, 8):
            reporter.step(step, {"loss": float(step)})
    with (first.directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # killed in the middle of a line
    second = a_run(tmp_path, attempt=2, directory="stages/sft/r2")
    with Reporter(second) as reporter:
        reporter.resume(REF, first.directory)
        reporter.step(5, {"loss": 50.0})
    assert [(line["step"], line["loss"]) for line in lines(second.directory / "metrics.jsonl")] == [
        (1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 50.0),
    ]  # fmt: skip
    assert second.latest.checkpoint == second.latest.resumed_from == REF


def test_lines_of_a_resumed_attempt_itself_are_cut(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        file.append({"step": step})
    file.take_over(tmp_path / "metrics.jsonl", 2)
    file.append({"step": 3, "again": True})
    file.close()
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert lines(tmp_path / "metrics.jsonl")[-1]["again"] is True


@pytest.fixture
def served(tmp_path: Path) -> Any:
    progress = a_progress(tmp_path)
    progress.finish_step(3, {"loss": 0.5}, NOON, 1.0)
    server = ProgressServer("127.0.0.1", 0, progress.document)
    yield f"http://127.0.0.1:{server.port}"
    server.close()


def test_progress_is_served_as_json(served: str) -> None:
    with urllib.request.urlopen(f"{served}/progress", timeout=10) as answer:
        assert ProgressDocument.from_wire(json.load(answer)).step == 3


def test_metrics_are_served_for_prometheus(served: str) -> None:
    with urllib.request.urlopen(f"{served}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'rlhf_loss{stage="sft",attempt="1"} 0.5\n' in text
    assert "# TYPE rlhf_step gauge" in text


def test_anything_else_is_not_found(served: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{served}/secrets", timeout=10)
    with caught.value as error:
        assert error.code == 404


def test_a_taken_port_does_not_stop_the_stage(tmp_path: Path, served: str) -> None:
    run = a_run(tmp_path)
    object.__setattr__(run, "progress_port", int(served.rpartition(":")[2]))
    with Reporter(run) as reporter:
        reporter.step(1, {})


def test_pulses_are_read_across_mappings(tmp_path: Path) -> None:
    create_slots(tmp_path / "pulses", 2)
    pulses = Pulses(tmp_path / "pulses", 2)
    assert [pulse.time_seconds for pulse in pulses.read()] == [0, 0]
    Heartbeat.of_worker(tmp_path / "pulses", 1).beat("evaluating", 7)
    pulse = pulses.read()[1]
    assert (pulse.state, pulse.step) == ("evaluating", 7)
    assert pulse.pid > 0
    assert pulse.time_seconds > 0
