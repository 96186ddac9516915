"""Tokenised datasets on the volume: `write_dataset` in Prepare, `open_dataset` in every other stage.

A dataset is a directory: `<split>.safetensors` (flat token arrays, and for each the offsets of its rows), `<split>.json` (the
other columns) and `dataset.json` (purpose, rows, facts such as stop ids). It is written under a temporary name and renamed, so it is
complete or absent. Opening verifies the digest first and needs no torch. Rows are read when asked for: memory holds
the offsets and the JSON columns only. Arrow files were rejected here: their cache names and locks are not ours to pin.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast, overload

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from rlhf_trainer.data.rows import ROW_TYPES, ConversationRow, PreferenceRow, PromptRow, Purpose, Row
from rlhf_trainer.errors import InputError

R = TypeVar("R", bound=Row)

INDEX_FILE = "dataset.json"
SPLITS = ("train", "eval", "held_out")
_DTYPES: dict[str, type[np.generic]] = {"TokenIds": np.int32, "TokenMask": np.uint8}


class RowSequence(Sequence[R], Generic[R]):
    """The rows of one split, read from the file one at a time. Index and iterate; slices are lists."""

    def __init__(self, folder: Path, split: str, row_type: type[R]) -> None:
        self._make = cast("Callable[..., R]", row_type)
        self._columns: dict[str, list[Any]] = json.loads((folder / f"{split}.json").read_text("utf-8"))
        tensors: Any = safe_open(folder / f"{split}.safetensors", framework="np")
        self._offsets = {name: tensors.get_tensor(f"{name}.offsets") for name in token_fields(row_type)}
        self._flat = {name: tensors.get_slice(name) for name in self._offsets}

    def __len__(self) -> int:
        return len(self._columns["row_id"])

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> list[R]: ...
    def __getitem__(self, index: int | slice) -> R | list[R]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]  # negative indices, and IndexError past the end
        tokens = {name: self._flat[name][int(start[row]) : int(start[row + 1])] for name, start in self._offsets.items()}
        return self._make(**tokens, **{name: column[row] for name, column in self._columns.items()})

    def __iter__(self) -> Iterator[R]:
        return (self[i] for i in range(len(self)))

    def take(self, ids: Sequence[int] | npt.NDArray[np.int64]) -> list[R]:
        """The rows of these ids, in their order: a window of `data.order.Cursor`."""
        return [self[int(i)] for i in ids]

    def row_ids(self, ids: Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
        """How the user's data names these rows, without reading any."""
        names = self._columns["row_id"]
        return [names[int(i)] for i in ids]

    def lengths(self, name: str) -> npt.NDArray[np.int64]:
        """Tokens of each row in the token field `name` (`input_ids`, `prompt_ids`, …), without reading any row."""
        return cast("npt.NDArray[np.int64]", np.diff(self._offsets[name]))

    def column(self, name: str) -> list[Any]:
        """A column that is not tokens: `row_id`, `answer`, `language`, …"""
        return self._columns[name]


@dataclass(frozen=True, slots=True)
class PreparedDataset(Generic[R]):
    """One dataset as Prepare left it."""

    purpose: Purpose
    train: RowSequence[R]
    eval: RowSequence[R]
    """Rows split off the training data by the hash of their id (rule D10); empty when `evalFraction` is 0."""
    held_out: RowSequence[R]
    """Split `test` of the same source where it exists, else the same rows as `eval`."""
    stop_ids: tuple[int, ...]
    """End-of-turn token of the template and the tokenizer's EOS: generation stops at any of them (rule D4)."""
    pad_id: int
    statistics: dict[str, Any]


@overload
def open_dataset(path: Path, digest: str, purpose: Literal["conversations"]) -> PreparedDataset[ConversationRow]: ...
@overload
def open_dataset(path: Path, digest: str, purpose: Literal["preference"]) -> PreparedDataset[PreferenceRow]: ...
@overload
def open_dataset(path: Path, digest: str, purpose: Literal["prompts"]) -> PreparedDataset[PromptRow]: ...
def open_dataset(path: Path, digest: str, purpose: Purpose) -> PreparedDataset[Any]:
    """The dataset at `path`, after its content was proven to be the one that Prepare reported.

    Raises:
        InputError: it is missing, its digest differs, or it was prepared for another purpose.
    """
    if not (path / INDEX_FILE).is_file():
        raise InputError(f"{path}: no prepared dataset here", hint="run the Prepare stage again: spec.rerun.fromStage")
    found = directory_digest(path)
    if found != digest:
        raise InputError(f"{path}: digest {found} must be {digest}: its files changed since Prepare", hint="run Prepare again")
    index = json.loads((path / INDEX_FILE).read_text("utf-8"))
    if index["purpose"] != purpose:
        raise InputError(f"{path}: holds {index['purpose']} rows, must hold {purpose}")
    train, evaluation, held_out = (RowSequence(path, split, cast("Any", ROW_TYPES[purpose])) for split in SPLITS)
    return PreparedDataset(purpose, train, evaluation, held_out, tuple(index["stopIds"]), index["padId"], index["statistics"])


def write_dataset(path: Path, purpose: Purpose, splits: Mapping[str, Sequence[Row]], facts: Mapping[str, Any]) -> str:
    """Write the splits (all of `SPLITS`) and the facts (`stopIds`, `padId`, `statistics`); returns the directory digest.

    The directory appears at `path` complete or not at all. One that is there already was written under the same key
    by an earlier attempt: it is kept, because a stage of that attempt may be reading it.

    Raises:
        OSError: the volume is full or not writable. Nothing is left behind.
    """
    if (path / INDEX_FILE).is_file():
        return directory_digest(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.mkdir()
        for split in SPLITS:
            _write_split(temporary, split, ROW_TYPES[purpose], splits[split])
        index = {"version": 1, "purpose": purpose, **facts}
        (temporary / INDEX_FILE).write_text(json.dumps(index, ensure_ascii=False, indent=1) + "\n", "utf-8")
        sync_tree(temporary)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return directory_digest(path)


def directory_digest(path: Path) -> str:
    """`sha256:<hex>` of the directory's `sha256sum` lines, sorted by path (api.md section 1)."""
    files = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    lines = "".join(f"{file_sha256(path / name)}  {name}\n" for name in files)
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces: model files do not fit in memory twice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_tree(path: Path) -> None:
    """fsync every file below `path` and the directories: a rename must never be newer than the bytes it promises."""
    for entry in (*path.rglob("*"), path):
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def token_fields(row_type: type[Any]) -> dict[str, type[np.generic]]:
    """The fields of a row that are token arrays, with their number format."""
    return {field.name: _DTYPES[str(field.type)] for field in fields(row_type) if str(field.type) in _DTYPES}


def _write_split(folder: Path, split: str, row_type: type[Row], rows: Sequence[Row]) -> None:
    tokens = token_fields(row_type)
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, dtype in tokens.items():
        arrays = [getattr(row, name) for row in rows]
        tensors[name] = np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype, copy=False)
        tensors[f"{name}.offsets"] = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
    save_file(tensors, folder / f"{split}.safetensors")
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(row_type) if field.name not in tokens}
    (folder / f"{split}.json").write_text(json.dumps(columns, ensure_ascii=False) + "\n", "utf-8")
