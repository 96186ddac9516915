"""Mutants of the rollout: chunked log-probabilities, generation and sampling. See `mutants.py` for how they are used."""

import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf_trainer.rl import chunks
from rlhf_trainer.rollout import generate as generation
from rlhf_trainer.rollout import logprobs, sampling

# --- chunked heads: check_token_logprobs (rules G9, P5) -------------------------------------------------------------------------


def last_chunk_dropped(hidden, head, ids, temperature=1.0, chunk_tokens=None):
    found = logprobs.token_logprobs(hidden, head, ids, temperature, chunk_tokens)
    num_whole = found.numel() // chunk_tokens * chunk_tokens if chunk_tokens else found.numel()
    return torch.where(torch.arange(found.numel()) < num_whole, found.flatten(), 0.0).view(found.shape)


def temperature_omitted(hidden, head, ids, temperature=1.0, chunk_tokens=None):
    return logprobs.token_logprobs(hidden, head, ids, 1.0, chunk_tokens)


def head_without_gradient(hidden, head, ids, temperature=1.0, chunk_tokens=None):
    weight = head if isinstance(head, Tensor) else head.weight
    return logprobs.token_logprobs(hidden, weight.detach(), ids, temperature, chunk_tokens)


def logits_in_bf16(hidden, head, ids, temperature=1.0, chunk_tokens=None):
    """Softmax in the precision of the model: two digits are left (rule P20)."""
    weight = head if isinstance(head, Tensor) else head.weight

    def of_chunk(logits: Tensor, ids_n: Tensor) -> Tensor:
        return F.log_softmax(logits.bfloat16() / temperature, dim=-1).gather(-1, ids_n[:, None])[:, 0].float()

    return chunks.map_chunks(of_chunk, hidden.flatten(0, -2), ids.flatten(), weight, chunk_tokens).view(ids.shape)


TOKEN_LOGPROBS = [last_chunk_dropped, temperature_omitted, head_without_gradient, logits_in_bf16]

# --- generation: check_greedy, check_sampling, check_stops (rules G1 to G3, P7, P8, P14) ----------------------------------------


class _Wrapped:
    """A model whose arguments are changed on the way in."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, **kwargs):
        return self.model(**self.changed(kwargs))

    def changed(self, kwargs):
        raise AssertionError("a subclass says what is changed")


class _NoPositions(_Wrapped):
    def changed(self, kwargs):
        return kwargs | {"position_ids": None}


class _NoMask(_Wrapped):
    def changed(self, kwargs):
        return kwargs | {"attention_mask": torch.ones_like(kwargs["attention_mask"])}


def no_position_ids(model, *args):
    return generation.generate(_NoPositions(model), *args)


def no_attention_mask(model, *args):
    return generation.generate(_NoMask(model), *args)


def _with_flight(flight_class, *args):
    ours, generation._Flight = generation._Flight, flight_class
    try:
        return generation.generate(*args)
    finally:
        generation._Flight = ours


class _KeepsOldMask(generation._Flight):
    def repack(self):
        old_mask = self.mask
        super().repack()
        if old_mask.ndim == 2 and len(old_mask) >= len(self.mask):  # rows left, and their masks did not
            width = min(old_mask.shape[1], self.mask.shape[1])
            self.mask[:, :width] = old_mask[: len(self.mask), :width]


class _CacheKeepsFirstRows(generation._Flight):
    def repack(self):
        ours = self.cache.repacked
        self.cache.repacked = lambda kept, *args: ours(torch.arange(len(kept)), *args)
        super().repack()


class _OneStreamForAll(generation._Flight):
    """One generator for the batch: what a row draws depends on its neighbours."""

    def _draw(self, rows, logits):
        if self.noise is not None:
            self.noise[rows.ids] = torch.rand(len(rows.ids), self.noise.shape[1], dtype=torch.float64)
        return super()._draw(rows, logits)


class _DropsTheStop(generation._Flight):
    """The stop token ends the answer without being part of it: nobody learns to say it."""

    def result(self):
        found = super().result()
        is_stop = torch.isin(found.tokens, self.stop_ids)
        return generation.Generated(found.tokens, found.logprobs, found.mask * ~is_stop)


class _OneStopOnly(generation._Flight):
    def __init__(self, *args):
        super().__init__(*args)
        self.stop_ids = self.stop_ids[:1]


class _LogprobsAtTemperatureOne(generation._Flight):
    def _draw(self, rows, logits):
        drawn = super()._draw(rows, logits)
        plain = logits.float().log_softmax(-1).gather(-1, drawn.tokens[:, None])[:, 0]
        column = torch.where(rows.is_alive, drawn.positions - self.prompt_lengths[rows.ids], self.cfg.max_new_tokens)
        self.logprobs[rows.ids, column] = plain
        return drawn


def compaction_keeps_old_mask(*args):
    return _with_flight(_KeepsOldMask, *args)


def compaction_keeps_first_rows(*args):
    return _with_flight(_CacheKeepsFirstRows, *args)


def one_stream_for_all(*args):
    return _with_flight(_OneStreamForAll, *args)


def drops_the_stop(*args):
    return _with_flight(_DropsTheStop, *args)


def one_stop_only(*args):
    return _with_flight(_OneStopOnly, *args)


def logprobs_at_temperature_one(*args):
    return _with_flight(_LogprobsAtTemperatureOne, *args)


GREEDY = [no_position_ids, no_attention_mask, compaction_keeps_old_mask, compaction_keeps_first_rows]
SEEDS = [one_stream_for_all]
STOPS = [drops_the_stop, one_stop_only]
SAMPLED_LOGPROBS = [logprobs_at_temperature_one, no_position_ids]


def choose_off_by_one(logits, uniforms, cfg):
    """searchsorted from the wrong side, and one entry late."""
    tokens, lp = sampling.choose(logits, uniforms, cfg)
    return (tokens + 1).clamp(max=logits.shape[-1] - 1), lp


def choose_without_temperature(logits, uniforms, cfg):
    return sampling.choose(logits * cfg.temperature, uniforms, cfg)


def choose_without_top_p(logits, uniforms, cfg):
    probs = torch.softmax(sampling.truncate(logits.float() / cfg.temperature, cfg.top_k, 1.0), dim=-1)
    tokens = sampling.invert(probs, uniforms)
    return tokens[:, 0], probs.gather(-1, tokens)[:, 0].log()


def choose_logprobs_before_truncation(logits, uniforms, cfg):
    tokens, _ = sampling.choose(logits, uniforms, cfg)
    return tokens, (logits / cfg.temperature).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]


CHOOSE = [choose_off_by_one, choose_without_temperature, choose_without_top_p, choose_logprobs_before_truncation]
