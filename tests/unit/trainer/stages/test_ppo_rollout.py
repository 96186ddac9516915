"""The guard of a rollout. Whole rollouts are tested in test_training.py, and against a straight-line PPO step in tests/oracle."""

from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlhf_trainer.errors import Diverged
from rlhf_trainer.stages import experience
from rlhf_trainer.stages.ppo_rollout import Rollouts, refuse_divergence, sampling_problem


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
@pytest.mark.rule("P19")
def test_diverged(kl_mean: float, max_kl: float, words: str) -> None:
    with pytest.raises(Diverged, match=words):
        refuse_divergence(2, kl_mean, max_kl)


@pytest.mark.parametrize(
    ("precision", "largest", "mean", "words"),
    [
        pytest.param("fp32", 9e-5, 9e-5, None, id="the rounding of two passes"),
        pytest.param("fp32", 2e-4, 1e-6, "largest difference 0.0002", id="one token of fp32 is off"),
        pytest.param("bf16", 0.5, 0.04, None, id="single tokens of bf16 are off, as Gemma's are"),
        pytest.param("bf16", 0.5, 0.06, "mean difference 0.06", id="all tokens of bf16 are off"),
        pytest.param("bf16", float("nan"), float("nan"), "mean difference nan", id="NaN is below no limit"),
    ],
)
@pytest.mark.rule("G3")
def test_a_sampling_mismatch_is_named(precision: str, largest: float, mean: float, words: str | None) -> None:
    found = sampling_problem(precision, largest, mean)
    assert found is None if words is None else words in (found or "")


@pytest.mark.parametrize(("num_own", "num_rounds"), [(1, 3), (2, 2)], ids=["fewer than a peer", "as many"])
def test_all_workers_judge_in_equally_many_rounds(monkeypatch: pytest.MonkeyPatch, num_own: int, num_rounds: int) -> None:
    """Gemini's weights are gathered in every forward pass: a worker that makes fewer than its peers would leave them waiting."""
    calls: list[str] = []

    def forward(model: str, *_: Any, **__: Any) -> Any:
        calls.append(model)
        return torch.full((), float(len(calls))), torch.zeros(())

    monkeypatch.setattr(experience, "log_probs", forward)
    for name in ("raw_scores", "values"):
        monkeypatch.setattr(experience, name, lambda model, batch: forward(model)[0])
    roles = {name: SimpleNamespace(model=name) for name in ("policy", "critic", "reward")}
    rollouts = SimpleNamespace(
        config=SimpleNamespace(temperature=1.0),
        strategy=SimpleNamespace(world=SimpleNamespace(agree=lambda _: num_rounds)),
        models=SimpleNamespace(**roles, reference=lambda: nullcontext("reference")),
    )
    batches: Any = [SimpleNamespace() for _ in range(num_own)]
    Rollouts._judge(rollouts, batches)  # type: ignore[arg-type]  # only these fields are read
    assert Counter(calls) == dict.fromkeys(("policy", "critic", "reward", "reference"), num_rounds)
    assert [float(batch.raw_scores) for batch in batches] == [1.0, 4.0][:num_own]  # of its own round, not of a repetition
