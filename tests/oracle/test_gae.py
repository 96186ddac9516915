"""Rule P3 (check A7): advantages over a mask. Sources: Schulman et al. 2016 (arXiv:1506.02438).

Two formulations that share nothing with the recursion under test: the sum of eq. 14 (exponentially weighted residuals), and the
lambda-return of Sutton & Barto 2018, eq. 12.2, of which the advantage is the difference to the value. Both first cut every row down to
its actions, so padding cannot take part.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.rl.advantages import gae
from tests.oracle import mutants
from tests.oracle.support import a_mask, close, must_fail, names, noise, with_garbage


def by_residuals(r: list[float], v: list[float], gamma: float, lam: float) -> list[float]:
    n, following = len(r), [*v[1:], 0.0]
    residuals = [r[t] + gamma * following[t] - v[t] for t in range(n)]
    return [math.fsum((gamma * lam) ** (k - t) * residuals[k] for k in range(t, n)) for t in range(n)]


def by_lambda_returns(r: list[float], v: list[float], gamma: float, lam: float) -> list[float]:
    n, following = len(r), [*v[1:], 0.0]

    def n_step(t: int, k: int) -> float:
        """Rewards of k steps, then the value of where they lead."""
        return math.fsum(gamma**i * r[t + i] for i in range(k)) + gamma**k * following[t + k - 1]

    found = []
    for t in range(n):
        left = n - t
        mixed = math.fsum((1 - lam) * lam ** (k - 1) * n_step(t, k) for k in range(1, left)) + lam ** (left - 1) * n_step(t, left)
        found.append(mixed - v[t])
    return found


def on_actions(formulation, rewards, values, mask, gamma, lam):
    """A formulation for plain lists, applied to the actions of every row."""
    advantages = torch.zeros(mask.shape, dtype=torch.float64)
    for b in range(len(mask)):
        actions = mask[b].bool()
        found = formulation(rewards[b][actions].double().tolist(), values[b][actions].double().tolist(), gamma, lam)
        advantages[b][actions] = torch.tensor(found, dtype=torch.float64)
    return advantages


def check_gae(implementation):
    for seed in range(4):
        mask, r, v = a_mask(seed=seed), noise(5, 7, seed=seed), noise(5, 7, seed=seed + 9)
        for gamma, lam in ((0.9, 0.8), (1.0, 0.95), (0.7, 0.0), (0.99, 1.0)):
            advantages, returns = implementation(r, v, mask, gamma, lam)
            for formulation in (by_residuals, by_lambda_returns):
                wanted = on_actions(formulation, r, v, mask, gamma, lam)
                close(advantages, wanted, 1e-5)
                close(returns, torch.where(mask.bool(), wanted + v, 0.0), 1e-5)


@pytest.mark.rule("P3", source="Schulman et al. 2016, arXiv:1506.02438, eq. 14 and 16; Sutton & Barto 2018, eq. 12.2")
def test_gae():
    check_gae(gae)


@pytest.mark.parametrize(**names(mutants.GAE))
@pytest.mark.mutant("P3")
def test_the_check_catches(mutant):
    must_fail(check_gae, mutant)


numbers = st.floats(-100, 100, width=32)


@st.composite
def padded_rows(draw):
    r = draw(st.integers(1, 9))
    b = draw(st.integers(1, 3))
    row = st.lists(numbers, min_size=r, max_size=r)
    rewards, values = (torch.tensor([draw(row) for _ in range(b)]) for _ in range(2))
    mask = torch.tensor([draw(st.lists(st.integers(0, 1), min_size=r, max_size=r)) for _ in range(b)])
    return rewards, values, mask, draw(st.floats(0.01, 1.0)), draw(st.floats(0.0, 1.0))


@given(padded_rows())
@pytest.mark.rule("P3")
def test_any_row_equals_the_sum_over_its_actions_and_garbage_in_pads_changes_nothing(case):
    r, v, mask, gamma, lam = case
    advantages, returns = gae(r, v, mask, gamma, lam)
    wanted = on_actions(by_residuals, r, v, mask, gamma, lam)
    torch.testing.assert_close(advantages.double(), wanted, rtol=1e-4, atol=1e-2)
    dirty_advantages, dirty_returns = gae(with_garbage(r, mask), with_garbage(v, mask), mask, gamma, lam)
    assert torch.equal(advantages, dirty_advantages)
    assert torch.equal(returns, dirty_returns)
    assert torch.equal(advantages[mask == 0], torch.zeros(int((mask == 0).sum())))


@given(padded_rows(), st.integers(0, 4), st.integers(0, 4))
@pytest.mark.rule("P3")
def test_more_padding_on_either_side_changes_nothing(case, left, right):
    r, v, mask, gamma, lam = case
    widen = [torch.nn.functional.pad(x, (left, right)) for x in (r, v, mask)]
    assert torch.equal(gae(*widen, gamma, lam)[0][:, left : left + r.shape[1]], gae(r, v, mask, gamma, lam)[0])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shapes"):
        gae(torch.zeros(2, 3), torch.zeros(3, 2), torch.ones(2, 3), 1.0, 1.0)
