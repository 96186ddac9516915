"""Answers for a batch of prompts, with a key-value cache whose rows come and go (rules G1-G3, P8, P14).

Prompts wait in a queue, longest first, and join as a left-padded block: one forward, first token. Then every step is one
forward over one token of each row in flight. When a quarter of the rows are done they leave, padding columns with them, and
waiting prompts take their places. What a row draws depends on its prompt and its seed only, never on its neighbours.

HF `generate` was rejected: one seed for the whole batch, no log-probabilities without a second full tensor, and finished
rows stay to the end. `tests/bench/generate.py` measures both.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from rlhf_trainer.rollout.philox import uniforms
from rlhf_trainer.rollout.sampling import GenerateConfig, choose

if TYPE_CHECKING:
    from rlhf_trainer.rollout.cache import RowCache

__all__ = ["GenerateConfig", "Generated", "generate", "left_padded", "position_ids"]

LEAVE_FRACTION = 0.25
"""Share of finished rows at which they leave. Leaving copies the cache: each time for one row would cost more than it saves."""

CHECK_STEPS_CPU, CHECK_STEPS_GPU = 1, 8
"""Steps between two looks at which rows are done: each look waits for the GPU."""

SPARE_COLUMNS = 64
"""The cache shows itself to attention in whole blocks: at most this many columns beyond the tokens."""


class Generated(NamedTuple):
    """Answers, in the order of the prompts. All (b, r); r is the longest answer."""

    tokens: Tensor
    """Token ids; `pad_id` after the stop token."""
    logprobs: Tensor
    """Log-probability of each token under the distribution it was drawn from, fp32; 0 outside the mask."""
    mask: Tensor
    """1 on the tokens of the answer, stop token included (rule P8). int64."""


def generate(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, cfg: GenerateConfig, seeds: Sequence[int] | Tensor | None = None
) -> Generated:
    """Answer every prompt.

    Args:
        model: a causal language model of transformers, or a wrapper with its call. In evaluation mode while it runs.
        input_ids: prompts (b, t), padded on either side.
        attention_mask: 1 on their tokens (b, t), from lengths, never from `ids != pad`.
        cfg: a row gets fewer than `max_new_tokens` where `context` ends before; none at all where the prompt fills it.
        seeds: one for each row (`philox.row_seed`); None only when greedy. The same prompt and seed give the same answer in
            any batch, in any order, with any `max_rows`, up to the rounding of the model itself.

    Raises:
        ValueError: a prompt is empty, or shapes and seeds do not fit together.
    """
    seeds_b = _checked_seeds(input_ids, attention_mask, cfg, seeds)
    flight = _Flight(model, input_ids, attention_mask, cfg, seeds_b)
    with _evaluating(model):
        while flight.is_busy():
            if flight.is_time_to_repack():
                flight.repack()
            else:
                flight.step()
    return flight.result()


def position_ids(attention_mask_bt: Tensor) -> Tensor:
    """Positions counted from the first real token, so that left padding does not shift a sentence (rule P7).

    [[0, 0, 1, 1, 1]] -> [[0, 0, 0, 1, 2]]   padding gets 0; its logits are never read
    """
    return (attention_mask_bt.long().cumsum(dim=-1) - 1).clamp(min=0)


def left_padded(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """The same rows with their tokens moved to the right end, cut to the longest; ids and mask.

    [[5, 6, 0, 0], [7, 0, 0, 0]] with mask [[1, 1, 0, 0], [1, 0, 0, 0]] -> [[5, 6], [0, 7]]
    """
    order = attention_mask.long().argsort(dim=-1, stable=True)  # padding first, tokens behind it in their order
    width = int(attention_mask.sum(dim=-1).max())
    return input_ids.gather(-1, order)[:, -width:], attention_mask.gather(-1, order)[:, -width:]


def _checked_seeds(input_ids: Tensor, attention_mask: Tensor, cfg: GenerateConfig, seeds: Sequence[int] | Tensor | None) -> Tensor | None:
    if input_ids.shape != attention_mask.shape or input_ids.ndim != 2:
        raise ValueError(f"input_ids and attention_mask must be (b, t), got {tuple(input_ids.shape)} and {tuple(attention_mask.shape)}")
    if input_ids.shape[0] and int(attention_mask.sum(dim=-1).min()) < 1:
        raise ValueError("attention_mask: a prompt has no token; every row needs at least one")
    if cfg.greedy:
        return None
    if seeds is None:
        raise ValueError("seeds: None is for greedy only; sampling needs one seed a row")
    seeds_b = torch.as_tensor(seeds, dtype=torch.int64, device=input_ids.device)
    if seeds_b.shape != input_ids.shape[:1]:
        raise ValueError(f"seeds: {tuple(seeds_b.shape)} must be one for each of {input_ids.shape[0]} rows")
    return seeds_b


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    # dropout off (P6); and in training mode, gradient checkpointing makes transformers drop the cache
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    # Inference mode saves a tenth of the time. Not with quantized weights: bitsandbytes repacks them at the first forward,
    # and what is made in inference mode can never be trained on.
    is_quantized = any(not parameter.is_floating_point() for parameter in model.parameters())
    try:
        with torch.no_grad() if is_quantized else torch.inference_mode():
            yield
    finally:
        for module in was_training:
            module.training = True


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows in flight, each tensor (b,)."""

    ids: Tensor
    """Index of the prompt."""
    tokens: Tensor
    """Newest token: not in the cache yet."""
    positions: Tensor
    """Its position in the row; the cache holds as many tokens."""
    is_alive: Tensor
    """False once the answer is complete. Such a row stands still until it leaves."""

    def kept(self, kept_rows: Tensor) -> "_Rows":
        return _Rows(self.ids[kept_rows], self.tokens[kept_rows], self.positions[kept_rows], self.is_alive[kept_rows])

    def joined_by(self, other: "_Rows") -> "_Rows":
        return _Rows(
            torch.cat([self.ids, other.ids]),
            torch.cat([self.tokens, other.tokens]),
            torch.cat([self.positions, other.positions]),
            torch.cat([self.is_alive, other.is_alive]),
        )


