"""Checkpoints: everything a stage needs to go on exactly where it stood (rules C1 to C11).

    checkpoints/<step>/<section>/00001.safetensors …   tensors of one model, or of another part with tensors
    checkpoints/<step>/state.json  rng.json            cursors, counters, controllers · generators of each worker
    checkpoints/<step>/manifest.json                   written last: without it the directory is not a checkpoint
    checkpoints/LATEST                                 a hint for people and tools

Tensors are streamed: at most one shard is in memory at a time. Only safetensors and JSON are read; nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from rlhf_api.outcome import CheckpointRef
from rlhf_trainer.errors import InputError, StorageError
from rlhf_trainer.run import Run
from rlhf_trainer.state import manifest

SHARD_BYTES = 256 << 20
_STORAGE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.ESTALE}

Tensors = Iterable[tuple[str, Tensor]]
OnSkipped = Callable[[Path, str], None]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint whose files were verified."""

    directory: Path
    ref: CheckpointRef

    @property
    def attempt_directory(self) -> Path:
        """The attempt that saved it."""
        return self.directory.parent.parent

    def state(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.directory / "state.json").read_bytes())
        return content

    def rng(self) -> list[dict[str, Any]]:
        """States of the generators, by rank."""
        content: list[dict[str, Any]] = json.loads((self.directory / "rng.json").read_bytes())
        return content

    def reader(self, section: str) -> Callable[[str], Tensor]:
        """Read one tensor of a section by name; each is read from disk when asked for.

        Raises (the reader):
            InputError: there is no such tensor: the checkpoint is of another model.
        """
        files = {name: path for path in sorted((self.directory / section).glob("*.safetensors")) for name in _names(path)}

        def read(name: str) -> Tensor:
            if name not in files:
                raise InputError(f"{self.directory / section}: no tensor {name!r}: the checkpoint is of another model")
            with safe_open(files[name], framework="pt") as tensors:
                tensor: Tensor = tensors.get_tensor(name)
                return tensor

        return read


def write(
    run: Run, step: int, sections: Mapping[str, Tensors], state: Mapping[str, Any], rng: list[dict[str, Any]], *, expected_bytes: int = 0
) -> CheckpointRef:
    """Write `checkpoints/<step>` completely, or leave nothing. Rank 0 only; drains every section.

    Raises:
        StorageError: the volume is full or failing. Older checkpoints are intact.
    """
    directory = run.checkpoints / str(step)
    try:
        _require_space(run, expected_bytes)
        shutil.rmtree(directory, ignore_errors=True)
        for section, tensors in sections.items():
            _write_shards(directory / section, tensors)
        _write_json(directory / "state.json", state)
        _write_json(directory / "rng.json", rng)
        digest = manifest.write_manifest(directory, "checkpoint", run, step=step)
        ref = CheckpointRef(path=directory.relative_to(run.root).as_posix(), step=step, digest=digest, time=datetime.now(UTC))
        manifest.write_atomically(run.checkpoints / "LATEST", json.dumps(ref.to_wire()).encode())
    except OSError as error:
        shutil.rmtree(directory, ignore_errors=True)
        raise _as_storage_error(directory, error) from error
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return ref


def retain(run: Run, keep: int) -> None:
    """Remove all but the `keep` newest complete checkpoints of this attempt, and what is incomplete (rule C8).

    Called after a save: its files were read back and hashed for the manifest, so the newest one is known to be good.
    """
    newest_first = sorted(_numbered(run.checkpoints), reverse=True)
    complete = [directory for _, directory in newest_first if (directory / manifest.MANIFEST).is_file()]
    for _, directory in newest_first:
        if directory not in complete[:keep]:
            (directory / manifest.MANIFEST).unlink(missing_ok=True)  # first: from here on it is no checkpoint
            shutil.rmtree(directory, ignore_errors=True)


def find_newest(run: Run, on_skipped: OnSkipped) -> Checkpoint | None:
    """The newest checkpoint of the earlier attempts of run.json whose files verify (rule C4). Rank 0 only: it reads every byte.

    A corrupt one is passed to `on_skipped(directory, why)` and the next older is tried.
    """
    for step, _, directory in sorted(_candidates(run), reverse=True):
        try:
            manifest.verify(directory)
        except InputError as error:
            on_skipped(directory, error.message)
            continue
        return open_verified(run, directory.relative_to(run.root).as_posix(), step)
    return None


def open_verified(run: Run, path: str, step: int) -> Checkpoint:
    """The checkpoint that rank 0 has verified, on any rank."""
    directory = run.root / path
    digest = "sha256:" + manifest.file_sha256(directory / manifest.MANIFEST)
    written = datetime.fromtimestamp((directory / manifest.MANIFEST).stat().st_mtime, UTC)
    return Checkpoint(directory, CheckpointRef(path=path, step=step, digest=digest, time=written))


def _candidates(run: Run) -> Iterator[tuple[int, int, Path]]:
    for age, path in enumerate(run.config.resume_from):
        for step, directory in _numbered(run.root / path):
            if (directory / manifest.MANIFEST).is_file():
                yield step, age, directory


def _numbered(directory: Path) -> list[tuple[int, Path]]:
    if not directory.is_dir():
        return []
    return [(int(path.name), path) for path in directory.iterdir() if path.name.isdecimal() and path.is_dir()]


def _require_space(run: Run, expected_bytes: int) -> None:
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(run.checkpoints).free
    if free < expected_bytes:
        raise StorageError(
            f"{run.checkpoints}: {free >> 20} MiB free, the checkpoint needs {expected_bytes >> 20} MiB",
            hint="enlarge spec.storage.size, or lower spec.checkpoint.keep",
        )


def _write_shards(directory: Path, tensors: Tensors) -> None:
    directory.mkdir(parents=True)
    shard: dict[str, Tensor] = {}
    size, number = 0, 1
    for name, tensor in tensors:
        num_bytes = tensor.numel() * tensor.element_size()
        if shard and size + num_bytes > SHARD_BYTES:
            _write_shard(directory, number, shard)
            shard, size, number = {}, 0, number + 1
        shard[name] = tensor.detach().cpu().contiguous()
        size += num_bytes
    _write_shard(directory, number, shard)


def _write_shard(directory: Path, number: int, shard: dict[str, Tensor]) -> None:
    # Not save_file: it reports a full disk as an error of its own, without errno.
    (directory / f"{number:05d}.safetensors").write_bytes(to_safetensors(shard))


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, sort_keys=True, allow_nan=False), encoding="utf-8")


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as tensors:
        return list(tensors.keys())


def _as_storage_error(directory: Path, error: OSError) -> Exception:
    if error.errno in _STORAGE_ERRNOS or isinstance(error, PermissionError):
        return StorageError(f"{directory}: the checkpoint could not be written: {os.strerror(error.errno or 0)}")
    return error
