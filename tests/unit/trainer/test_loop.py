"""The steps that training stages share: exact resume, agreement to stop, skipped steps, checkpoint policy (F4, L4, P19, C4, C5, C10)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf_trainer.data.order import Cursor
from rlhf_trainer.errors import Diverged, InternalError, Preempted
from rlhf_trainer.loop import Loop
from rlhf_trainer.report.reporter import Reporter
from rlhf_trainer.run import Run
from rlhf_trainer.schedule import Schedule
from rlhf_trainer.state import checkpoint, writer
from rlhf_trainer.state.rng import seed_all
from rlhf_trainer.strategy.base import OptimizerConfig
from rlhf_trainer.strategy.select import build
from tests.support.runs import a_run

TOTAL = 12
OPEN: list[Reporter] = []


@pytest.fixture(autouse=True)
def _close_reporters() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


class Counter:
    """A part: where the data stands."""

    def __init__(self) -> None:
        self.next = 0

    def state(self) -> Mapping[str, Any]:
        return {"next": self.next}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.next = state["next"]


class Average:
    """A part with tensors: an averaged model."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.weight = torch.zeros_like(module.weight)  # type: ignore[arg-type]

    def update(self) -> None:
        self.weight.lerp_(self.module.weight.detach(), 0.1)  # type: ignore[operator, union-attr]

    @property
    def state_bytes(self) -> int:
        return self.weight.nbytes

    def state(self) -> Iterator[tuple[str, Tensor]]:
        yield "weight", self.weight

    def load_state(self, read: Any) -> None:
        self.weight.copy_(read("weight"))


class Stage:
    """A stage in miniature: dropout from the global generator, a counter, an average."""

    def __init__(self, run: Run) -> None:
        seed_all(0)
        self.run = run
        strategy = build(run)
        self.module = nn.Linear(3, 2, bias=False)
        self.counter, self.average = Counter(), Average(self.module)
        self.trained = strategy.prepare(self.module, OptimizerConfig(schedule=Schedule(peak=0.1, total_steps=TOTAL, kind="cosine")))
        self.reporter = Reporter(run)
        OPEN.append(self.reporter)
        self.loop = Loop(
            run, strategy, self.reporter, models={"model": self.trained}, parts={"data": self.counter},
            tensors={"average": self.average}, total_steps=TOTAL,
        )  # fmt: skip

    def step(self, poison: float = 1.0) -> None:
        self.counter.next += 1
        rows = torch.full((4, 3), float(self.counter.next))
        report = self.loop.update(
            self.trained,
            list(rows.chunk(2)),
            lambda part: nn.functional.dropout(self.trained.model(part), 0.3).square().sum() / 4 * poison,
            max_norm=1.0,
        )
        self.average.update()
        self.loop.finish_step({"grad_norm": report.grad_norm})

    def weights(self) -> list[Tensor]:
        return [self.module.weight.detach().clone(), self.average.weight.clone()]


def first(tmp_path: Path, **changes: Any) -> Stage:
    return Stage(a_run(tmp_path, checkpoint={"everySteps": 4, "everySeconds": 86400, "keep": 2}, **changes))


def second(tmp_path: Path, **changes: Any) -> Stage:
    return first(tmp_path, attempt=2, directory="stages/sft/r2", resumeFrom=["stages/sft/r1/checkpoints"], **changes)


def saved_steps(run: Run) -> list[int]:
    return sorted(int(path.name) for path in run.checkpoints.iterdir() if path.name.isdecimal())


def finish(stage: Stage) -> list[Tensor]:
    while stage.loop.step < TOTAL:
        stage.step()
    stage.loop.finish()
    return stage.weights()


@pytest.mark.parametrize("killed_after", range(4, TOTAL + 1))
@pytest.mark.rule("C1", "C5", "F4")
def test_resume_after_a_kill_at_any_step_is_exact(tmp_path: Path, killed_after: int) -> None:
    expected = finish(first(tmp_path / "whole"))
    killed = first(tmp_path)
    for _ in range(killed_after):
        killed.step()
    killed.loop._writer.wait()  # the kill comes after the write; one inside it is the next test
    resumed = second(tmp_path)
    assert resumed.loop.resume()
    assert resumed.loop.step == killed_after // 4 * 4
    assert resumed.counter.next == resumed.loop.step
    assert all(torch.equal(mine, other) for mine, other in zip(finish(resumed), expected, strict=True))


@pytest.mark.rule("C3", "C4")
def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    stage = first(tmp_path)
    for _ in range(8):
        stage.step()
    stage.loop._writer.wait()
    (stage.run.checkpoints / "8" / "manifest.json").unlink()
    resumed = second(tmp_path)
    assert resumed.loop.resume()
    assert resumed.loop.step == 4


