"""Rules F1, R3, P11 (checks A1, A4, A8): every loss against its formula written with Python floats, and its gradient.

Sources: Schulman et al. 2017 (arXiv:1707.06347), eq. 7; Ye et al. 2020 (arXiv:1912.09729), eq. 5 (dual clip); Huang et al. 2022, "The 37
implementation details of PPO", detail 9 (value clip); Ouyang et al. 2022 (arXiv:2203.02155), eq. 1. Gradients: the same formula in fp64
under autograd, or central differences where the oracle is made of Python numbers.
"""

import math

import pytest
import torch

from rlhf_trainer.rl import losses
from tests.oracle import mutants
from tests.oracle.support import a_mask, close, must_fail, names, noise, with_garbage


def averaged(table: list[list[float]], mask: list[list[int]], aggregate: str, num_global: int | None) -> float:
    rows = [[x for x, flag in zip(xs, flags, strict=True) if flag] for xs, flags in zip(table, mask, strict=True)]
    rows = [row for row in rows if row]
    if aggregate == "token":
        return math.fsum(x for row in rows for x in row) / (num_global or sum(map(len, rows)))
    return math.fsum(math.fsum(row) / len(row) for row in rows) / (num_global or len(rows))


def policy_by_hand(lp, old, adv, mask, low, high, dual, aggregate, num_global):
    def token(new: float, before: float, a: float) -> float:
        ratio = math.exp(max(-20.0, min(20.0, new - before)))
        surrogate = min(ratio * a, max(1 - low, min(1 + high, ratio)) * a)
        return -(max(surrogate, dual * a) if dual and a < 0 else surrogate)

    table = [[token(*cell) for cell in zip(*row, strict=True)] for row in zip(lp.tolist(), old.tolist(), adv.tolist(), strict=True)]
    return averaged(table, mask.tolist(), aggregate, num_global)


def value_by_hand(v, old, ret, mask, clip, aggregate, num_global):
    def token(new: float, before: float, target: float) -> float:
        kept = before + max(-clip, min(clip, new - before)) if clip else new
        return max((new - target) ** 2, (kept - target) ** 2) / 2

    table = [[token(*cell) for cell in zip(*row, strict=True)] for row in zip(v.tolist(), old.tolist(), ret.tolist(), strict=True)]
    return averaged(table, mask.tolist(), aggregate, num_global)


def slope(function, x, i, j, step=1e-5):
    """Central difference in fp64."""
    up, down = x.double().clone(), x.double().clone()
    up[i, j] += step
    down[i, j] -= step
    return (function(up) - function(down)) / (2 * step)


CASES = [(aggregate, num_global) for aggregate in ("token", "sequence") for num_global in (None, 37)]


def check_policy_loss(policy_loss):
    mask, adv, old = a_mask(), noise(5, 7, seed=1), noise(5, 7, seed=2) - 3
    for aggregate, num_global in CASES:
        for dual in (None, 3.0):
            lp = (old + noise(5, 7, seed=3, scale=1.5)).requires_grad_()
            loss, _ = policy_loss(lp, old, adv, mask, 0.2, 0.3, dual, aggregate, num_global)
            arguments = (old, adv, mask, 0.2, 0.3, dual, aggregate, num_global)
            close(loss, policy_by_hand(lp, *arguments), 1e-5)
            loss.backward()
            for i, j in ((0, 0), (0, 4), (2, 2), (2, 3), (3, 1), (4, 5)):
                close(lp.grad[i, j], slope(lambda x, arguments=arguments: policy_by_hand(x, *arguments), lp.detach(), i, j), 1e-4)


def check_value_loss(value_loss):
    mask, old, ret = a_mask(), noise(5, 7, seed=2), noise(5, 7, seed=1)
    for aggregate, num_global in CASES:
        for clip in (0.0, 0.2, 0.9):
            v = (old + noise(5, 7, seed=3)).requires_grad_()
            loss, _ = value_loss(v, old, ret, mask, clip, aggregate, num_global)
            arguments = (old, ret, mask, clip, aggregate, num_global)
            close(loss, value_by_hand(v, *arguments), 1e-5)
            loss.backward()
            for i, j in ((0, 0), (0, 4), (2, 2), (2, 3), (3, 1), (4, 5)):
                close(v.grad[i, j], slope(lambda x, arguments=arguments: value_by_hand(x, *arguments), v.detach(), i, j), 1e-4)


def check_pairwise_loss(pairwise_loss):
    chosen, rejected, margin = noise(6), noise(6, seed=1), noise(6, seed=2).abs()
    for m in (None, margin):
        for coef in (0.0, 0.1):
            pairs = zip(chosen.tolist(), rejected.tolist(), [0.0] * 6 if m is None else m.tolist(), strict=True)
            wanted = math.fsum(math.log1p(math.exp(-(c - r - x))) + coef * (c + r) ** 2 for c, r, x in pairs) / 6
            close(pairwise_loss(chosen, rejected, m, coef), wanted, 1e-6)
    extreme = torch.tensor([200.0, -200.0], requires_grad=True)
    loss = pairwise_loss(extreme, torch.zeros(2))
    loss.backward()
    close(loss, 100.0)
    close(extreme.grad, torch.tensor([0.0, -0.5]))


