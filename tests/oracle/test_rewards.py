"""Rules P1, P12, P20 (check A6): where the score and the KL penalty land.

Oracle: the loop below, which is Ziegler et al. 2019 (arXiv:1909.08593), eq. 2, read aloud: R = r(x, y) - beta * log(pi(y|x) / rho(y|x)), the
logarithm split into its tokens, r paid when the answer ends.
"""

import math

import pytest
import torch

from rlhf_trainer.rl import rewards
from tests.oracle import mutants
from tests.oracle.support import a_mask, close, must_fail, names, noise, with_garbage


def straight_line(scores, lp, ref, mask, coef, estimator):
    out = [[0.0] * mask.shape[1] for _ in mask]
    for b, row in enumerate(mask.tolist()):
        actions = [i for i, flag in enumerate(row) if flag]
        for i in actions:
            x = float(lp[b, i]) - float(ref[b, i])
            out[b][i] = -coef * {"k1": x, "k2": x * x / 2, "k3": math.exp(-x) - 1 + x}[estimator]
        if actions:
            out[b][actions[-1]] += float(scores[b])
    return torch.tensor(out, dtype=torch.float64)


def check_token_rewards(token_rewards):
    for seed in range(6):
        mask, scores = a_mask(seed=seed), noise(5, seed=seed) + 2
        lp, ref = noise(5, 7, seed=seed + 50), noise(5, 7, seed=seed + 99)
        for estimator in ("k1", "k2", "k3"):
            found = token_rewards(scores, lp, ref, mask, 0.3, estimator)
            close(found, straight_line(scores, lp, ref, mask, 0.3, estimator), 1e-5)


@pytest.mark.rule("P1", "P12", source="Ziegler et al. 2019, arXiv:1909.08593, eq. 2")
def test_token_rewards():
    check_token_rewards(rewards.token_rewards)


@pytest.mark.parametrize(**names(mutants.TOKEN_REWARDS))
@pytest.mark.mutant("P1", "P12")
def test_the_check_catches(mutant):
    must_fail(check_token_rewards, mutant)


def test_garbage_in_padding_changes_nothing():
    mask, lp, ref, scores = a_mask(), noise(5, 7), noise(5, 7, seed=1), noise(5)
    clean = rewards.token_rewards(scores, lp, ref, mask, 0.1)
    assert torch.equal(clean, rewards.token_rewards(scores, with_garbage(lp, mask), with_garbage(ref, mask), mask, 0.1))


def test_a_kl_of_zero_leaves_the_score_alone():
    mask, lp = a_mask(), noise(5, 7)
    found = rewards.token_rewards(torch.ones(5), lp, lp, mask, 10.0)
    assert found.sum(dim=1).tolist() == mask.any(dim=1).float().tolist()