@pytest.mark.rule("C4")
def test_a_corrupt_checkpoint_is_an_event_and_the_older_one_is_used(tmp_path: Path) -> None:
    stage = first(tmp_path)
    finish(stage)
    damaged = stage.run.checkpoints / str(TOTAL) / "state.json"
    damaged.write_text(damaged.read_text().replace("1", "2"))
    resumed = second(tmp_path)
    assert resumed.loop.resume()
    assert resumed.loop.step == 8
    events = [json.loads(line) for line in (resumed.run.directory / "events.jsonl").read_text().splitlines()]
    assert [event["reason"] for event in events] == ["CheckpointSkipped"]
    assert "state.json" in events[0]["message"]
    assert resumed.run.latest.resumed_from == resumed.loop.last_checkpoint


def test_without_any_checkpoint_it_starts_anew_and_says_so(tmp_path: Path) -> None:
    stage = second(tmp_path)
    assert not stage.loop.resume()
    assert stage.loop.step == 0
    assert "NoCheckpoint" in (stage.run.directory / "events.jsonl").read_text()


@pytest.mark.parametrize(
    ("precision", "fastest", "is_said"),
    [
        pytest.param("bf16", "fp32", True, id="emulated"),
        pytest.param("bf16", "bf16", False, id="with instructions"),
        pytest.param("fp32", "fp32", False, id="fp32"),
    ],
)
def test_a_cpu_that_emulates_bf16_is_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, fastest: str, is_said: bool
) -> None:
    monkeypatch.setattr("rlhf_trainer.loop.cpu.fastest_precision", lambda: fastest)
    stage = first(tmp_path, model={"precision": precision})
    events = stage.run.directory / "events.jsonl"
    assert ("SlowPrecision" in (events.read_text() if events.exists() else "")) == is_said


@pytest.mark.rule("F4", "C8")
def test_saves_every_so_many_steps_and_at_the_end(tmp_path: Path) -> None:
    stage = first(tmp_path)
    finish(stage)
    assert saved_steps(stage.run) == [8, 12]
    assert stage.loop.last_checkpoint is not None
    assert stage.loop.last_checkpoint.step == stage.run.latest.checkpoint.step == 12  # type: ignore[union-attr]


@pytest.mark.rule("F4")
def test_saves_by_seconds_when_those_are_over_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(a_run(tmp_path, checkpoint={"everySteps": None, "everySeconds": 10, "keep": 9}))
    clock = [stage.loop._saved_at]
    monkeypatch.setattr("rlhf_trainer.loop.time.monotonic", lambda: clock[0])
    for _ in range(6):
        clock[0] += 4
        stage.step()
    stage.loop._writer.wait()
    assert saved_steps(stage.run) == [3, 6]


@pytest.mark.rule("C7")
def test_stop_request_saves_and_ends_preempted(tmp_path: Path) -> None:
    stage = first(tmp_path)
    for _ in range(5):
        stage.step()
    stage.run.stop.set()
    with pytest.raises(Preempted, match="step 6"):
        stage.step()
    assert saved_steps(stage.run)[-1] == 6
    assert second(tmp_path).loop.resume()


def test_stop_request_in_the_last_step_lets_the_stage_finish(tmp_path: Path) -> None:
    stage = first(tmp_path)
    for _ in range(TOTAL - 1):
        stage.step()
    stage.run.stop.set()
    stage.step()
    stage.loop.finish()


@pytest.mark.rule("P19")
def test_three_non_finite_steps_in_a_row_diverge(tmp_path: Path) -> None:
    stage = first(tmp_path)
    stage.step(poison=math.nan)
    stage.step(poison=math.inf)
    stage.step()
    before = stage.weights()[0]
    stage.step(poison=math.nan)
    stage.step(poison=math.nan)
    with pytest.raises(Diverged, match="3 steps in a row"):
        stage.step(poison=math.nan)
    assert torch.equal(stage.weights()[0], before)
    assert (stage.run.directory / "events.jsonl").read_text().count("StepSkipped") == 5


@pytest.mark.rule("P19")
def test_a_sound_critic_does_not_hide_a_policy_that_diverges(tmp_path: Path) -> None:
    stage = first(tmp_path)
    critic = stage.loop.strategy.prepare(nn.Linear(3, 2, bias=False), OptimizerConfig(schedule=Schedule(peak=0.1, total_steps=TOTAL)))
    stage.loop.models = {"policy": stage.trained, "critic": critic}
    rows = [torch.ones(1, 3)]

    def update_both() -> None:
        stage.loop.update(stage.trained, rows, lambda part: stage.trained.model(part).sum() * math.nan, max_norm=1.0)
        stage.loop.update(critic, rows, lambda part: critic.model(part).sum(), max_norm=1.0)

    update_both()
    update_both()
    with pytest.raises(Diverged, match="policy: 3 steps in a row"):
        update_both()


@pytest.mark.rule("C10")
def test_rows_that_were_passed_over_are_never_a_success(tmp_path: Path) -> None:
    stage = first(tmp_path)
    cursor = Cursor(seed=0, num_rows=10, global_batch=4, num_epochs=None)
    stage.loop.parts["cursor"] = cursor
    for _ in range(TOTAL):
        cursor.next()
        stage.step()
    cursor.next()
    with pytest.raises(InternalError, match="44 of 40 planned rows"):
        stage.loop.finish()


