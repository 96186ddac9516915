"""From one score an answer to one reward a token: normalise, clip, penalise, then the KL penalty.

The order is rule P20: score, running normalisation, clip, penalty for a missing stop token, KL. The stage calls
`RunningMoments.normalize`, `clip_scores`, `penalize_missing_stop` and `token_rewards` in that order.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from rlhf_trainer.rl import kl
from rlhf_trainer.rl.masks import check_same_shape, in_fp32, masked
from rlhf_trainer.rl.whitening import sum_over_ranks


def token_rewards(scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, kl_coef: float, estimator: str = "k1") -> Tensor:
    """Reward of each response token: KL penalty on all, score on the last (Ziegler et al. 2019, arXiv:1909.08593, eq. 2).

    `scores` is (b,), the rest (b, r). The score is paid once, at the last masked position (the stop token is an action,
    so it may be that one): paid on every token it would reward length. Rows with an empty mask are zeros.

    Raises:
        ValueError: shapes differ, or the estimator is unknown.
    """
    check_same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs, mask=mask)
    check_same_shape(scores=scores, rows=mask[:, 0] if mask.shape[1] else mask.sum(dim=-1))
    penalty = -kl_coef * kl.estimate(masked(logprobs, mask), masked(ref_logprobs, mask), estimator)
    return masked(penalty, mask) + torch.where(last_positions(mask), in_fp32(scores).unsqueeze(-1), 0.0)


def last_positions(mask: Tensor) -> Tensor:
    """True at the last masked position of each row; nowhere in an empty row.

    [[1, 1, 0], [0, 1, 1], [0, 0, 0]] -> [[F, T, F], [F, F, T], [F, F, F]]
    """
    after = mask.bool().flip(-1).cumsum(dim=-1).flip(-1)
    return mask.bool() & (after == 1)


def clip_scores(scores: Tensor, limit: float) -> Tensor:
    """Scores within ±`limit`; 0 switches the clip off (`rewardClip`)."""
    return scores.clamp(-limit, limit) if limit else scores


def penalize_missing_stop(scores: Tensor, has_stop: Tensor, penalty: float) -> Tensor:
    """Scores minus `penalty` where the answer reached the limit without a stop token (rule P8)."""
    return torch.where(has_stop.bool(), scores, scores - penalty)


class RunningMoments:
    """Mean and deviation of all scores seen so far, by all workers: part of the state, so a resume goes on with them.

    Merged by Chan's parallel formula (Chan, Golub, LeVeque 1979), which needs no second pass over earlier scores. The
    sums are fp64: millions of scores lose no digits.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0.0, 0.0, 0.0

    @property
    def deviation(self) -> float:
        """Standard deviation (unbiased); 1 while fewer than two scores were seen, or all were equal."""
        variance = self.squares / (self.count - 1) if self.count > 1 else 0.0
        return float(variance**0.5) if variance > 1e-12 else 1.0

    def update(self, scores: Tensor, group: object | None = None) -> None:
        """Add the scores of all workers. Every worker of `group` (None: all) must call it, and all end with the same state."""
        wide = scores.double()
        totals = sum_over_ranks(torch.stack([wide.new_tensor(float(wide.numel())), wide.sum()]), group)
        count, mean = float(totals[0]), float(totals[1]) / max(float(totals[0]), 1.0)
        squares = float(sum_over_ranks((wide - mean).square().sum(), group))
        if count == 0:
            return
        both, delta = self.count + count, mean - self.mean
        self.squares += squares + delta * delta * self.count * count / both
        self.mean += delta * count / both
        self.count = both

    def normalize(self, scores: Tensor) -> Tensor:
        """Scores in deviations from the running mean, fp32."""
        return (in_fp32(scores) - self.mean) / self.deviation

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from `state()`."""
        self.count, self.mean, self.squares = (float(state[key]) for key in ("count", "mean", "squares"))
