"""The facts of the real-model demo, read from job directories made here."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.scripts import load_script


@pytest.fixture(scope="module")
def check() -> ModuleType:
    """The script as a module."""
    return load_script("real-model/check.py")


def a_job(workdir: Path, *, eval_loss: float = 1.0, accuracy: float = 0.95, last_reward: float = 0.8, deviation: float = 0.0) -> Path:
    """The files of a finished job; `last_reward` is that of the last rollout of three."""
    stages = workdir / "volume" / "a-uid" / "stages"
    put(stages / "sft" / "r1" / "output" / "manifest.json", {"metrics": {"base_eval_loss": 4.0, "eval_loss": eval_loss}})
    put(stages / "rm" / "r1" / "output" / "manifest.json", {"metrics": {"accuracy": accuracy}})
    put(
        stages / "ppo" / "r1" / "metrics.jsonl",
        {"step": 1, "rollout_seconds": 1.0, "reward_mean": 0.1},
        {"step": 2, "rollout_seconds": 1.0, "reward_mean": 0.3, "first_ratio_deviation": 0.0},
        {"step": 2, "exact_match": 0.5},
        {"step": 3, "rollout_seconds": 1.0, "reward_mean": last_reward, "first_ratio_deviation": deviation},
    )
    return workdir


def put(path: Path, *lines: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_job_that_keeps_every_promise(check: ModuleType, tmp_path: Path) -> None:
    facts = list(check.training_facts(a_job(tmp_path)))
    assert [fact.text.partition(":")[0] for fact in facts] == ["SFT", "RewardModel", "PPO", "PPO"]
    assert all(fact.holds for fact in facts)


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        pytest.param({"eval_loss": 2.1}, "SFT: held-out loss 4.00 -> 2.10", id="loss falls by less than half"),
        pytest.param({"accuracy": 0.89}, "RewardModel: held-out accuracy 0.890", id="one pair in nine is wrong"),
        pytest.param({"last_reward": 0.1}, "PPO: mean reward +0.10 -> +0.10", id="reward stays where it was"),
        pytest.param({"deviation": 0.01}, "PPO: ratio of the first minibatch is 1 within 1.0e-02", id="update starts off policy"),
    ],
)
def test_broken_promise_is_named(check: ModuleType, tmp_path: Path, changes: dict[str, float], broken: str) -> None:
    failed = [fact.text for fact in check.training_facts(a_job(tmp_path, **changes)) if not fact.holds]
    assert len(failed) == 1
    assert failed[0].startswith(broken)


def test_one_broken_promise_fails_the_demo(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "chat_facts", lambda artifact: [check.Fact("Chat: hello", True)])
    assert check.main([str(a_job(tmp_path / "good")), "artifact"]) == 0
    assert check.main([str(a_job(tmp_path / "bad", accuracy=0.5)), "artifact"]) == 1
    assert "FAILED  RewardModel: held-out accuracy 0.500, must be at least 0.9" in capsys.readouterr().out


def test_newest_attempt_counts(check: ModuleType, tmp_path: Path) -> None:
    a_job(tmp_path)
    for number in (2, 10):
        path = tmp_path / "volume" / "a-uid" / "stages" / "sft" / f"r{number}" / "output" / "manifest.json"
        put(path, {"metrics": {"base_eval_loss": 4.0, "eval_loss": 4.0 - number / 10}})
    assert "4.00 -> 3.00" in next(check.training_facts(tmp_path)).text


def test_thirds_of_a_short_run(check: ModuleType) -> None:
    assert check.thirds([1.0, 2.0]) == (1.0, 2.0)
    assert check.thirds([1, 1, 5, 2, 2, 8]) == (1.0, 5.0)
