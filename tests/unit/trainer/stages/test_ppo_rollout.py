"""The guard of a rollout. Whole rollouts are tested in test_training.py, and against a straight-line PPO step in tests/oracle."""

import pytest

from rlhf_trainer.errors import Diverged
from rlhf_trainer.stages.ppo_rollout import refuse_divergence


@pytest.mark.parametrize(
    ("kl_mean", "max_kl"),
    [
        pytest.param(0.4, 50.0, id="a usual rollout"),
        pytest.param(50.0, 50.0, id="the limit itself is allowed"),
        pytest.param(500.0, 0.0, id="0 is no limit"),
        pytest.param(-0.3, 50.0, id="a KL estimate may be negative"),
    ],
)
def test_goes_on(kl_mean: float, max_kl: float) -> None:
    refuse_divergence(0, kl_mean, max_kl)


@pytest.mark.parametrize(
    ("kl_mean", "max_kl", "words"),
    [
        pytest.param(50.1, 50.0, r"ppo\.maxKl.*rollout 3 is 50\.10 nats, at most 50", id="above the limit"),
        pytest.param(float("nan"), 50.0, "rollout 3 is nan", id="NaN is above no limit, and diverged all the same"),
        pytest.param(float("inf"), 0.0, "rollout 3 is inf", id="infinity needs no limit"),
    ],
)
def test_diverged(kl_mean: float, max_kl: float, words: str) -> None:
    with pytest.raises(Diverged, match=words):
        refuse_divergence(2, kl_mean, max_kl)
