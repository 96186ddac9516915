"""The bugs that peers shipped, as functions with the signatures of ours: each must make the check of its name fail.

A check takes an implementation and raises AssertionError when it is wrong. `test_*.py` runs it on ours, which must pass, and on
every mutant in the list of the same name here, which must not. A check that no mutant can fail proves nothing.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf_trainer.data import collate
from rlhf_trainer.rl import advantages, chunks, kl, losses, rewards, whitening
from rlhf_trainer.rl.masks import masked
from rlhf_trainer.rollout import generate as generation
from rlhf_trainer.rollout import logprobs, sampling

# --- rewards: check_token_rewards (rules P1, P12) -------------------------------------------------------------------------------


def score_on_every_token(scores, lp, ref, mask, coef, estimator="k1"):
    """ColossalChat's: the score is broadcast over the answer, so long answers are paid more."""
    return rewards.token_rewards(torch.zeros_like(scores), lp, ref, mask, coef, estimator) + masked(scores[:, None].expand_as(lp), mask)


def score_on_the_pad_after_the_stop(scores, lp, ref, mask, coef, estimator="k1"):
    """Off by one: the stop token is taken for padding, or padding for the stop token."""
    paid = rewards.last_positions(mask).roll(1, dims=-1)
    return rewards.token_rewards(torch.zeros_like(scores), lp, ref, mask, coef, estimator) + torch.where(paid, scores[:, None], 0.0)


def score_in_the_last_column(scores, lp, ref, mask, coef, estimator="k1"):
    out = rewards.token_rewards(torch.zeros_like(scores), lp, ref, mask, coef, estimator)
    out[:, -1] += scores
    return out


def score_in_column_length(scores, lp, ref, mask, coef, estimator="k1"):
    """The last position is taken from the number of masked tokens: wrong as soon as the mask has a hole or starts late."""
    out = rewards.token_rewards(torch.zeros_like(scores), lp, ref, mask, coef, estimator)
    column = (mask.sum(-1) - 1).clamp(min=0)
    out[torch.arange(len(scores)), column] += torch.where(mask.sum(-1) > 0, scores, 0.0)
    return out


def kl_sign_flipped(scores, lp, ref, mask, coef, estimator="k1"):
    return rewards.token_rewards(scores, lp, ref, mask, -coef, estimator)


def kl_on_padding(scores, lp, ref, mask, coef, estimator="k1"):
    penalty = -coef * kl.estimate(lp, ref, estimator)
    return torch.where(mask.bool(), rewards.token_rewards(scores, lp, ref, mask, coef, estimator), penalty)


TOKEN_REWARDS = [
    score_on_every_token,
    score_on_the_pad_after_the_stop,
    score_in_the_last_column,
    score_in_column_length,
    kl_sign_flipped,
    kl_on_padding,
]

# --- advantages: check_gae (rule P3) --------------------------------------------------------------------------------------------


def gae_unmasked(r, v, mask, gamma, lam):
    """Padding is treated as actions, and only the result is masked."""
    adv, ret = advantages.gae(r, v, torch.ones_like(mask), gamma, lam)
    return masked(adv, mask), masked(ret, mask)


def gae_bootstraps_from_a_pad(r, v, mask, gamma, lam):
    """The value after the last action is read from the padding behind it."""
    r, last = masked(r, mask), rewards.last_positions(mask)
    beyond = torch.cat([v[:, 1:], torch.zeros_like(v[:, :1])], dim=1)
    return advantages.gae(torch.where(last, r + gamma * beyond, r), v, mask, gamma, lam)


def gae_reset_by_pads(r, v, mask, gamma, lam):
    """Multiplying by the mask stops the recursion at a hole."""
    r, v, m = masked(r, mask), masked(v, mask), mask.float()
    adv, last = torch.zeros_like(v), torch.zeros(len(v))
    for i in reversed(range(v.shape[1])):
        following = v[:, i + 1] if i + 1 < v.shape[1] else 0.0
        last = (r[:, i] + gamma * following - v[:, i] + gamma * lam * last) * m[:, i]
        adv[:, i] = last
    return adv, masked(adv + v, mask)


def gae_without_lambda(r, v, mask, gamma, lam):
    return advantages.gae(r, v, mask, gamma, 1.0)


def gae_without_gamma(r, v, mask, gamma, lam):
    return advantages.gae(r, v, mask, 1.0, lam)


def gae_values_shifted(r, v, mask, gamma, lam):
    """Values are read one step late: the critic has seen the action that it judges (rule P2)."""
    return advantages.gae(r, v.roll(-1, dims=-1), mask, gamma, lam)


def gae_returns_without_values(r, v, mask, gamma, lam):
    adv, _ = advantages.gae(r, v, mask, gamma, lam)
    return adv, adv