class _Flight:
    """The answers so far, the prompts that wait, and the rows in flight with their cache."""

    def __init__(self, model: nn.Module, input_ids: Tensor, attention_mask: Tensor, cfg: GenerateConfig, seeds_b: Tensor | None) -> None:
        self.model, self.cfg, self.device = model, cfg, input_ids.device
        self.input_ids, self.attention_mask, self.prompt_lengths = input_ids, attention_mask, attention_mask.sum(dim=-1)
        num_prompts = input_ids.shape[0]
        self.limits = _answer_limits(self.prompt_lengths, cfg)
        order = self.prompt_lengths.argsort(descending=True, stable=True)
        self.queue: list[int] = order[self.limits[order] > 0].tolist()
        self.max_rows = cfg.max_rows or max(num_prompts, 1)
        self.check_steps = CHECK_STEPS_CPU if self.device.type == "cpu" else CHECK_STEPS_GPU
        self.stop_ids = torch.tensor(cfg.stop_ids, device=self.device)
        self.noise = None if seeds_b is None else uniforms(seeds_b, cfg.max_new_tokens)
        # one column more than an answer has: finished rows that still wait to leave write there
        self.tokens = torch.full((num_prompts, cfg.max_new_tokens + 1), cfg.pad_id, device=self.device)
        self.logprobs = torch.zeros((num_prompts, cfg.max_new_tokens + 1), device=self.device)
        self.lengths = torch.zeros(num_prompts, dtype=torch.int64, device=self.device)
        none = torch.zeros(0, dtype=torch.int64, device=self.device)
        self.rows, self.cache, self.mask = _Rows(none, none, none, none.bool()), _new_cache(), none
        self.num_columns, self.num_alive, self.num_steps = 0, 0, 0

    def is_busy(self) -> bool:
        """True until every prompt has its answer."""
        return bool(self.queue) or self.num_alive > 0

    def is_time_to_repack(self) -> bool:
        """True when nothing is in flight, or enough rows are done to make their leaving worth a copy."""
        num_rows = self.rows.ids.shape[0]
        return self.num_alive == 0 or (self.cfg.compact and num_rows - self.num_alive >= LEAVE_FRACTION * num_rows)

    def repack(self) -> None:
        """Finished rows leave, and padding columns with them; waiting prompts take their places."""
        kept_rows = self.rows.is_alive.nonzero().squeeze(-1)
        num_joining = min(len(self.queue), self.max_rows - kept_rows.shape[0])
        ids, self.queue = self.queue[:num_joining], self.queue[num_joining:]
        self.rows = self.rows.kept(kept_rows)
        first_column = self.num_columns - _longest(self.rows.positions)
        joining, cache, width = self._admit(ids)
        self.num_columns = max(self.num_columns - first_column, width)
        self.cache = self.cache.repacked(kept_rows, first_column, cache, self.num_columns)
        self.rows = self.rows.joined_by(joining)
        # from here on every row fills every column: one mask serves until the next repack
        widest = self.num_columns + self.cfg.max_new_tokens + self.check_steps + SPARE_COLUMNS
        columns = torch.arange(widest, device=self.device)
        self.mask = columns >= (self.num_columns - self.rows.positions).unsqueeze(-1)
        self._count_alive()

    def _admit(self, ids: list[int]) -> tuple[_Rows, "RowCache", int]:
        """Run waiting prompts and draw their first token."""
        rows = torch.tensor(ids, dtype=torch.int64, device=self.device)
        cache = _new_cache()
        if not ids:
            return _Rows(rows, rows, rows, rows.bool()), cache, 0
        input_ids, mask = left_padded(self.input_ids[rows], self.attention_mask[rows])
        logits = self._forward(input_ids, mask, position_ids(mask), cache)
        joining = _Rows(rows, rows, self.prompt_lengths[rows] - 1, torch.ones_like(rows).bool())
        return self._draw(joining, logits), cache, input_ids.shape[1]

    def step(self) -> None:
        """One more token for every row in flight."""
        mask = self.mask[:, : self.cache.get_mask_sizes(1, 0)[0]]
        logits = self._forward(self.rows.tokens.unsqueeze(-1), mask, self.rows.positions.unsqueeze(-1), self.cache)
        self.num_columns += 1
        self.rows = self._draw(self.rows, logits)
        self.num_steps += 1
        if self.num_steps % self.check_steps == 0:
            self._count_alive()

    def _forward(self, input_ids: Tensor, mask: Tensor, positions: Tensor, cache: "RowCache") -> Tensor:
        output = self.model(
            input_ids=input_ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _draw(self, rows: _Rows, logits: Tensor) -> _Rows:
        """Draw and record the next token of each row."""
        positions = rows.positions + rows.is_alive
        counts = positions - self.prompt_lengths[rows.ids]
        column = torch.where(rows.is_alive, counts, self.cfg.max_new_tokens)
        noise = None if self.noise is None else self.noise[rows.ids, counts.clamp(max=self.cfg.max_new_tokens - 1)]
        tokens, logprobs = choose(logits, noise, self.cfg)
        self.tokens[rows.ids, column] = tokens
        self.logprobs[rows.ids, column] = logprobs
        self.lengths[rows.ids] += rows.is_alive
        goes_on = rows.is_alive & ~torch.isin(tokens, self.stop_ids) & (counts + 1 < self.limits[rows.ids])
        return _Rows(rows.ids, tokens, positions, goes_on)

    def _count_alive(self) -> None:
        self.num_alive = int(self.rows.is_alive.sum())

    def result(self) -> Generated:
        """The answers, cut to the longest."""
        width = _longest(self.lengths)
        mask = torch.arange(width, device=self.device) < self.lengths.unsqueeze(-1)
        return Generated(self.tokens[:, :width], self.logprobs[:, :width], mask.long())


def _answer_limits(prompt_lengths: Tensor, cfg: GenerateConfig) -> Tensor:
    """Tokens that each answer has at most.

    [3, 60, 64], 30 new tokens, context 64 -> [30, 4, 0]
    """
    limits = torch.full_like(prompt_lengths, cfg.max_new_tokens)
    # The last token counts although no step needs its position: rows that are done go on standing there, and judges read it.
    return limits if cfg.context is None else limits.minimum((cfg.context - prompt_lengths).clamp(min=0))


def _longest(lengths: Tensor) -> int:
    return int(lengths.max()) if lengths.numel() else 0


def _new_cache() -> "RowCache":
    from rlhf_trainer.rollout.cache import RowCache  # transformers costs ten seconds: whoever has a model has paid them

    return RowCache()
