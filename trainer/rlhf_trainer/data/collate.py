"""Rows to tensors: right-padded, packed and left-padded batches. b sequences, t positions, on the CPU.

Masks come from lengths and never from the ids: the pad token may be the EOS that a conversation contains (rule D5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from rlhf_trainer.data.rows import ConversationRow, PreferenceRow, PromptRow, TokenIds

IGNORED = -100
"""Label of positions without loss: the number that `torch.nn.functional.cross_entropy` ignores by default."""


class _Movable:
    __slots__ = ()

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]  # subclasses are dataclasses
        return replace(self, **{name: value.to(device) for name, value in tensors.items() if isinstance(value, Tensor)})  # type: ignore[type-var]


@dataclass(frozen=True, slots=True, eq=False)
class ConversationBatch(_Movable):
    """Inputs and labels of a language-model step."""

    input_ids: Tensor
    """(b, t) int64"""
    attention_mask: Tensor
    """(b, t) int64, 1 on real tokens; when packed (b, 1, t, t) bool, True where the query (third axis) may look."""
    position_ids: Tensor
    """(b, t) int64; counts from 0 again in each packed segment."""
    labels: Tensor
    """(b, t) int64, aligned with `input_ids`: position i is predicted from position i - 1. `IGNORED` where there is no loss."""

    @property
    def num_labels(self) -> int:
        """Tokens with a loss: what rule F1 sums over the global batch."""
        return int((self.labels != IGNORED).sum())


@dataclass(frozen=True, slots=True, eq=False)
class PreferenceBatch(_Movable):
    """b pairs as 2b right-padded sequences: chosen first, then rejected in the same order (rule R4: one forward)."""

    input_ids: Tensor
    attention_mask: Tensor
    margins: Tensor
    """(b,) fp32; 0 where the data names none."""


@dataclass(frozen=True, slots=True, eq=False)
class PromptBatch(_Movable):
    """Left-padded prompts: every sequence ends where the answer begins."""

    input_ids: Tensor
    attention_mask: Tensor


def pad_conversations(rows: Sequence[ConversationRow], pad_id: int) -> ConversationBatch:
    """One row a sequence, padded on the right to the longest."""
    input_ids, attention_mask = _pad([row.input_ids for row in rows], pad_id)
    labels = torch.full_like(input_ids, IGNORED)
    for i, row in enumerate(rows):
        labels[i, : len(row.input_ids)] = _labels(row)
    position_ids = torch.arange(input_ids.shape[1]).expand_as(input_ids).contiguous()
    return ConversationBatch(input_ids, attention_mask, position_ids, labels)


def pack_conversations(
    rows: Sequence[ConversationRow], bins: Sequence[Sequence[int]], pad_id: int, width: int | None = None
) -> ConversationBatch:
    """Each bin of `packing.pack` becomes one sequence, `width` tokens wide (None: as wide as the fullest bin).

    A 4-D mask keeps the segments apart: position ids that restart do not isolate them (rule D7, measured).
    """
    width = width or max(sum(len(rows[i].input_ids) for i in members) for members in bins)
    input_ids = torch.full((len(bins), width), pad_id)
    position_ids = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORED)
    segments = torch.full_like(input_ids, -1)  # padding is a segment of its own: a query without any key would be NaN
    for b, members in enumerate(bins):
        start = 0
        for segment, row in enumerate(rows[i] for i in members):
            here = slice(start, start := start + len(row.input_ids))
            input_ids[b, here] = _tensor(row.input_ids)
            position_ids[b, here] = torch.arange(len(row.input_ids))
            labels[b, here] = _labels(row)
            segments[b, here] = segment
    return ConversationBatch(input_ids, block_diagonal(segments), position_ids, labels)


def block_diagonal(segments_bt: Tensor) -> Tensor:
    """(b, 1, t, t) bool: causal attention inside each segment.

    [[0, 0, 1]] -> [[[[T, F, F], [T, T, F], [F, F, T]]]]
    """
    same = segments_bt[:, :, None] == segments_bt[:, None, :]
    return same.tril()[:, None]


def pad_preferences(rows: Sequence[PreferenceRow], pad_id: int) -> PreferenceBatch:
    """Pairs, padded on the right to the longest of both answers."""
    input_ids, attention_mask = _pad([row.chosen_ids for row in rows] + [row.rejected_ids for row in rows], pad_id)
    return PreferenceBatch(input_ids, attention_mask, torch.tensor([row.margin or 0.0 for row in rows]))


def pad_prompts(rows: Sequence[PromptRow | ConversationRow], pad_id: int) -> PromptBatch:
    """Prompts for generation, padded on the left to the longest."""
    input_ids, attention_mask = _pad([row.prompt_ids for row in rows], pad_id, on_left=True)
    return PromptBatch(input_ids, attention_mask)


def _pad(sequences: Sequence[TokenIds], pad_id: int, *, on_left: bool = False) -> tuple[Tensor, Tensor]:
    width = max(map(len, sequences))
    input_ids = torch.full((len(sequences), width), pad_id)
    attention_mask = torch.zeros_like(input_ids)
    for i, ids in enumerate(sequences):
        here = slice(width - len(ids), width) if on_left else slice(0, len(ids))
        input_ids[i, here] = _tensor(ids)
        attention_mask[i, here] = 1
    return input_ids, attention_mask


def _labels(row: ConversationRow) -> Tensor:
    labels = torch.where(torch.from_numpy(row.loss_mask.astype(bool)), _tensor(row.input_ids), IGNORED)
    labels[:1] = IGNORED  # nothing of the same row precedes it: in a pack it would be predicted from another row
    return labels


def _tensor(ids: TokenIds) -> Tensor:
    return torch.from_numpy(ids.astype(np.int64))
