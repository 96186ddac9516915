"""One dataset from files to token rows on the volume: parse, tokenise, split, check, store (rules D4, D6, D9, D10).

The directory is named by the hash of everything the rows depend on. If it is there already, it is finished: it was renamed into place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_api.run_config import DatasetRequest
from rlhf_trainer.data import files, formats
from rlhf_trainer.data.rows import ConversationRow, Row
from rlhf_trainer.data.sources import Fetched
from rlhf_trainer.data.statistics import Statistics, histogram
from rlhf_trainer.data.store import INDEX_FILE, directory_digest, write_dataset
from rlhf_trainer.data.template import Template
from rlhf_trainer.data.tokenize import Dropped, Tokenisation
from rlhf_trainer.data.tokenizer import ModelTokenizer
from rlhf_trainer.errors import DataError

CODE_VERSION = 3
"""Raise it when rows would come out differently: stored datasets of older code are then not found again."""
HELD_OUT_SPLIT = "test"
_STOP_CHECK_ROWS = 1000
_ROWS_PER_SIGN_OF_LIFE = 2000


@dataclass(frozen=True, slots=True)
class Made:
    """A dataset on the volume, and what is in it."""

    path: Path
    digest: str
    rows: int
    eval_rows: int
    held_out_rows: int
    statistics: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DatasetMaker:
    """Turns one fetched dataset into one stored dataset."""

    folder: Path
    """`datasets/` of the volume."""
    fetched: Fetched
    request: DatasetRequest
    tokenizer: ModelTokenizer
    template: Template
    is_alive: Callable[[], None] = lambda: None

    def make(self) -> Made:
        """The stored dataset; made now unless an earlier attempt finished it.

        Raises:
            DataError: rows are malformed, none is left, too many were dropped, or nothing teaches the model to stop.
            InputError: the source has no such split.
        """
        path = self.folder / f"sha256-{self.key}"
        if not (path / INDEX_FILE).is_file():
            self._write(path)
        index = json.loads((path / INDEX_FILE).read_text("utf-8"))
        rows = index["rows"]
        return Made(path, directory_digest(path), rows["train"], rows["eval"], rows["held_out"], index["statistics"])

    @property
    def key(self) -> str:
        """Hex sha256 of data, split, format, template, tokenizer, settings and the version of this code."""
        request = self.request
        settings = request.to_wire()
        for name in ("key", "tokenizer", "dataset", "answerLength"):  # no row is another one because of these
            settings.pop(name, None)
        parts = [CODE_VERSION, self.fetched.digest, request.dataset.split, request.dataset.format, self.template.source]
        text = json.dumps([*parts, self.tokenizer.fingerprint(), settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _write(self, path: Path) -> None:
        request, statistics = self.request, Statistics()
        train: list[Row] = []
        evaluation: list[Row] = []
        for row in self._rows(request.dataset.split, statistics):
            (evaluation if is_evaluation(row.row_id, request.eval_fraction) else train).append(row)
        if request.eval_fraction and not evaluation:
            train, evaluation = _hold_out_one(train)
        self._check(train, statistics)
        held_out = list(self._rows(HELD_OUT_SPLIT, Statistics())) if self._has_test_split else evaluation
        facts = {
            "rows": {"train": len(train), "eval": len(evaluation), "held_out": len(held_out)},
            "stopIds": list(self.tokenizer.stop_ids(self.template)),
            "padId": self.tokenizer.pad_id,
            "chatTemplate": self.template.source,
            "statistics": statistics.summary(),
        }
        write_dataset(path, request.purpose, {"train": train, "eval": evaluation, "held_out": held_out}, facts)

    @property
    def _has_test_split(self) -> bool:
        """True when held-out rows have files of their own. A source of one file is trained on even when `test` is its name (rule D10)."""
        used = files.split_files(self.fetched.path, self.request.dataset.split)
        found = files.find_split(self.fetched.path, HELD_OUT_SPLIT)
        return bool(found) and not set(used) & set(found)

    def _rows(self, split: str, statistics: Statistics) -> Iterator[Row]:
        request = self.request
        raw = files.read_rows(files.split_files(self.fetched.path, split), request.dataset.format)
        examples = formats.parse(raw, request.purpose, request.dataset.format)
        tokenisation = Tokenisation(self.tokenizer, self.template, request.max_length, request.overlong, request.loss_on)
        for number, row in enumerate(tokenisation.rows(examples, request.purpose)):
            statistics.add(row)
            if number % _ROWS_PER_SIGN_OF_LIFE == 0:
                self.is_alive()
            if not isinstance(row, Dropped):
                yield row

    def _check(self, train: list[Row], statistics: Statistics) -> None:
        request = self.request
        where = f"{request.key}: {request.dataset.uri}"
        if statistics.num_rows == 0:
            raise DataError(f"{where}: has 0 rows, must have at least 1", hint="an empty file, or the wrong split")
        lengths = f"lengths in tokens: {_shown(histogram(statistics.lengths + statistics.dropped_lengths))}"
        if not statistics.lengths:
            problem = f"{where}: all {statistics.num_rows} rows were dropped ({_shown(dict(statistics.dropped))}), must keep at least 1"
            raise DataError(f"{problem}; {lengths}", hint=f"raise maxLength, which is {request.max_length}, or set overlong: truncate")
        if statistics.drop_fraction > request.max_drop_fraction:
            problem = f"{where}: {statistics.drop_fraction:.1%} of the rows were dropped ({_shown(dict(statistics.dropped))})"
            limit = f"must be at most {request.max_drop_fraction:.1%} (maxDropFraction)"
            raise DataError(f"{problem}, {limit}; {lengths}", hint=f"raise maxLength, which is {request.max_length}, or maxDropFraction")
        if not train:
            raise DataError(f"{where}: evalFraction {request.eval_fraction} leaves 0 training rows of {len(statistics.lengths)}: lower it")
        self._check_stop(train[:_STOP_CHECK_ROWS], where)

    def _check_stop(self, rows: list[Row], where: str) -> None:
        """Rule D4: a model that never sees an end in its labels never learns to stop. Ids that only generation knows need no label."""
        stop_ids = self.tokenizer.stop_ids(self.template)
        conversations = [row for row in rows if isinstance(row, ConversationRow)]
        if conversations and not any(np.isin(row.input_ids[row.loss_mask.astype(bool)], stop_ids).any() for row in conversations):
            raise DataError(
                f"{where}: none of the stop ids {list(stop_ids)} has a label in the first {len(conversations)} rows",
                hint="every answer was cut before its end: raise maxLength, or set overlong: drop",
            )


def is_evaluation(row_id: str, fraction: float) -> bool:
    """True for about `fraction` of all rows: decided by the hash of the id alone, so it never changes (rule D10)."""
    word = _hash_word(row_id)
    return word < fraction * 2.0**64


def _hold_out_one(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Training and evaluation rows of a small dataset, of which the fraction took none: gates must not pass unmeasured.

    The row with the smallest hash goes, which a larger fraction would take first; rows of the same id go with it. A single row stays.
    """
    chosen = min((row.row_id for row in rows), key=_hash_word, default=None)
    rest = [row for row in rows if row.row_id != chosen]
    return (rest, [row for row in rows if row.row_id == chosen]) if rest else (rows, [])


def _hash_word(row_id: str) -> int:
    return int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:8], "big")


def _shown(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())
