"""Saving beside the training (rule C9)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_trainer.errors import StorageError
from rlhf_trainer.run import Run
from rlhf_trainer.state import checkpoint, writer
from rlhf_trainer.state.writer import Draft, Writer
from tests.support.runs import a_run


def draft(step: int, weight: Tensor, num_bytes: int = 0) -> Draft:
    return Draft(step=step, sections={"model": [("weight/a", weight)]}, state={"parts": {"n": [step]}}, rng=[], num_bytes=num_bytes)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Holds the disk until it is set."""
    event = threading.Event()
    write: Callable[..., Any] = checkpoint.write

    def slow(run: Run, step: int, *arguments: Any, **keywords: Any) -> Any:
        assert event.wait(timeout=30)
        return write(run, step, *arguments, **keywords)

    monkeypatch.setattr(writer.checkpoint, "write", slow)
    return event


@pytest.mark.rule("C9")
def test_training_during_the_write_does_not_change_the_file(tmp_path: Path, gate: threading.Event) -> None:
    run, weight = a_run(tmp_path), torch.zeros(3)
    saving = Writer(run)
    state = draft(1, weight)
    saving.write(state, is_urgent=False)
    weight += 7
    state.state["parts"]["n"].append(99)
    assert saving.finished() is None
    gate.set()
    saving.wait()
    saved = saving.finished()
    assert saved is not None
    found = checkpoint.open_verified(run, saved.ref.path, 1)
    assert torch.equal(found.reader("model")("weight/a"), torch.zeros(3))
    assert found.state() == {"parts": {"n": [1]}}
    assert saving.finished() is None  # told once


def test_an_urgent_save_waits_for_the_one_in_flight_and_is_done_on_return(tmp_path: Path, gate: threading.Event) -> None:
    run = a_run(tmp_path)
    saving = Writer(run)
    saving.write(draft(1, torch.zeros(2)), is_urgent=False)
    gate.set()
    saving.write(draft(2, torch.ones(2)), is_urgent=True)
    assert sorted(path.name for path in run.checkpoints.iterdir() if path.is_dir()) == ["1", "2"]
    saved = saving.finished()
    assert saved is not None
    assert saved.ref.step == 2


def test_without_memory_for_a_copy_it_writes_at_once(tmp_path: Path) -> None:
    saving = Writer(a_run(tmp_path))
    with pytest.raises(StorageError, match="MiB free"):  # that much is not free on the disk either: so it was tried now
        saving.write(draft(1, torch.zeros(2), num_bytes=1 << 60), is_urgent=False)


def test_failure_in_the_background_surfaces_at_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StorageError("full")

    monkeypatch.setattr(writer.checkpoint, "write", full)
    saving = Writer(a_run(tmp_path))
    saving.write(draft(1, torch.zeros(2)), is_urgent=False)
    saving.wait()
    with pytest.raises(StorageError, match="full"):
        saving.finished()
    assert saving.finished() is None
