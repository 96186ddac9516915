"""The losses of all training stages. Each divides by the *global* count, so micro-batches and workers only add up.

A mean for each micro-batch would give tokens in short micro-batches more weight (rule F1).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf_trainer.rl import masks
from rlhf_trainer.rl.chunks import Head, map_chunks
from rlhf_trainer.rl.masks import check_same_shape, in_fp32, masked

Stats = dict[str, Tensor]
"""Detached scalars for the metrics, over the tokens of these tensors (not the global minibatch)."""

IGNORED = -100
"""Label of a position that carries no loss, as in transformers."""

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this on both sides: exp(20) is far beyond any clip, and finite."""


def policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    aggregate: str = "token",
    num_global: int | Tensor | None = None,
) -> tuple[Tensor, Stats]:
    """PPO's clipped surrogate, negated (Schulman et al. 2017, arXiv:1707.06347, eq. 7). Scalar.

    Tensors are (b, r); log-probabilities are natural logs at the sampling temperature; `mask` is 1 on response tokens, stop
    token included. The ratio is clipped to [1 - clip_low, 1 + clip_high].

    Args:
        dual_clip: where the advantage is negative, the surrogate is at least `dual_clip` x advantage (Ye et al. 2020,
            arXiv:1912.09729, eq. 5); above 1. None or 0: off.
        aggregate: `token` or `sequence`, see `masks.mean`.
        num_global: tokens (rows) of the global minibatch; None: of these tensors.

    Returns:
        The loss, and `ratio_mean`, `ratio_max`, `clipfrac` (share of tokens whose clipped term was taken), `approx_kl`
        (k3 of old to new policy).

    Raises:
        ValueError: shapes differ, or `dual_clip` is at most 1.
    """
    check_same_shape(logp=logp, old_logp=old_logp, advantages=advantages, mask=mask)
    if dual_clip and dual_clip <= 1:
        raise ValueError(f"dual_clip: {dual_clip!r} must be above 1, or None for off")
    advantages = masked(advantages, mask)
    log_ratio = (masked(logp, mask) - masked(old_logp, mask)).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    free, clipped = ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    surrogate = torch.minimum(free, clipped)
    if dual_clip:
        surrogate = torch.where(advantages < 0, torch.maximum(surrogate, dual_clip * advantages), surrogate)
    stats = _policy_stats(log_ratio.detach(), clipped.detach() < free.detach(), mask)
    return -masks.mean(surrogate, mask, aggregate, num_global), stats


def _policy_stats(log_ratio: Tensor, is_clipped: Tensor, mask: Tensor) -> Stats:
    ratio = log_ratio.exp()
    return {
        "ratio_mean": masks.mean(ratio, mask, "token", None),
        "ratio_max": masked(ratio, mask).max() if mask.numel() else ratio.sum(),
        "clipfrac": masks.mean(is_clipped, mask, "token", None),
        "approx_kl": masks.mean(torch.expm1(log_ratio) - log_ratio, mask, "token", None),
    }


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip: float,
    aggregate: str = "token",
    num_global: int | Tensor | None = None,
) -> tuple[Tensor, Stats]:
    """Half the larger of the clipped and the free squared error (PPO2 of OpenAI Baselines; Huang et al. 2022, detail 9). Scalar.

    The clipped value stays within ±`clip` of the value at rollout, so the critic cannot leave it in one update; 0 switches
    the clip off. `clipfrac` is the share of tokens whose clipped error was the larger one: they give no gradient.

    Raises:
        ValueError: shapes differ.
    """
    check_same_shape(values=values, old_values=old_values, returns=returns, mask=mask)
    values, old_values, returns = masked(values, mask), masked(old_values, mask), masked(returns, mask)
    free = (values - returns).square()
    kept = old_values + (values - old_values).clamp(-clip, clip) if clip else values
    clipped = (kept - returns).square()
    stats = {"clipfrac": masks.mean(clipped.detach() > free.detach(), mask, "token", None)}
    return 0.5 * masks.mean(torch.maximum(free, clipped), mask, aggregate, num_global), stats


def lm_loss(
    logits_or_hidden: Tensor, labels: Tensor, num_tokens: int | Tensor, head: Head | Tensor | None = None, chunk_tokens: int | None = None
) -> Tensor:
    """Next-token cross-entropy, summed, divided by the labelled tokens of the global batch (rule F1). Scalar, fp32.

    `labels` (b, t) stand at the position of their token, -100 where there is no loss; the shift by one happens here, as in
    transformers. So the label of a first token is never used. Without `head` the first argument is logits (b, t, v), with
    `head` it is hidden states (b, t, h) and logits exist for `chunk_tokens` labelled positions at a time (rule G9).

    Raises:
        ValueError: labels and logits differ in (b, t), or `chunk_tokens` is below 1.
    """
    check_same_shape(labels=labels, positions=logits_or_hidden[..., 0])
    targets = labels[:, 1:]
    is_labelled = targets != IGNORED
    # only labelled positions enter the softmax: prompts and padding cost nothing
    kept, targets = logits_or_hidden[:, :-1][is_labelled], targets[is_labelled]
    if head is None:
        total = _cross_entropy(in_fp32(kept), targets).sum()
    else:
        total = map_chunks(_cross_entropy, kept, targets, head, chunk_tokens).sum()
    return total / (num_tokens.clamp(min=1) if isinstance(num_tokens, Tensor) else max(num_tokens, 1))


def _cross_entropy(logits_nv: Tensor, targets_n: Tensor) -> Tensor:
    return F.cross_entropy(logits_nv, targets_n, reduction="none")


def pairwise_loss(
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor | float | None = None,
    center_coef: float = 0.0,
    *,
    num_global: int | Tensor | None = None,
) -> Tensor:
    """-log sigmoid(chosen - rejected - margin), mean over pairs (Bradley-Terry; Ouyang et al. 2022, arXiv:2203.02155, eq. 1).

    Scores are (b,). `center_coef` x mean((chosen + rejected)²) pulls scores towards 0 (Eisenstein et al. 2023,
    arXiv:2312.09244). `margin` is Touvron et al. 2023's (arXiv:2307.09288, eq. 2). `num_global`: pairs of the global batch
    when it is spread over micro-batches; None: these pairs.

    Raises:
        ValueError: shapes differ.
    """
    margins = {"margin": margin} if isinstance(margin, Tensor) and margin.dim() else {}
    check_same_shape(chosen=chosen, rejected=rejected, **margins)
    chosen, rejected = in_fp32(chosen), in_fp32(rejected)
    # logsigmoid, never log(1 + exp(-x)): that overflows at a difference of 89
    per_pair = -F.logsigmoid(chosen - rejected - (0.0 if margin is None else margin))
    if center_coef:
        per_pair = per_pair + center_coef * (chosen + rejected).square()
    count = per_pair.numel() if num_global is None else num_global
    return per_pair.sum() / (count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1))
