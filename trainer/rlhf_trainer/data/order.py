"""The order in which rows are used, and where a run is in it (rule D8).

`order` is one permutation per epoch for the whole gang. A `Cursor` hands out windows of `global_batch` row ids; every worker
takes `rank_share` of a window. The world size is no part of the state, so a job that resumes on other workers continues with the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rlhf_trainer.errors import ConfigError, DataError

RowIds = npt.NDArray[np.int64]


def order(seed: int, epoch: int, n: int) -> RowIds:
    """The permutation of n rows in one epoch: a function of its arguments alone.

    Sorts Philox words (Salmon et al. 2011) keyed by seed and epoch: numpy keeps the words of a bit generator the
    same in all versions, but not the result of `permutation()`.
    """
    words = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(n)
    return np.argsort(words, kind="stable").astype(np.int64)


def rank_share(ids: RowIds, rank: int, world_size: int) -> RowIds:
    """What one worker takes of a window. Every row goes to exactly one worker; shares differ by at most one row."""
    return ids[rank::world_size]


def spread(num_rows: int, limit: int) -> list[int]:
    """At most `limit` row ids, evenly spaced: files are often sorted, and the first rows are then like no others.

    5 rows, at most 2 -> [0, 2]
    """
    count = min(num_rows, limit)
    return [i * num_rows // count for i in range(count)]


class Cursor:
    """Walks through `num_epochs` epochs in windows of `global_batch` rows (None: for ever). The same on every worker.

    Windows do not cross epochs: the last one of an epoch may be short. Steps per epoch = ceil(num_rows / global_batch).

    Raises:
        DataError: there are no rows.
    """

    def __init__(self, seed: int, num_rows: int, global_batch: int, num_epochs: int | None) -> None:
        if num_rows < 1:
            raise DataError(
                "the dataset has 0 rows, must have at least 1", hint="look at `dropped` in prepared.json: every row may be too long"
            )
        if global_batch < 1:
            raise ValueError(f"global_batch is {global_batch}, must be at least 1")
        self.seed, self.num_rows, self.global_batch, self.num_epochs = seed, num_rows, global_batch, num_epochs
        self.epoch = 0
        self.consumed = 0
        """Rows of this epoch that were handed out."""
        self._order: tuple[int, RowIds] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_rows // self.global_batch)

    @property
    def num_consumed(self) -> int:
        """Rows of all epochs that were handed out."""
        return self.epoch * self.num_rows + self.consumed

    def rows_in(self, num_windows: int) -> int:
        """Rows of the first windows, short last ones of epochs included."""
        epochs, rest = divmod(num_windows, self.steps_per_epoch)
        return epochs * self.num_rows + rest * self.global_batch

    def next(self) -> tuple[int, RowIds] | None:
        """(epoch, row ids of the next window), or None after the last epoch."""
        if self.consumed == self.num_rows:
            self.epoch, self.consumed = self.epoch + 1, 0
        if self.num_epochs is not None and self.epoch >= self.num_epochs:
            self.epoch, self.consumed = self.num_epochs, 0  # stays at the end, however often it is asked
            return None
        ids = self._permutation()[self.consumed : self.consumed + self.global_batch]
        self.consumed += len(ids)
        return self.epoch, ids

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps, JSON-ready."""
        return {
            "seed": self.seed,
            "numRows": self.num_rows,
            "globalBatch": self.global_batch,
            "epoch": self.epoch,
            "consumed": self.consumed,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue after the last window that was handed out before `state()`.

        Raises:
            ConfigError: the state belongs to another seed, dataset or batch size; its position would mean other rows.
        """
        for name, here in (("seed", self.seed), ("numRows", self.num_rows), ("globalBatch", self.global_batch)):
            if state[name] != here:
                raise ConfigError(
                    f"checkpoint cursor {name}: {state[name]!r} must be {here!r}, as in this attempt", hint="rerun the stage from its start"
                )
        if not 0 <= state["consumed"] <= self.num_rows or state["epoch"] < 0:
            raise ConfigError(f"checkpoint cursor consumed: {state['consumed']!r} must be between 0 and {self.num_rows}")
        self.epoch, self.consumed = int(state["epoch"]), int(state["consumed"])

    def _permutation(self) -> RowIds:
        if self._order is None or self._order[0] != self.epoch:
            self._order = (self.epoch, order(self.seed, self.epoch, self.num_rows))
        return self._order[1]