@pytest.mark.rule("P11", source="Schulman et al. 2017, arXiv:1707.06347, eq. 7; Ye et al. 2020, arXiv:1912.09729, eq. 5")
def test_policy_loss():
    check_policy_loss(losses.policy_loss)


@pytest.mark.parametrize(**names(mutants.POLICY_LOSS))
@pytest.mark.mutant("P11")
def test_the_policy_check_catches(mutant):
    must_fail(check_policy_loss, mutant)


@pytest.mark.rule("P11", source="Huang et al. 2022, The 37 implementation details of PPO, detail 9")
def test_value_loss():
    check_value_loss(losses.value_loss)


@pytest.mark.parametrize(**names(mutants.VALUE_LOSS))
@pytest.mark.mutant("P11")
def test_the_value_check_catches(mutant):
    must_fail(check_value_loss, mutant)


@pytest.mark.rule("R3", source="Ouyang et al. 2022, arXiv:2203.02155, eq. 1")
def test_pairwise_loss():
    check_pairwise_loss(losses.pairwise_loss)


@pytest.mark.parametrize(**names(mutants.PAIRWISE_LOSS))
@pytest.mark.mutant("R3")
def test_the_pairwise_check_catches(mutant):
    must_fail(check_pairwise_loss, mutant)


@pytest.mark.parametrize("aggregate", ["token", "sequence"])
def test_garbage_in_padding_reaches_neither_loss_nor_gradient(aggregate):
    mask = a_mask()
    old, adv = noise(5, 7, seed=1), noise(5, 7, seed=2)

    def outcome(dirty):
        lp = dirty(old + noise(5, 7, scale=0.5)).requires_grad_()
        policy, _ = losses.policy_loss(lp, dirty(old), dirty(adv), mask, 0.2, 0.2, 2.0, aggregate)
        value, _ = losses.value_loss(lp, dirty(old), dirty(adv), mask, 0.2, aggregate)
        (policy + value).backward()
        return policy, value, lp.grad

    for clean, dirty in zip(outcome(lambda x: x.clone()), outcome(lambda x: with_garbage(x, mask)), strict=True):
        assert torch.equal(clean, dirty)


@pytest.mark.parametrize("aggregate", ["token", "sequence"])
@pytest.mark.rule("F1", "P15")
def test_micro_batches_add_up_to_the_minibatch(aggregate):
    mask, old, adv = a_mask(), noise(5, 7), noise(5, 7, seed=1)
    lp = old + noise(5, 7, seed=2)
    count = int(mask.sum() if aggregate == "token" else mask.any(dim=1).sum())
    whole, _ = losses.policy_loss(lp, old, adv, mask, 0.2, 0.2, None, aggregate)
    rows = [slice(0, 1), slice(1, 2), slice(2, 5)]  # the second holds an empty row only
    parts = [losses.policy_loss(lp[r], old[r], adv[r], mask[r], 0.2, 0.2, None, aggregate, count)[0] for r in rows]
    close(torch.stack(parts).sum(), whole, 1e-6)


def test_policy_statistics():
    old = torch.zeros(1, 4)
    lp = torch.tensor([[0.5, -0.5, 0.0, 9.0]]).log1p() * 1.0
    _, stats = losses.policy_loss(lp, old, torch.ones(1, 4), torch.tensor([[1, 1, 1, 0]]), 0.2, 0.2)
    assert stats["ratio_mean"].item() == pytest.approx(1.0)
    assert stats["ratio_max"].item() == pytest.approx(1.5)
    assert stats["clipfrac"].item() == pytest.approx(1 / 3), "0.5 lies below the range, but a good token may still be made likelier"
    assert stats["approx_kl"].item() == pytest.approx((0.5 - math.log(1.5) + -0.5 - math.log(0.5)) / 3)


@pytest.mark.rule("P5")
def test_an_unchanged_policy_has_a_ratio_of_one():
    lp = noise(5, 7)
    loss, stats = losses.policy_loss(lp, lp.clone(), noise(5, 7, seed=1), a_mask(), 0.2, 0.2)
    assert (stats["ratio_mean"], stats["ratio_max"], stats["clipfrac"], stats["approx_kl"]) == (1, 1, 0, 0)
    close(loss, -(noise(5, 7, seed=1) * a_mask()).sum().item() / a_mask().sum().item(), 1e-6)


def test_log_ratios_beyond_exp_stay_finite():
    lp = torch.tensor([[300.0, -300.0]], requires_grad=True)
    loss, stats = losses.policy_loss(lp, torch.zeros(1, 2), torch.tensor([[-1.0, 1.0]]), torch.ones(1, 2), 0.2, 0.2)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(lp.grad).all()
    assert torch.isfinite(stats["ratio_max"])
