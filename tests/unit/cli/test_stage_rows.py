"""Rows of stages, from the status alone."""

import pytest

from rlhf_cli.stage_rows import byte_size, duration, rows_of
from tests.support.statuses import a_job, a_stage


def test_before_the_first_status_every_stage_waits() -> None:
    job = a_job(a_stage("sft"), a_stage("ppo", "PPO"))
    del job["status"]
    assert [(row.name, row.type, row.phase) for row in rows_of(job)] == [
        ("prepare", "Prepare", "Pending"),
        ("sft", "SFT", "Pending"),
        ("ppo", "PPO", "Pending"),
    ]


def test_a_running_stage_shows_its_newest_numbers() -> None:
    stage = a_stage(
        "ppo",
        "PPO",
        attempt=2,
        progress={"percent": 33.3, "step": 40, "totalSteps": 120, "etaSeconds": 70},
        metrics={"reward_mean": 1.234, "kl_mean": 0.5, "tokens_per_second": 2100.4, "entropy": 1},
    )
    row = rows_of(a_job(stage))[1]
    assert (row.steps, row.percent, row.eta_seconds, row.attempt) == ("40/120", 33.3, 70, 2)
    assert row.headline == "reward 1.23  KL 0.50"
    assert row.tokens_per_second == 2100.4


@pytest.mark.parametrize(
    ("type_", "metrics", "headline"),
    [
        pytest.param("SFT", {"loss": 2.5, "exact_match": 0.5}, "loss 2.500  exact match 50.0%", id="SFT"),
        pytest.param("RewardModel", {"loss": 0.1, "accuracy": 0.875}, "loss 0.100  accuracy 87.5%", id="reward model"),
        pytest.param("Quantize", {"perplexity_increase": 0.021}, "perplexity +2.1%", id="quantize"),
        pytest.param("PPO", {"kl_mean": -0.001}, "KL 0.00", id="a zero has no minus"),
        pytest.param("Publish", {"loss": 1}, "", id="a stage without headline"),
        pytest.param("SFT", {}, "", id="nothing measured yet"),
    ],
)
def test_headline(type_: str, metrics: dict[str, float], headline: str) -> None:
    assert rows_of(a_job(a_stage("it", type_, metrics=metrics)))[1].headline == headline


def test_a_finished_stage_is_full_and_has_no_eta() -> None:
    row = rows_of(a_job(a_stage(phase="Succeeded", progress={"percent": 97, "step": 10, "etaSeconds": 5})))[1]
    assert (row.percent, row.eta_seconds, row.is_finished, row.steps) == (100, None, True, "10")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0, "0s"), (-3, "0s"), (12.4, "12s"), (60, "1m00s"), (200, "3m20s"), (3900, "1h05m"), (90000, "1d01h")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(None, ""), (0, "0 B"), (999, "999 B"), (3_900_000, "3.9 MB"), (3_900_000_000, "3.9 GB"), (2e15, "2000.0 TB")]
)
def test_byte_size(size: float | None, text: str) -> None:
    assert byte_size(size) == text
