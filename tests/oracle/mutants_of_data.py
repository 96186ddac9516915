"""Mutants of packing (rule D7). See `mutants.py` for how they are used."""

from dataclasses import replace

import torch

from rlhf_trainer.data import collate

# --- packing: check_packing (rule D7) -------------------------------------------------------------------------------------------


def packed_with_position_ids_only(rows, bins, pad_id):
    """Restarting positions are taken for isolation: transformers then sees one causal sequence."""
    batch = collate.pack_conversations(rows, bins, pad_id)
    return replace(batch, attention_mask=torch.ones_like(batch.input_ids))


def packed_without_restarting_positions(rows, bins, pad_id):
    batch = collate.pack_conversations(rows, bins, pad_id)
    return replace(batch, position_ids=torch.arange(batch.input_ids.shape[1]).expand_as(batch.input_ids))


def packed_with_first_labels(rows, bins, pad_id):
    """The first token of a segment is learned from the last one of another row."""
    batch = collate.pack_conversations(rows, bins, pad_id)
    return replace(batch, labels=torch.where(batch.position_ids == 0, batch.input_ids, batch.labels))


PACKING = [packed_with_position_ids_only, packed_without_restarting_positions, packed_with_first_labels]
