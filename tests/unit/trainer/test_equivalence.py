"""The two judgements of `make numerics`: a tolerance, and no drift one way."""

import random

import pytest

from tests.oracle.equivalence import FLOOR, TOLERANCE, cases, difference


def noisy(bias: float = 0.0, noise: float = 3e-6) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
    """A trajectory of 12 steps, and one that differs by noise and a bias."""
    rng = random.Random(3)
    reference = [(2.0 - step / 10, 0.5) for step in range(12)]
    return [tuple(value * (1 + bias + rng.gauss(0, noise)) for value in step) for step in reference], reference


def test_noise_is_one_trajectory() -> None:
    assert difference(*noisy()).problem("fp32") is None


@pytest.mark.parametrize(
    ("bias", "words"),
    [
        pytest.param(8e-6, "drifts one way", id="a bias below the tolerance"),
        pytest.param(-8e-6, "drifts one way", id="downwards too"),
        pytest.param(5e-4, "at most", id="a bias above it"),
        pytest.param(float("nan"), "at most", id="NaN is within no tolerance"),
    ],
)
def test_a_bias_is_caught_though_every_step_is_within_the_tolerance(bias: float, words: str) -> None:
    assert words in (difference(*noisy(bias)).problem("fp32") or "")


def test_rounding_may_point_one_way() -> None:
    found, reference = [(1 + 1e-6,)] * 12, [(1.0,)] * 12
    assert difference(found, reference).problem("fp32") is None


def test_the_matrix_has_every_strategy_with_every_stage_that_allows_it() -> None:
    chosen = cases()
    assert len(chosen) == len(set(chosen)) > 40
    assert {case.strategy for case in chosen if case.world_size == 2} == {
        "ddp", "zero1", "zero2", "zero2-offload", "gemini", "gemini-offload",
    }  # fmt: skip
    assert all(FLOOR[case.precision] < TOLERANCE[case.precision] for case in chosen)
    assert not any(case.strategy.startswith("gemini") and case.precision == "fp32" for case in chosen)


def test_steps_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="longer"):
        difference([(1.0,)], [(1.0,), (1.0,)])
