"""The bugs that peers shipped, as functions with the signatures of ours: each must make the check of its name fail.

A check takes an implementation and raises AssertionError when it is wrong. `test_*.py` runs it on ours, which must pass, and on
every mutant in the list of the same name here, which must not. A check that no mutant can fail proves nothing. Here: the functions of
`rlhf_trainer.rl`. `mutants_of_rollout.py`: generation and chunked heads. `mutants_of_data.py`: packing.
"""

import torch

from rlhf_trainer.rl import advantages, kl, losses, masks, rewards, whitening
from rlhf_trainer.rl.masks import masked

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
