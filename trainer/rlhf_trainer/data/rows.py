"""One tokenised row of each purpose: what Prepare writes to `datasets/` and a training stage reads.

Token ids are int32 arrays without padding. `language` is `zh` when most letters of the row are Chinese, else `en`.
Equality is identity (`eq=False`): comparing arrays field by field has no truth value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Purpose: TypeAlias = Literal["conversations", "preference", "prompts"]
TokenIds: TypeAlias = npt.NDArray[np.int32]
TokenMask: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class ConversationRow:
    """A rendered conversation with its loss mask: rows of SFT, of the ptx loss of PPO, and of the perplexity of Quantize."""

    row_id: str
    input_ids: TokenIds
    loss_mask: TokenMask
    """1 on the tokens of the assistant's turns, their end-of-turn tokens included; same length as `input_ids`."""
    prompt_ids: TokenIds
    """Everything but an answer at the end, ready for generation: ends where the assistant begins to speak."""
    answer: str | None
    """The verifiably right answer, for evaluation only; never trained on where the row's own answer differs."""
    language: str


@dataclass(frozen=True, slots=True, eq=False)
class PreferenceRow:
    """Two answers to one prompt, the better one named: a row of RewardModel."""

    row_id: str
    prompt_ids: TokenIds
    """The whole conversation before the two answers."""
    chosen_ids: TokenIds
    """Prompt and answer, end-of-turn token included."""
    rejected_ids: TokenIds
    source: str
    """Where the pair comes from (a column of the data, else the file's stem): accuracy is reported for each."""
    margin: float | None
    language: str


@dataclass(frozen=True, slots=True, eq=False)
class PromptRow:
    """A prompt ready for generation: a row of PPO."""

    row_id: str
    prompt_ids: TokenIds
    answer: str | None
    """The verifiably right answer, for evaluation only: no reward is ever computed from it."""
    language: str


Row: TypeAlias = ConversationRow | PreferenceRow | PromptRow
ROW_TYPES: dict[Purpose, type[Row]] = {"conversations": ConversationRow, "preference": PreferenceRow, "prompts": PromptRow}
