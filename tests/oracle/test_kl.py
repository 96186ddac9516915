"""Rules P12 and P13 (check A11): estimators against the exact KL, the controller against its formula.

Sources: Schulman 2020, "Approximating KL Divergence" (the three estimators); Ziegler et al. 2019 (arXiv:1909.08593), section 2.2.
"""

import math

import pytest
import torch

from rlhf_trainer.rl import kl
from tests.oracle import mutants
from tests.oracle.support import close, must_fail, names, noise

NUM_DRAWS = 2_000_000


def check_estimate(estimate):
    policy = (noise(40, seed=1) * 0.8).double().log_softmax(0)
    reference = (noise(40, seed=1) * 0.8 + noise(40, seed=2) * 0.5).double().log_softmax(0)
    exact = (policy.exp() * (policy - reference)).sum()
    drawn = torch.multinomial(policy.exp(), NUM_DRAWS, replacement=True, generator=torch.Generator().manual_seed(0))
    for kind in ("k1", "k3"):  # unbiased: the mean of the draws is the KL of policy from reference
        found = estimate(policy, reference, kind)[drawn]
        error = found.std() / NUM_DRAWS**0.5
        assert abs(found.mean() - exact) < 3 * error, f"{kind}: {found.mean():.5f} is not {exact:.5f} ± {error:.5f}"
    close(estimate(policy, reference, "k2"), (policy - reference) ** 2 / 2)
    assert (estimate(policy, reference, "k3") >= 0).all()


@pytest.mark.rule("P12", source="Schulman 2020, Approximating KL Divergence")
def test_estimate():
    check_estimate(kl.estimate)


@pytest.mark.parametrize(**names(mutants.ESTIMATE))
@pytest.mark.mutant("P12")
def test_the_estimate_check_catches(mutant):
    must_fail(check_estimate, mutant)


@pytest.mark.parametrize("kind", kl.ESTIMATORS)
def test_equal_policies_have_no_kl(kind):
    assert kl.estimate(noise(3, 4), noise(3, 4), kind).abs().max() == 0


def test_k3_keeps_its_digits_near_zero():
    x = torch.tensor([1e-4, -1e-4])
    torch.testing.assert_close(kl.estimate(x, torch.zeros(2), "k3"), x.square() / 2, rtol=1e-3, atol=0)


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="k4"):
        kl.estimate(torch.zeros(1), torch.zeros(1), "k4")


def check_adaptive_kl(controller_class):
    for measured, num_samples in ((6.0, 64), (6.6, 64), (100.0, 64), (0.0, 200), (-3.0, 1)):
        controller = controller_class(0.02, 6.0, 10_000)
        wanted = 0.02
        for _ in range(3):
            wanted *= 1 + max(-0.2, min(0.2, measured / 6.0 - 1)) * num_samples / 10_000
            controller.update(measured, num_samples)
        assert math.isclose(controller.coef, wanted, rel_tol=1e-12)
        resumed = controller_class(0.02, 6.0, 10_000)
        resumed.restore(controller.state())
        assert math.isclose(resumed.coef, wanted, rel_tol=1e-12)
        assert math.isclose(resumed.update(measured, num_samples), controller.update(measured, num_samples), rel_tol=1e-12)


@pytest.mark.rule("P13", source="Ziegler et al. 2019, arXiv:1909.08593, section 2.2")
def test_adaptive_kl():
    check_adaptive_kl(kl.AdaptiveKL)


@pytest.mark.parametrize(**names(mutants.ADAPTIVE_KL))
@pytest.mark.mutant("P13")
def test_the_controller_check_catches(mutant):
    must_fail(check_adaptive_kl, mutant)