GAE = [
    gae_unmasked,
    gae_bootstraps_from_a_pad,
    gae_reset_by_pads,
    gae_without_lambda,
    gae_without_gamma,
    gae_values_shifted,
    gae_returns_without_values,
]

# --- whitening: check_whiten (rule P4) ------------------------------------------------------------------------------------------


def whiten_adds_mean_back(x, mask, shift_mean=True, group=None):
    return whitening.whiten(x, mask, shift_mean=False, group=group)


def whiten_biased(x, mask, shift_mean=True, group=None):
    n = mask.sum()
    return whitening.whiten(x, mask, shift_mean, group) * (n / (n - 1)) ** 0.5


def whiten_over_padding(x, mask, shift_mean=True, group=None):
    white = (x - x.mean()) * torch.rsqrt(x.var() + 1e-8)
    return masked(white if shift_mean else white + x.mean(), mask)


def whiten_each_row(x, mask, shift_mean=True, group=None):
    return torch.cat([whitening.whiten(a[None], b[None], shift_mean, group) for a, b in zip(x, mask, strict=True)])


def whiten_leaves_padding(x, mask, shift_mean=True, group=None):
    return torch.where(mask.bool(), whitening.whiten(x, mask, shift_mean, group), x)


WHITEN = [whiten_adds_mean_back, whiten_biased, whiten_over_padding, whiten_each_row, whiten_leaves_padding]

# --- losses: check_policy_loss, check_value_loss (rule P11) ---------------------------------------------------------------------


def policy_one_sided_clip(lp, old, adv, mask, low, high, dual_clip=None, aggregate="token", num_global=None):
    return losses.policy_loss(lp, old, adv, mask, 1e9, high, dual_clip, aggregate, num_global)


def policy_clips_swapped(lp, old, adv, mask, low, high, dual_clip=None, aggregate="token", num_global=None):
    return losses.policy_loss(lp, old, adv, mask, high, low, dual_clip, aggregate, num_global)


def policy_mean_over_padding(lp, old, adv, mask, low, high, dual_clip=None, aggregate="token", num_global=None):
    return losses.policy_loss(lp, old, adv, mask, low, high, dual_clip, aggregate, mask.numel() if aggregate == "token" else len(mask))


def policy_mean_of_means(lp, old, adv, mask, low, high, dual_clip=None, aggregate="token", num_global=None):
    return losses.policy_loss(lp, old, adv, mask, low, high, dual_clip, "sequence", num_global)


def policy_without_clip(lp, old, adv, mask, low, high, dual_clip=None, aggregate="token", num_global=None):
    return losses.policy_loss(lp, old, adv, mask, 1e9, 1e9, dual_clip, aggregate, num_global)


def policy_maximised(lp, old, adv, mask, low, high, dual_clip=None, aggregate="token", num_global=None):
    loss, stats = losses.policy_loss(lp, old, adv, mask, low, high, dual_clip, aggregate, num_global)
    return -loss, stats


def policy_dual_clip_everywhere(lp, old, adv, mask, low, high, dual_clip=None, aggregate="token", num_global=None):
    """The bound of dual clip is put on positive advantages too."""
    ratio = masked(lp - old, mask).clamp(-20, 20).exp()
    surrogate = torch.minimum(ratio * adv, ratio.clamp(1 - low, 1 + high) * adv)
    surrogate = torch.maximum(surrogate, dual_clip * adv) if dual_clip else surrogate
    _, stats = losses.policy_loss(lp, old, adv, mask, low, high, dual_clip, aggregate, num_global)
    from rlhf_trainer.rl import masks

    return -masks.mean(surrogate, mask, aggregate, num_global), stats


def policy_local_count(lp, old, adv, mask, low, high, dual_clip=None, aggregate="token", num_global=None):
    return losses.policy_loss(lp, old, adv, mask, low, high, dual_clip, aggregate, None)


POLICY_LOSS = [
    policy_one_sided_clip,
    policy_clips_swapped,
    policy_mean_over_padding,
    policy_mean_of_means,
    policy_without_clip,
    policy_maximised,
    policy_dual_clip_everywhere,
    policy_local_count,
]


def value_smaller_error(v, old, ret, mask, clip, aggregate="token", num_global=None):
    """min for max: the clip then *removes* the penalty it should keep."""
    kept = old + (v - old).clamp(-clip, clip) if clip else v
    error = torch.minimum(masked(v - ret, mask).square(), masked(kept - ret, mask).square())
    _, stats = losses.value_loss(v, old, ret, mask, clip, aggregate, num_global)
    from rlhf_trainer.rl import masks

    return 0.5 * masks.mean(error, mask, aggregate, num_global), stats


