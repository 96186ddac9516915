"""Learning rates by step (rule F3)."""

import itertools

import pytest

from rlhf_trainer.schedule import Schedule


def rates(kind: str, total: int = 20, warmup: float = 0.2, least: float = 0.1) -> list[float]:
    schedule = Schedule(peak=2.0, total_steps=total, warmup_fraction=warmup, kind=kind, min_fraction=least)  # type: ignore[arg-type]
    return [schedule.rate(step) for step in range(3 * total)]


@pytest.mark.rule("F3")
def test_warmup_climbs_to_the_peak_in_equal_steps() -> None:
    assert rates("cosine")[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.rule("F3", source="Loshchilov & Hutter 2017, arXiv:1608.03983")
def test_falls_to_the_minimum_at_the_last_step_and_stays(kind: str) -> None:
    values = rates(kind)
    assert all(later <= earlier for earlier, later in itertools.pairwise(values[4:]))
    assert values[19:] == [pytest.approx(0.2)] * 41  # Colossal-AI's cosine is back at the peak after twice the steps


def test_linear_and_cosine_meet_in_the_middle() -> None:
    assert rates("linear", total=21, warmup=0, least=0)[10] == pytest.approx(1.0)
    assert rates("cosine", total=21, warmup=0, least=0)[10] == pytest.approx(1.0)
    assert rates("cosine", total=21, warmup=0, least=0)[5] > rates("linear", total=21, warmup=0, least=0)[5]


def test_constant_stays_at_the_peak() -> None:
    assert rates("constant", warmup=0) == [2.0] * 60


@pytest.mark.parametrize("total", [1, 2, 3])
def test_short_stages_have_finite_positive_rates(total: int) -> None:
    assert all(0 < rate <= 2 for rate in rates("cosine", total=total, warmup=0.03))
