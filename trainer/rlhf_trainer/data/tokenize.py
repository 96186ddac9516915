"""Examples to token rows: render once, tokenise once, mask by character offsets (rules D2, D3, D6).

A row that is too long, or that has nothing to learn, becomes a `Dropped` with its reason; `prepare.py` counts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

import numpy as np

from rlhf_trainer.data.answers import language_of
from rlhf_trainer.data.formats import Example, Message, without_last_answer
from rlhf_trainer.data.rows import ConversationRow, PreferenceRow, PromptRow, Purpose, Row, TokenIds, TokenMask
from rlhf_trainer.data.template import Span, Template
from rlhf_trainer.data.tokenizer import ModelTokenizer
from rlhf_trainer.errors import DataError

_BATCH_ROWS = 512

Reason: TypeAlias = Literal["tooLong", "noAnswer", "equalAnswers"]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is not used."""

    reason: Reason
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Tokenisation:
    """How the rows of one dataset become tokens."""

    tokenizer: ModelTokenizer
    template: Template
    max_length: int
    overlong: Literal["drop", "truncate"] = "drop"
    loss_on: Literal["assistant", "all"] = "assistant"

    def rows(self, examples: Iterable[Example], purpose: Purpose) -> Iterator[Row | Dropped]:
        """One row, or the reason why there is none, for each example and in its order.

        Raises:
            DataError: the template refuses a conversation. The message names file and row.
        """
        make = {"conversations": self._conversations, "preference": self._preferences, "prompts": self._prompts}[purpose]
        remaining = iter(examples)
        while batch := list(islice(remaining, _BATCH_ROWS)):
            yield from make(batch)

    def _conversations(self, examples: Sequence[Example]) -> Iterator[Row | Dropped]:
        rendered = [self._spans(example, example.messages) for example in examples]
        tokens = self._encode([text for text, _ in rendered], [spans for _, spans in rendered])
        prompts = self._encode([self._prompt_text(example, without_last_answer(example.messages)) for example in examples])
        for example, (ids, mask), (prompt_ids, _) in zip(examples, tokens, prompts, strict=True):
            if len(ids) > self.max_length and self.overlong == "drop":
                yield Dropped("tooLong", len(ids))
            elif not mask[1 : self.max_length].any():  # the first token is predicted from nothing
                yield Dropped("tooLong" if len(ids) > self.max_length else "noAnswer", len(ids))
            else:
                cut = slice(0, self.max_length)  # a cut answer has no end-of-turn token: it did not end
                yield ConversationRow(example.row_id, ids[cut], mask[cut], prompt_ids[cut], example.answer, _language(example))

    def _preferences(self, examples: Sequence[Example]) -> Iterator[Row | Dropped]:
        chosen = self._encode([self._spans(e, (*e.messages, Message("assistant", e.chosen or "")))[0] for e in examples])
        rejected = self._encode([self._spans(e, (*e.messages, Message("assistant", e.rejected or "")))[0] for e in examples])
        prompts = self._encode([self._prompt_text(example, example.messages) for example in examples])
        for example, (good, _), (bad, _), (prompt_ids, _) in zip(examples, chosen, rejected, prompts, strict=True):
            longest, cut = max(len(good), len(bad)), slice(0, self.max_length)
            is_same = np.array_equal(good[cut], bad[cut])
            if longest > self.max_length and (self.overlong == "drop" or is_same or len(prompt_ids) >= self.max_length):
                yield Dropped("tooLong", longest)
            elif is_same:  # in the data, or once the template has stripped white space: the pair prefers nothing (rule R7)
                yield Dropped("equalAnswers", longest)
            else:
                row = (example.row_id, prompt_ids[cut], good[cut], bad[cut], example.source, example.margin, _language(example))
                yield PreferenceRow(*row)

    def _prompts(self, examples: Sequence[Example]) -> Iterator[Row | Dropped]:
        prompts = self._encode([self._prompt_text(example, example.messages) for example in examples])
        for example, (ids, _) in zip(examples, prompts, strict=True):
            if len(ids) > self.max_length:  # a cut prompt would ask something else: never truncated
                yield Dropped("tooLong", len(ids))
            else:
                yield PromptRow(example.row_id, ids, example.answer, _language(example))

    def _spans(self, example: Example, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        try:
            text, spans = self.template.spans(messages)
        except DataError as error:
            raise DataError(f"{example.place}: {error.message}", hint=error.hint) from error
        return text, [(0, len(text))] if self.loss_on == "all" and spans else spans

    def _prompt_text(self, example: Example, prompt: Sequence[Message]) -> str:
        try:
            return self.template.render(prompt, add_generation_prompt=True)
        except DataError as error:
            raise DataError(f"{example.place}: {error.message}", hint=error.hint) from error

    def _encode(self, texts: Sequence[str], spans: Sequence[Sequence[Span]] | None = None) -> list[tuple[TokenIds, TokenMask]]:
        encodings = self.tokenizer.encode(texts)
        found = []
        for text, own_spans, encoding in zip(texts, spans or [[]] * len(texts), encodings, strict=True):
            shift = len(self.tokenizer.missing_bos(text))
            starts = np.array([start for start, _ in encoding.offsets], dtype=np.int64) - shift
            found.append((np.array(encoding.ids, dtype=np.int32), inside(starts, own_spans)))
        return found


def inside(starts: np.ndarray[tuple[int], np.dtype[np.int64]], spans: Sequence[Span]) -> TokenMask:
    """1 for tokens whose first character lies in a span.

    starts [0, 3, 7, 9], spans [(3, 8)] -> [0, 1, 1, 0]
    """
    mask = np.zeros(len(starts), dtype=np.uint8)
    for start, end in spans:
        mask |= ((starts >= start) & (starts < end)).astype(np.uint8)
    return mask


def _language(example: Example) -> str:
    """The language of the last question: an answer may be a number, and a system prompt is often English everywhere."""
    return language_of(next((message.content for message in reversed(example.messages) if message.role == "user"), ""))
