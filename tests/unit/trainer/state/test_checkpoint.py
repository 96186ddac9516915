"""Checkpoints: complete or absent, newest verifying first, the right number kept (rules C2 to C4, C8, C11)."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_trainer.errors import InputError, StorageError
from rlhf_trainer.run import Run
from rlhf_trainer.state import checkpoint, manifest
from tests.support.runs import a_run


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"weight/{name}": torch.randn(shape, generator=generator) for name, shape in (("a", (3, 4)), ("b", (5,)), ("c", ()))}


def save(run: Run, step: int) -> checkpoint.CheckpointRef:
    return checkpoint.write(run, step, {"model": tensors(step).items()}, {"step": step}, [{"torch": "x"}])


def resumed(workspace: Path, *directories: str) -> Run:
    return a_run(workspace, attempt=9, directory="stages/sft/r9", resumeFrom=[f"stages/sft/{name}/checkpoints" for name in directories])


class Skipped(list[tuple[Path, str]]):
    def __call__(self, directory: Path, why: str) -> None:
        self.append((directory, why))


@pytest.mark.rule("C2")
def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    ref = save(a_run(tmp_path), 5)
    found = checkpoint.find_newest(resumed(tmp_path, "r1"), Skipped())
    assert found is not None
    assert (found.ref.step, found.ref.path, found.ref.digest) == (5, "stages/sft/r1/checkpoints/5", ref.digest)
    assert found.state() == {"step": 5}
    assert found.rng() == [{"torch": "x"}]
    read = found.reader("model")
    for name, tensor in tensors(5).items():
        assert torch.equal(read(name), tensor)


@pytest.mark.rule("C2", "T5")
def test_tensors_are_streamed_into_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 50)
    run = a_run(tmp_path)
    save(run, 1)
    assert [path.name for path in sorted((run.checkpoints / "1" / "model").iterdir())] == ["00001.safetensors", "00002.safetensors"]
    found = checkpoint.find_newest(resumed(tmp_path, "r1"), Skipped())
    assert found is not None
    assert torch.equal(found.reader("model")("weight/b"), tensors(1)["weight/b"])


@pytest.mark.rule("C4")
def test_newest_step_of_all_earlier_attempts_wins(tmp_path: Path) -> None:
    for attempt, step in (("r1", 30), ("r2", 40), ("r2", 10)):
        save(a_run(tmp_path, directory=f"stages/sft/{attempt}"), step)
    found = checkpoint.find_newest(resumed(tmp_path, "r1", "r2"), Skipped())
    assert found is not None
    assert found.ref.path == "stages/sft/r2/checkpoints/40"


@pytest.mark.rule("C4")
def test_corrupt_checkpoint_is_skipped_with_its_reason(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    save(run, 1)
    save(run, 2)
    damaged = run.checkpoints / "2" / "model" / "00001.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    skipped = Skipped()
    found = checkpoint.find_newest(resumed(tmp_path, "r1"), skipped)
    assert found is not None
    assert found.ref.step == 1
    assert len(skipped) == 1
    assert "00001.safetensors" in skipped[0][1]


@pytest.mark.parametrize("what", ["nothing", "no manifest", "only corrupt"])
@pytest.mark.rule("C4")
def test_without_a_verifying_checkpoint_there_is_none(tmp_path: Path, what: str) -> None:
    run = a_run(tmp_path)
    if what != "nothing":
        save(run, 3)
        name = "manifest.json" if what == "no manifest" else "state.json"
        (run.checkpoints / "3" / name).unlink()
    assert checkpoint.find_newest(resumed(tmp_path, "r1"), Skipped()) is None


def test_attempts_that_run_json_does_not_name_are_not_read(tmp_path: Path) -> None:
    save(a_run(tmp_path, directory="stages/sft/r1"), 5)
    assert checkpoint.find_newest(resumed(tmp_path, "r2"), Skipped()) is None


@pytest.mark.rule("C8")
def test_only_the_newest_complete_ones_are_kept(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for step in (1, 2, 3):
        save(run, step)
    (run.checkpoints / "4").mkdir()  # a crash left it
    checkpoint.retain(run, keep=2)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["2", "3", "LATEST"]


@pytest.mark.rule("C2")
def test_latest_is_a_hint_to_the_newest(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    ref = save(run, 8)
    assert json.loads((run.checkpoints / "LATEST").read_text())["digest"] == ref.digest


@pytest.mark.rule("C11")
def test_full_disk_removes_the_incomplete_one_and_keeps_the_older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path)
    save(run, 1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manifest, "write_manifest", full)
    with pytest.raises(StorageError, match="No space left"):
        save(run, 2)
    assert not (run.checkpoints / "2").exists()
    manifest.verify(run.checkpoints / "1")


@pytest.mark.rule("C11")
def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    with pytest.raises(StorageError, match="MiB free") as caught:
        checkpoint.write(run, 1, {"model": ()}, {}, [], expected_bytes=1 << 60)
    assert "spec.storage.size" in (caught.value.hint or "")
    assert not (run.checkpoints / "1").exists()


def test_failing_tensors_leave_nothing_behind(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[str, Tensor]]:
        yield "weight/a", torch.zeros(2)
        raise RuntimeError("a peer is gone")

    run = a_run(tmp_path)
    with pytest.raises(RuntimeError, match="peer"):
        checkpoint.write(run, 1, {"model": broken()}, {}, [])
    assert not (run.checkpoints / "1").exists()


def test_tensors_of_another_model_are_an_input_error(tmp_path: Path) -> None:
    save(a_run(tmp_path), 1)
    found = checkpoint.find_newest(resumed(tmp_path, "r1"), Skipped())
    assert found is not None
    with pytest.raises(InputError, match="another model"):
        found.reader("model")("weight/unknown")
