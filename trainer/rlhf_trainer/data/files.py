"""The files of a dataset and their rows, streamed through `datasets`.

Lines come from the `text` loader of `datasets` and are parsed here. Its `json` loader was rejected: it guesses a schema for blocks of
rows, fills missing fields with null, casts numbers to text, and its errors name no row. Here memory is bounded and row 37 is row 37.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlhf_api.inputs import SPLIT
from rlhf_trainer.data.formats import Malformed, RawRow
from rlhf_trainer.errors import DataError, InputError

SUFFIXES = (".jsonl", ".json")


def split_files(source: Path, split: str) -> list[Path]:
    """The files of a split: the source itself when it is one file, else `<split>.jsonl`, `<split>.json` or all files of `<split>/`.

    Raises:
        InputError: the source has no such split. The message lists the ones it has.
    """
    single = [path for path in source.iterdir() if path.is_file()]
    if len(single) == 1 and split == "train" and single[0].stem != "train" and not any(path.is_dir() for path in source.iterdir()):
        return single
    found = find_split(source, split)
    if not found:
        present = sorted({path.stem for path in single if path.suffix in SUFFIXES} | {p.name for p in source.iterdir() if p.is_dir()})
        raise InputError(f"split: {split!r} must be a file stem or a folder of the dataset: {', '.join(present) or 'it has none'}")
    return found


def find_split(source: Path, split: str) -> list[Path]:
    """The files of a split, or none. Only `.jsonl` and `.json` files count: archives are never unpacked.

    Raises:
        InputError: the split is a path. It could leave the source, which is what the profile allows and the digest pins.
    """
    if not re.fullmatch(SPLIT, split):
        raise InputError(f"split: {split!r} must be the name of a file or folder of the dataset: a folder on the way to it belongs in uri")
    for suffix in SUFFIXES:
        if (file := source / f"{split}{suffix}").is_file():
            return [file]
    folder = source / split
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in SUFFIXES) if folder.is_dir() else []


def read_rows(files: list[Path], declared: str) -> Iterator[RawRow]:
    """The JSON values of the files, with file name and row number. Lines that are not JSON come as `Malformed`.

    Raises:
        DataError: a file is not text, or its container (lines or one array) is not the one that `declared` has.
    """
    for file in files:
        is_array = _starts_with_bracket(file)
        if declared == "alpaca" and not is_array:
            raise DataError(f"{file.name}:1: format alpaca must be one JSON array: declare format instruction for one object a line")
        if declared == "instruction" and is_array:
            raise DataError(f"{file.name}:1: format instruction must be one object a line: declare format alpaca for one JSON array")
        try:
            yield from _array_rows(file) if is_array else _line_rows(file)
        except UnicodeDecodeError as error:
            raise DataError(f"{file.name}: byte {error.start} is not UTF-8: convert the file") from error


def _line_rows(file: Path) -> Iterator[RawRow]:
    for number, line in enumerate(_lines(file), start=1):
        if line.strip():
            yield RawRow(file.name, number, _decode(line))


def _lines(file: Path) -> Iterator[str]:
    import datasets  # 3 s of imports

    # Iterating asks torch whether this is a DataLoader worker, and imports it (4 s, 0.5 GB) for that question. Prepare runs without torch.
    had_torch, datasets.config.TORCH_AVAILABLE = datasets.config.TORCH_AVAILABLE, False
    try:
        # Streaming caches nothing, but the loader insists on a directory for it; the home of a pod may not be writable.
        with TemporaryDirectory() as cache:
            for row in datasets.load_dataset("text", data_files=str(file), split="train", streaming=True, cache_dir=cache):
                yield row["text"]
    finally:
        datasets.config.TORCH_AVAILABLE = had_torch


def _decode(line: str) -> Any:
    try:
        return json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
        return Malformed(f"{line[:40]!r}{'…' if len(line) > 40 else ''} must be one JSON object: {reason}")


def _array_rows(file: Path) -> Iterator[RawRow]:
    try:
        rows = json.loads(file.read_text("utf-8-sig"), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise DataError(f"{file.name}:{error.lineno}: {error.msg} at character {error.colno}: must be one JSON array of objects") from error
    yield from (RawRow(file.name, number, row) for number, row in enumerate(rows, start=1))


def _starts_with_bracket(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