@pytest.mark.rule("C10")
def test_missing_steps_are_never_a_success(tmp_path: Path) -> None:
    stage = first(tmp_path)
    stage.step()
    with pytest.raises(InternalError, match="1 of 12"):
        stage.loop.finish()


def test_a_worker_without_rows_takes_part_with_a_filler(tmp_path: Path) -> None:
    stage = first(tmp_path)
    stage.loop.strategy.world = Two()  # type: ignore[misc]
    report = stage.loop.update(stage.trained, [], lambda part: stage.trained.model(part).sum(), max_norm=1.0, filler=torch.ones(1, 3))
    assert report.grad_norm == 0
    with pytest.raises(ValueError, match="no filler"):
        stage.loop.update(stage.trained, [], lambda part: stage.trained.model(part).sum(), max_norm=1.0)


def test_spare_rounds_weigh_nothing(tmp_path: Path) -> None:
    stage, other = first(tmp_path / "a"), first(tmp_path / "b")
    rows = torch.ones(1, 3)
    expected = other.loop.update(other.trained, [rows], lambda part: other.trained.model(part).sum(), max_norm=1.0)
    stage.loop.strategy.world = Two()  # type: ignore[misc]
    report = stage.loop.update(stage.trained, [rows], lambda part: stage.trained.model(part).sum(), max_norm=1.0)
    assert report.grad_norm == expected.grad_norm


class Two:
    """A gang in which another worker has two micro-batches."""

    rank, size, is_first, device = 0, 1, True, torch.device("cpu")

    def agree(self, flag: int) -> int:
        return max(flag, 2)


@pytest.mark.rule("C6")
def test_another_world_size_reseeds_and_says_so(tmp_path: Path) -> None:
    stage = first(tmp_path)
    for _ in range(4):
        stage.step()
    stage.loop._writer.wait()
    path = stage.run.checkpoints / "4"
    state = json.loads((path / "state.json").read_text()) | {"worldSize": 2}
    found = checkpoint.open_verified(stage.run, "stages/sft/r1/checkpoints/4", 4)
    stage.loop._restore_generators(found, state["worldSize"])
    assert "WorldSizeChanged" in (stage.run.directory / "events.jsonl").read_text()


@pytest.mark.rule("C1", "T8")
def test_state_names_what_it_ran_on(tmp_path: Path) -> None:
    stage = first(tmp_path)
    finish(stage)
    environment = json.loads((stage.run.directory / "env.json").read_text())
    assert environment["strategy"] == "plain"
    assert environment["optimizers"] == {"model": "torch AdamW, fp32 masters"}
    state = json.loads((stage.run.checkpoints / "12" / "state.json").read_text())
    assert state["environment"] == environment
    assert state["models"] == {"model": {"numUpdates": 12, "numApplied": 12}}


class Asked(Two):
    """A gang in which another worker was asked to stop: its flag is 2 (and it has two micro-batches, as this one)."""

    def gather(self, value: Any) -> list[Any]:
        return [value, value]

    def barrier(self) -> None:
        """The other one has come."""


@pytest.mark.rule("L4")
def test_a_peer_that_was_asked_to_stop_stops_this_worker_too(tmp_path: Path) -> None:
    stage = first(tmp_path)
    stage.step()
    stage.loop.strategy.world = Asked()  # type: ignore[misc]
    with pytest.raises(Preempted, match="step 2"):
        stage.step()
    assert saved_steps(stage.run) == [2]


@pytest.mark.rule("C7")
def test_a_save_that_outlasts_the_grace_period_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write in the background counts: that is what the disk needs, and a stop request waits for the disk."""
    stage = first(tmp_path, deadlines={"startupSeconds": 60, "progressSeconds": 120, "shutdownSeconds": 5})
    clock, disk_seconds, write = [0.0], [4.0], checkpoint.write

    def slow(*arguments: Any, **keywords: Any) -> Any:
        clock[0] += disk_seconds[0]
        return write(*arguments, **keywords)

    monkeypatch.setattr(writer.checkpoint, "write", slow)
    monkeypatch.setattr("rlhf_trainer.loop.time.monotonic", lambda: clock[0])
    for seconds in (4.0, 6.0):
        assert "SlowCheckpoint" not in _events(stage)
        disk_seconds[0] = seconds
        for _ in range(5):
            stage.step()
            stage.loop._writer.wait()
    assert "saving took 6 s, a stop on request leaves 5 s" in _events(stage)


@pytest.mark.rule("C9")
def test_room_for_a_copy_counts_the_average_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(writer.Writer, "write", lambda self, draft, *, is_urgent: sizes.append(draft.num_bytes))
    stage = first(tmp_path)
    stage.step()
    stage.loop.save()
    assert sizes == [3 * 6 * 4 + 6 * 4]  # master and two moments, and the average, of a 2 x 3 matrix


def _events(stage: Stage) -> str:
    path = stage.run.directory / "events.jsonl"
    return path.read_text() if path.is_file() else ""