def value_without_half(v, old, ret, mask, clip, aggregate="token", num_global=None):
    loss, stats = losses.value_loss(v, old, ret, mask, clip, aggregate, num_global)
    return 2 * loss, stats


def value_without_clip(v, old, ret, mask, clip, aggregate="token", num_global=None):
    return losses.value_loss(v, old, ret, mask, 0, aggregate, num_global)


def value_clip_zero_freezes(v, old, ret, mask, clip, aggregate="token", num_global=None):
    """clip 0 read as "stay within ±0" instead of "off"."""
    return losses.value_loss(v, old, ret, mask, clip or 1e-30, aggregate, num_global)


def value_mean_over_padding(v, old, ret, mask, clip, aggregate="token", num_global=None):
    return losses.value_loss(v, old, ret, mask, clip, aggregate, mask.numel())


VALUE_LOSS = [value_smaller_error, value_without_half, value_without_clip, value_clip_zero_freezes, value_mean_over_padding]

# --- losses: check_lm_loss (rule F1), check_pairwise_loss (rule R3) -------------------------------------------------------------


def lm_mean_of_means(logits, labels, num_tokens, head=None, chunk_tokens=None):
    count = (labels[:, 1:] != losses.IGNORED).sum()
    return losses.lm_loss(logits, labels, count, head, chunk_tokens)


def lm_without_division(logits, labels, num_tokens, head=None, chunk_tokens=None):
    return losses.lm_loss(logits, labels, 1, head, chunk_tokens)


def lm_without_shift(logits, labels, num_tokens, head=None, chunk_tokens=None):
    return losses.lm_loss(logits, labels.roll(1, dims=-1), num_tokens, head, chunk_tokens)


def lm_counts_ignored(logits, labels, num_tokens, head=None, chunk_tokens=None):
    return losses.lm_loss(logits, labels.clamp(min=0), num_tokens, head, chunk_tokens)


LM_LOSS = [lm_mean_of_means, lm_without_division, lm_without_shift, lm_counts_ignored]


def pairwise_log_one_plus_exp(chosen, rejected, margin=None, center_coef=0.0):
    """Right on paper; infinite, and NaN in the backward pass, at a difference of -89."""
    difference = chosen - rejected - (0.0 if margin is None else margin)
    return (torch.log(1 + torch.exp(-difference)) + center_coef * (chosen + rejected).square()).mean()


def pairwise_swapped(chosen, rejected, margin=None, center_coef=0.0):
    return losses.pairwise_loss(rejected, chosen, margin, center_coef)


def pairwise_margin_added(chosen, rejected, margin=None, center_coef=0.0):
    return losses.pairwise_loss(chosen, rejected, None if margin is None else -margin, center_coef)


def pairwise_centers_the_difference(chosen, rejected, margin=None, center_coef=0.0):
    return losses.pairwise_loss(chosen, rejected, margin, 0.0) + center_coef * (chosen - rejected).square().mean()


PAIRWISE_LOSS = [pairwise_log_one_plus_exp, pairwise_swapped, pairwise_margin_added, pairwise_centers_the_difference]

# --- KL: check_estimate, check_adaptive_kl (rules P12, P13) ---------------------------------------------------------------------


def estimate_sign_flipped(lp, ref, kind):
    return kl.estimate(ref, lp, kind)


def estimate_k3_of_the_other_ratio(lp, ref, kind):
    """exp(x) - 1 - x: the reverse KL's estimator."""
    return kl.estimate(ref, lp, kind) if kind == "k3" else kl.estimate(lp, ref, kind)


def estimate_k2_without_half(lp, ref, kind):
    return kl.estimate(lp, ref, kind) * (2 if kind == "k2" else 1)


ESTIMATE = [estimate_sign_flipped, estimate_k3_of_the_other_ratio, estimate_k2_without_half]


class AdaptiveKLWithoutClip(kl.AdaptiveKL):
    def update(self, value: float, num_samples: int) -> float:
        self.coef *= 1 + (value / self.target - 1) * num_samples / self.horizon
        return self.coef


class AdaptiveKLNotSaved(kl.AdaptiveKL):
    def restore(self, state) -> None:
        """A resume starts again at the first coefficient."""


class AdaptiveKLSignFlipped(kl.AdaptiveKL):
    def update(self, value: float, num_samples: int) -> float:
        return super().update(2 * self.target - value, num_samples)


class AdaptiveKLPerUpdate(kl.AdaptiveKL):
    def update(self, value: float, num_samples: int) -> float:
        return super().update(value, 1)


ADAPTIVE_KL = [AdaptiveKLWithoutClip, AdaptiveKLNotSaved, AdaptiveKLSignFlipped, AdaptiveKLPerUpdate]

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
