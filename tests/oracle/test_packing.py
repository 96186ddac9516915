"""A3: rows packed into one sequence give the loss and the logits that they give alone (rule D7), over real transformers models."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf_trainer.data.collate import IGNORED, ConversationBatch, pack_conversations, pad_conversations
from rlhf_trainer.data.packing import pack
from rlhf_trainer.data.rows import ConversationRow
from rlhf_trainer.models.heads import hidden_states
from tests.oracle import mutants_of_data
from tests.oracle.models import PAD, VOCAB, tiny
from tests.oracle.support import close, must_fail, names

ARCHITECTURES = ["llama", "gpt2", "qwen2", "gemma3"]
LENGTHS = (12, 4, 10, 3, 6)  # longer than the sliding window of gemma3, which is 8
WIDTH = 16


def rows(first_token: int | None = None) -> list[ConversationRow]:
    """Random conversations; half of each is learned. `first_token` replaces the whole first row."""
    rng = np.random.default_rng(3)
    found = []
    for i, length in enumerate(LENGTHS):
        ids = rng.integers(11, VOCAB, length).astype(np.int32)
        if i == 0 and first_token is not None:
            ids[:] = first_token
        mask = np.zeros(length, dtype=np.uint8)
        mask[length // 2 :] = 1
        found.append(ConversationRow(str(i), ids, mask, ids[: length // 2], None, "en"))
    return found


@torch.no_grad()
def logits(model: Any, batch: ConversationBatch) -> Tensor:
    found: Tensor = model.lm_head(hidden_states(model, batch.input_ids, batch.attention_mask, batch.position_ids))
    return found


def loss(model: Any, batch: ConversationBatch) -> Tensor:
    shifted = logits(model, batch)[:, :-1]
    return F.cross_entropy(shifted.flatten(0, 1), batch.labels[:, 1:].flatten(), reduction="sum", ignore_index=IGNORED)


Pack = Callable[[list[ConversationRow], list[list[int]], int], ConversationBatch]


def packed(make: Pack, **changes: Any) -> tuple[ConversationBatch, list[list[int]]]:
    bins = pack(LENGTHS, WIDTH)
    return make(rows(**changes), bins, PAD), bins


def check_packing(make: Pack) -> None:
    """The sum of the losses, and every logit, are those of the rows alone; the first row is invisible to its neighbours."""
    for name in ARCHITECTURES:
        model = tiny(name)
        batch, bins = packed(make)
        close(loss(model, batch), loss(model, pad_conversations(rows(), PAD)), 1e-5)
        other, _ = packed(make, first_token=12)
        before, after = logits(model, batch), logits(model, other)
        alone = rows()
        for b, members in enumerate(bins):
            start = 0
            for row in members:
                here = slice(start, start := start + LENGTHS[row])
                close(before[b, here], logits(model, pad_conversations([alone[row]], PAD))[0], 1e-4)
                if row != 0:
                    close(after[b, here], before[b, here], 1e-5)


@pytest.mark.rule("D7", source="transformers: four architectures, every row alone")
def test_packed_rows_are_what_they_are_alone() -> None:
    check_packing(pack_conversations)


@pytest.mark.parametrize(**names(mutants_of_data.PACKING))
@pytest.mark.mutant("D7")
def test_packing_catches(mutant: Pack) -> None:
    must_fail(check_packing, mutant)
