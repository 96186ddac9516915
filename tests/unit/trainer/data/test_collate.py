"""Rows to tensors: masks come from lengths, segments cannot see each other, prompts end together."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.data.collate import (
    IGNORED,
    block_diagonal,
    pack_conversations,
    pad_conversations,
    pad_preferences,
    pad_prompts,
)
from rlhf_trainer.data.packing import pack
from rlhf_trainer.data.rows import ConversationRow, PreferenceRow, PromptRow

PAD = 2  # also the EOS that rows end with: a mask must not be read off the ids


def a_row(length: int, num_labels: int = 1) -> ConversationRow:
    ids = np.arange(10, 10 + length, dtype=np.int32)
    ids[-1] = PAD
    mask = np.zeros(length, dtype=np.uint8)
    mask[length - num_labels :] = 1
    return ConversationRow(str(length), ids, mask, ids[: length - num_labels], None, "en")


def ids_of(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(values, dtype=np.int32)


@pytest.mark.rule("D5")
def test_rows_are_padded_on_the_right() -> None:
    batch = pad_conversations([a_row(4, num_labels=2), a_row(2)], PAD)
    assert batch.input_ids.tolist() == [[10, 11, 12, PAD], [10, PAD, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 12, PAD], [IGNORED, PAD, IGNORED, IGNORED]]
    assert batch.num_labels == 3


@pytest.mark.rule("D7")
def test_segments_restart_their_positions_and_see_only_themselves() -> None:
    rows = [a_row(3), a_row(2)]
    batch = pack_conversations(rows, [[0, 1]], PAD, width=6)
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 0]]
    assert batch.attention_mask.shape == (1, 1, 6, 6)
    assert batch.attention_mask.dtype == torch.bool
    assert batch.attention_mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_the_first_token_of_a_segment_has_no_label() -> None:
    everything = [a_row(3, num_labels=3), a_row(2, num_labels=2)]
    batch = pack_conversations(everything, [[0, 1]], PAD)
    assert batch.labels.tolist() == [[IGNORED, 11, PAD, IGNORED, PAD]]


@given(lengths=st.lists(st.integers(2, 12), min_size=1, max_size=12))
@pytest.mark.rule("D7")
def test_packing_keeps_every_token_and_label(lengths: list[int]) -> None:
    rows = [a_row(length) for length in lengths]
    packed = pack_conversations(rows, pack(lengths, 16), PAD, width=16)
    padded = pad_conversations(rows, PAD)
    assert packed.num_labels == padded.num_labels == len(rows)
    assert int(packed.attention_mask.any(dim=2).sum()) == 16 * len(packed.input_ids)  # no query without a key: softmax would be NaN
    labels = sorted(
        zip(packed.position_ids[packed.labels != IGNORED].tolist(), packed.labels[packed.labels != IGNORED].tolist(), strict=True)
    )
    assert labels == sorted((length - 1, PAD) for length in lengths)


def test_block_diagonal_is_the_docstring_example() -> None:
    assert block_diagonal(torch.tensor([[0, 0, 1]])).int().tolist() == [[[[1, 0, 0], [1, 1, 0], [0, 0, 1]]]]


@pytest.mark.rule("R4")
def test_pairs_are_one_batch_chosen_first() -> None:
    rows = [
        PreferenceRow("a", ids_of(5), ids_of(5, 6, 2), ids_of(5, 2), "web", 0.5, "en"),
        PreferenceRow("b", ids_of(7), ids_of(7, 2), ids_of(7, 8, 9, 2), "web", None, "en"),
    ]
    batch = pad_preferences(rows, PAD)
    assert batch.input_ids.tolist() == [[5, 6, 2, 2], [7, 2, 2, 2], [5, 2, 2, 2], [7, 8, 9, 2]]
    assert batch.attention_mask.sum(dim=1).tolist() == [3, 2, 2, 4]
    assert batch.margins.tolist() == [0.5, 0.0]


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([PromptRow("a", ids_of(5), None, "en"), PromptRow("b", ids_of(6, 7), None, "en")], id="prompts"),
        pytest.param(
            [ConversationRow("a", ids_of(5, 2), ids_of(0, 1).astype(np.uint8), ids_of(5), None, "en"), a_row(3, num_labels=1)],
            id="conversations",
        ),
    ],
)
def test_prompts_end_together(rows: Sequence[PromptRow | ConversationRow]) -> None:
    batch = pad_prompts(rows, PAD)
    assert batch.input_ids[:, -1].tolist() == [row.prompt_ids[-1] for row in rows]
    assert batch.attention_mask.tolist() == [[0, 1], [1, 1]]


def test_a_batch_moves_as_a_whole() -> None:
    moved = pad_conversations([a_row(3)], PAD).to("meta")
    assert {tensor.device.type for tensor in (moved.input_ids, moved.attention_mask, moved.position_ids, moved.labels)} == {"meta"}
