"""How good a model answers held-out prompts: exact match, refusals and ended answers, by a checker that is never the reward model.

Rows with a verifiable `answer` are measured twice: greedy (`exact_match`, also for English and Chinese apart) and sampled at
temperature 1 (`exact_match_sampled`, `refusal_fraction`). Rows without one still tell whether answers end (`eos_fraction`). Every worker
answers its share; the counts are added up, so all workers return the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlhf_trainer.data import answers
from rlhf_trainer.data.collate import pad_prompts
from rlhf_trainer.data.order import spread
from rlhf_trainer.rollout import limits
from rlhf_trainer.rollout.generate import GenerateConfig, generate
from rlhf_trainer.rollout.philox import row_seed

if TYPE_CHECKING:
    from torch import nn

    from rlhf_trainer.data.rows import ConversationRow, PromptRow
    from rlhf_trainer.strategy.world import World

MAX_ROWS = 256
"""Held-out prompts that are answered: the standard error of a share is then 3 points at most."""
MAX_SAMPLES = 4
"""Sampled answers to each prompt: they halve the noise of one draw."""
CPU_PARAMETERS = 20_000_000
"""Models up to this size are measured in full on a CPU; larger ones on proportionally fewer prompts."""
MIN_ROWS = 32
BATCH_ROWS = 128
"""Answers that are generated at once; fewer where the key-value cache would be too large (rule G8)."""
GLANCE_ROWS = 16
NUM_SHOWN = 8


class Decoder:
    """Token ids to text with the tokenizer file alone: transformers is not needed to read an answer."""

    def __init__(self, model_directory: Path, stop_ids: Iterable[int]) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(model_directory / "tokenizer.json"))
        self._stop_ids = frozenset(stop_ids)

    def text(self, ids: Sequence[int]) -> str:
        """The answer before its first stop token."""
        end = next((i for i, token in enumerate(ids) if token in self._stop_ids), len(ids))
        decoded: str = self._tokenizer.decode(list(ids[:end]), skip_special_tokens=True)
        return decoded

    def prompt(self, ids: Iterable[int]) -> str:
        """A prompt as a person reads it: without the special tokens of its template."""
        decoded: str = self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=True)
        return decoded.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One generated answer."""

    row: ConversationRow | PromptRow
    ids: list[int]
    """The answer's tokens, stop token included."""
    text: str
    has_stop: bool

    def line(self, decoder: Decoder) -> dict[str, Any]:
        """The answer as a line of `samples.jsonl`."""
        return {
            "row": self.row.row_id,
            "prompt": decoder.prompt(self.row.prompt_ids),
            "response": self.text,
            "answer": self.row.answer,
            "stop_reason": "stop" if self.has_stop else "length",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Examiner:
    """Measures models on the same rows, so that base, SFT, PPO and the quantized model compare."""

    rows: Sequence[ConversationRow | PromptRow]
    decoder: Decoder
    stop_ids: tuple[int, ...]
    pad_id: int
    max_new_tokens: int
    seed: int
    world: World
    max_samples: int = MAX_SAMPLES
    shown: list[Answer] = field(default_factory=list)
    """This worker's last greedy answers to the same few prompts."""

    @property
    def samples(self) -> list[dict[str, Any]]:
        """Those answers as lines of `samples.jsonl`."""
        return [answer.line(self.decoder) for answer in self.shown]

    def measure(self, model: nn.Module, *, with_sampled: bool = True) -> dict[str, float]:
        """Every metric that the rows allow; empty without rows. All workers together.

        Args:
            model: a causal language model of transformers with its full weights on the world's device.
            with_sampled: also draw answers at temperature 1, which takes four fifths of the time.
        """
        if not self.rows:
            return {}
        greedy = self.answers(model, self.rows, greedy=True)
        self.shown[:] = greedy[:NUM_SHOWN]
        metrics = self._shares(greedy, {"eos_fraction": has_stop})
        if not any(row.answer is not None for row in self.rows):
            return metrics
        metrics |= self._shares(greedy, {"exact_match": is_right})
        for language in ("en", "zh"):
            spoken = [answer for answer in greedy if answer.row.language == language]
            metrics |= self._shares(spoken, {f"exact_match_{language}": is_right})
        if not with_sampled:
            return metrics
        sampled = self.answers(model, self.rows, greedy=False)
        return metrics | self._shares(sampled, {"exact_match_sampled": is_right, "refusal_fraction": is_refusal})

    def glance(self, model: nn.Module) -> dict[str, float]:
        """Whether the first few answers end, for the evaluations during a run. All workers together."""
        if not self.rows:
            return {}
        greedy = self.answers(model, self.rows[:GLANCE_ROWS], greedy=True)
        self.shown[:] = greedy[:NUM_SHOWN]
        return self._shares(greedy, {"eos_fraction": has_stop})

    def answers(self, model: nn.Module, rows: Sequence[ConversationRow | PromptRow], *, greedy: bool) -> list[Answer]:
        """This worker's share of the answers: one to each row, or `max_samples` when sampled."""
        rows = rows[self.world.rank :: self.world.size]
        samples = [(row, sample) for row in rows for sample in range(1 if greedy else self.max_samples)]
        if not samples:
            return []
        batch = pad_prompts([row for row, _ in samples], self.pad_id).to(self.world.device)
        seeds = [row_seed(self.seed, 0, row.row_id, sample) for row, sample in samples]
        config = self._config(model, batch.input_ids.shape[1], greedy)
        generated = generate(model, batch.input_ids, batch.attention_mask, config, None if greedy else seeds)
        lengths = generated.mask.sum(dim=1).tolist()
        return [self._answer(row, ids[:length]) for (row, _), ids, length in zip(samples, generated.tokens.tolist(), lengths, strict=True)]

    def _config(self, model: Any, longest_prompt: int, greedy: bool) -> GenerateConfig:
        """All that a model is asked for at once fits the cache, and no answer goes on behind the end of the model's context."""
        num_bytes = limits.bytes_per_number(model.dtype, self.world.device)
        return GenerateConfig(
            max_new_tokens=self.max_new_tokens,
            stop_ids=self.stop_ids,
            pad_id=self.pad_id,
            greedy=greedy,
            max_rows=min(BATCH_ROWS, limits.rows_that_fit(model.config, longest_prompt + self.max_new_tokens, num_bytes)),
            context=limits.context_of(model.config),
        )

    def _answer(self, row: ConversationRow | PromptRow, ids: list[int]) -> Answer:
        return Answer(row=row, ids=ids, text=self.decoder.text(ids), has_stop=bool(ids) and ids[-1] in self.stop_ids)

    def _shares(self, found: Sequence[Answer], questions: dict[str, Any]) -> dict[str, float]:
        """The share of answers for which each question is true, over all workers; left out where there are no answers."""
        counts = [float(len(found)), *(float(sum(map(question, found))) for question in questions.values())]
        total, *yes = self.world.all_sum(torch.tensor(counts, dtype=torch.float64)).tolist()
        return {name: number / total for name, number in zip(questions, yes, strict=True)} if total else {}


def has_stop(answer: Answer) -> bool:
    """True when the answer ended by itself within the limit."""
    return answer.has_stop


def is_right(answer: Answer) -> bool:
    """True when the text is the row's verified answer and it ended by itself."""
    return answer.row.answer is not None and answer.has_stop and answers.is_exact_match(answer.text, answer.row.answer)


def is_refusal(answer: Answer) -> bool:
    """True when the model declined to answer."""
    return answers.is_refusal(answer.text)


def choose_rows(rows: Sequence[Any], *, num_parameters: int, device: str) -> list[Any]:
    """The held-out rows that are measured: those with an answer first, spread over the file, the same in every stage of a job."""
    with_answer = [i for i, row in enumerate(rows) if row.answer is not None]
    ids = with_answer or list(range(len(rows)))
    limit = MAX_ROWS if with_answer else GLANCE_ROWS  # rule F6: sixteen samples show whether answers end
    return [rows[ids[i]] for i in spread(len(ids), affordable_rows(limit, num_parameters=num_parameters, device=device))]


def affordable_rows(limit: int, *, num_parameters: int, device: str, at_least: int = MIN_ROWS) -> int:
    """How many of `limit` rows are measured. Fewer on a CPU when the model is large: measuring must not take longer than training."""
    if device != "cpu":
        return limit
    return max(min(limit, at_least), min(limit, MAX_ROWS * CPU_PARAMETERS // max(num_parameters, 1)))
