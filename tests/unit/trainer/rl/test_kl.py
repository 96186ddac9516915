"""Controllers of the KL coefficient."""

import pytest

from rlhf_trainer.rl.kl import AdaptiveKL, FixedKL


def test_a_fixed_coefficient_stays():
    controller = FixedKL(0.05)
    assert controller.update(1e9, 512) == 0.05
    controller.restore({"coef": 0.07})
    assert controller.state() == {"coef": 0.07}


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        pytest.param(6.0, 1.0, id="on target: unchanged"),
        pytest.param(6.6, 1 + 0.1 * 0.5, id="ten percent above"),
        pytest.param(60.0, 1 + 0.2 * 0.5, id="far above: clipped"),
        pytest.param(0.0, 1 - 0.2 * 0.5, id="far below: clipped"),
    ],
)
def test_an_adaptive_coefficient_steers(kl, factor):
    assert AdaptiveKL(0.02, target=6.0, horizon=1000).update(kl, 500) == pytest.approx(0.02 * factor)


@pytest.mark.parametrize(("target", "horizon"), [(0.0, 10), (6.0, 0)])
def test_target_and_horizon_are_positive(target, horizon):
    with pytest.raises(ValueError, match="positive"):
        AdaptiveKL(0.02, target, horizon)


def test_a_kl_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="finite"):
        AdaptiveKL(0.02, 6.0, 10).update(float("nan"), 1)
