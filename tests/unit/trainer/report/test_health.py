"""Health verdicts: the table of trainer.md section 5, row by row."""

from __future__ import annotations

import math
import random

import pytest

from rlhf_api.stages import StageType
from rlhf_trainer.report import health
from rlhf_trainer.report.health import Level, Window

OK, WARN, BAD = Level.OK, Level.WARN, Level.BAD


def window(**series: list[float]) -> Window:
    """Steps in which each metric takes its values in turn."""
    result = Window()
    for index in range(max(len(values) for values in series.values())):
        result = result.add({name: values[index] for name, values in series.items() if index < len(values)})
    return result


def level_of(metric: str, stage: StageType, seen: Window, kl_target: float | None = None) -> Level:
    return health.level([verdict for verdict in health.judge(stage, seen, kl_target) if verdict.metric == metric])


@pytest.mark.parametrize(("metric", "last", "level"), [
    ("ratio_max", 2.9, OK), ("ratio_max", 5.0, WARN), ("ratio_max", 11.0, BAD),
    ("clip_fraction", 0.1, OK), ("clip_fraction", 0.3, WARN), ("clip_fraction", 0.5, BAD),
    ("eos_fraction", 0.95, OK), ("eos_fraction", 0.7, WARN), ("eos_fraction", 0.3, BAD),
])  # fmt: skip
def test_ppo_ranges_of_the_last_value(metric: str, last: float, level: Level) -> None:
    assert level_of(metric, StageType.PPO, window(**{metric: [last]})) is level


@pytest.mark.parametrize(("last", "level"), [(0.1, OK), (-0.2, WARN), (-0.6, BAD)])
def test_a_critic_is_judged_once_the_policy_learns_from_it(last: float, level: Level) -> None:
    assert level_of("vf_explained_var", StageType.PPO, window(vf_explained_var=[last])) is OK
    assert level_of("vf_explained_var", StageType.PPO, window(vf_explained_var=[-9.0, last], policy_loss=[0.1, 0.1])) is level
    seen = window(vf_explained_var=[last], policy_loss=[0.1]).add({"vf_explained_var": -9.0})
    assert level_of("vf_explained_var", StageType.PPO, seen) is level


@pytest.mark.parametrize(("kl", "target", "level"), [
    pytest.param([3.0], 2.0, OK, id="within twice the target"),
    pytest.param([7.0], 2.0, WARN, id="above twice"),
    pytest.param([11.0], 2.0, BAD, id="above five times"),
    pytest.param([100.0], None, OK, id="no target, no verdict"),
    pytest.param([-1.5] * 9, None, OK, id="negative for nine steps"),
    pytest.param([-1.5] * 10, None, BAD, id="negative for ten steps: sampling mismatch"),
    pytest.param([-1.5] * 9 + [0.0], None, OK, id="negative, then not"),
])  # fmt: skip
def test_kl_against_its_target(kl: list[float], target: float | None, level: Level) -> None:
    assert level_of("kl_mean", StageType.PPO, window(kl_mean=kl), target) is level


@pytest.mark.parametrize(("metric", "last", "level"), [
    ("entropy", 0.5, OK), ("entropy", 0.3, WARN), ("entropy", 0.05, BAD),
    ("answer_tokens_mean", 1.9, OK), ("answer_tokens_mean", 3.0, WARN), ("answer_tokens_mean", 5.0, BAD),
    ("answer_tokens_mean", 0.4, WARN), ("answer_tokens_mean", 0.2, BAD),
])  # fmt: skip
def test_ranges_against_the_first_ten_steps(metric: str, last: float, level: Level) -> None:
    assert level_of(metric, StageType.PPO, window(**{metric: [1.0] * 10 + [last]})) is level
    assert level_of(metric, StageType.PPO, window(**{metric: [1.0] * 9 + [last]})) is OK  # not yet ten


def test_falling_reward_is_worse_when_the_kl_rises() -> None:
    falling = [1 - step / 30 for step in range(30)]
    assert level_of("reward_mean", StageType.PPO, window(reward_mean=falling)) is WARN
    assert level_of("reward_mean", StageType.PPO, window(reward_mean=falling, kl_mean=falling[::-1])) is BAD
    assert level_of("reward_mean", StageType.PPO, window(reward_mean=falling[::-1])) is OK
    assert level_of("reward_mean", StageType.PPO, window(reward_mean=falling[:20])) is OK  # too few
    normalised = window(reward_mean=falling[::-1], reward_norm=falling, kl_mean=falling[::-1])
    assert health.judge(StageType.PPO, normalised) == []  # its running mean follows the policy


def test_noise_is_no_trend() -> None:
    noisy = [1.0 if step % 2 else -1.0 for step in range(30)]
    assert window(reward_norm=noisy).trend("reward_norm") == 0


def test_chance_is_seldom_a_trend() -> None:
    """Every step looks again: two standard errors are exceeded in 56 of these 1000 steps, and the training would look ill a dozen times."""
    noise = random.Random(0)
    seen, trends, alarms = Window(), 0, []
    for _ in range(1000):
        seen = seen.add({"loss": math.exp(noise.gauss(0, 0.25)), "reward_norm": noise.gauss(0, 1)})
        trends += seen.trend("reward_norm") != 0
        alarms += [verdict for verdict in health.judge(StageType.SFT, seen) if verdict.level is BAD]
    assert trends <= 5
    assert not alarms


def test_falling_accuracy_while_the_reward_rises_is_hacking() -> None:
    rising = [step / 30 for step in range(30)]
    assert level_of("exact_match", StageType.PPO, window(exact_match=[0.9, 0.89])) is OK
    assert level_of("exact_match", StageType.PPO, window(exact_match=[0.9, 0.8])) is WARN
    assert level_of("exact_match", StageType.PPO, window(exact_match=[0.9] * 29 + [0.8], reward_mean=rising)) is BAD


def long_ppo(num_rollouts: int, *, exact_match: tuple[float, float], reward: tuple[float, float]) -> Window:
    """PPO as it reports itself: five evaluations, evenly spaced, and a reward as noisy as the mean of 128 scores of deviation 1."""
    noise, every = random.Random(0), -(-num_rollouts // 5)
    seen = Window()
    for rollout in range(1, num_rollouts + 1):
        done = rollout / num_rollouts
        seen = seen.add({"reward_mean": reward[0] + (reward[1] - reward[0]) * done + noise.gauss(0, 0.09)})
        if rollout % every == 0:
            passed = (rollout - every) / (num_rollouts - every)
            seen = seen.add({"exact_match": exact_match[0] + (exact_match[1] - exact_match[0]) * passed})
    return seen


@pytest.mark.parametrize("num_rollouts", [40, 100, 500, 1000, 1200, 3000])
@pytest.mark.parametrize(("exact_match", "reward", "level"), [
    pytest.param((0.75, 0.15), (0.0, 2.0), BAD, id="hacked"),
    pytest.param((0.75, 0.69), (0.0, 2.0), BAD, id="hacked, a little more at each evaluation"),
    pytest.param((0.75, 0.72), (0.0, 2.0), WARN, id="a small fall"),
    pytest.param((0.75, 0.15), (0.0, 0.0), WARN, id="a reward that stays"),
    pytest.param((0.75, 0.85), (0.0, 2.0), OK, id="sound"),
])  # fmt: skip
def test_hacking_is_seen_however_far_apart_the_evaluations_are(
    num_rollouts: int, exact_match: tuple[float, float], reward: tuple[float, float], level: Level
) -> None:
    seen = long_ppo(num_rollouts, exact_match=exact_match, reward=reward)
    assert level_of("exact_match", StageType.PPO, seen) is level
    if level is not OK:
        reasons = [verdict.reason for verdict in health.judge(StageType.PPO, seen) if verdict.metric == "exact_match"]
        assert f"fell by {exact_match[0] - exact_match[1]:.2f}" in reasons[0]  # of the whole run, not since the evaluation before


@pytest.mark.parametrize(("stage", "metric", "ill", "sound", "level"), [
    (StageType.REWARD_MODEL, "accuracy", 0.5, 0.9, BAD),
    (StageType.REWARD_MODEL, "length_correlation", 0.5, 0.1, WARN),
    (StageType.SFT, "eos_fraction", 0.3, 0.99, BAD),
    (StageType.PPO, "eos_fraction", 0.3, 0.99, BAD),
    (StageType.PPO, "ratio_max", 11.0, 1.0, BAD),
])  # fmt: skip
def test_no_verdict_heals_without_a_new_measurement(stage: StageType, metric: str, ill: float, sound: float, level: Level) -> None:
    seen = Window()
    for step in range(1, 1001):
        seen = seen.add({"grad_norm": 1.0})
        if step in (250, 500):
            seen = seen.add({metric: sound if step == 250 else ill})
        if step >= 500:
            assert level_of(metric, stage, seen) is level, step
    assert level_of(metric, stage, seen.add({metric: sound})) is OK


def test_a_window_stays_small() -> None:
    seen = Window()
    for step in range(1000):
        seen = seen.add({"loss": float(step), f"once_{step % 7}": 1.0})
    for step in range(1000):
        seen = seen.add({"loss": float(step)})
    assert len(seen.recent) == 221  # 200 steps, 20 evaluations, and the last values of older ones
    assert sorted(seen.recent[0]) == [f"once_{i}" for i in range(7)]
    assert seen.values("loss") == [float(step) for step in range(800, 1000)]


@pytest.mark.parametrize(("last", "level"), [(5.0, OK), (20.0, WARN), (60.0, BAD), (math.nan, BAD), (math.inf, BAD)])
def test_gradient_norm_against_its_running_median(last: float, level: Level) -> None:
    assert level_of("grad_norm", StageType.SFT, window(grad_norm=[1.0] * 20 + [last])) is level


@pytest.mark.parametrize(("loss", "level"), [
    pytest.param([2 - step / 200 for step in range(200)], OK, id="falling"),
    pytest.param([2.0] * 199, OK, id="flat, but not for long"),
    pytest.param([2.0] * 200, WARN, id="flat for 200 steps"),
    pytest.param([2 + step / 50 for step in range(50)], BAD, id="rising for 50 steps"),
    pytest.param([2 + step / 200 for step in range(50)], OK, id="rising, but by 6 %"),
    pytest.param([2 + step / 200 for step in range(200)], WARN, id="rising slowly, for 200 steps"),
])  # fmt: skip
def test_sft_loss(loss: list[float], level: Level) -> None:
    assert level_of("loss", StageType.SFT, window(loss=loss)) is level


@pytest.mark.parametrize(("accuracy", "level"), [(0.7, OK), (0.57, WARN), (0.5, BAD)])
def test_reward_model_accuracy(accuracy: float, level: Level) -> None:
    assert level_of("accuracy", StageType.REWARD_MODEL, window(accuracy=[accuracy])) is level


@pytest.mark.parametrize(("correlation", "level"), [(0.3, OK), (-0.5, WARN), (0.5, WARN)])
@pytest.mark.rule("R6")
def test_reward_that_follows_length(correlation: float, level: Level) -> None:
    assert level_of("length_correlation", StageType.REWARD_MODEL, window(length_correlation=[correlation])) is level


def test_worst_comes_first_and_says_what_to_do() -> None:
    verdicts = health.judge(StageType.PPO, window(ratio_max=[4.0], clip_fraction=[0.9]))
    assert [verdict.metric for verdict in verdicts] == ["clip_fraction", "ratio_max"]
    assert all(verdict.action and verdict.reason for verdict in verdicts)
    assert health.level(verdicts) is BAD


def test_evaluations_between_steps_do_not_hide_the_first_ten() -> None:
    seen = Window()
    for step in range(12):
        seen = seen.add({"entropy": 1.0})
        if step == 3:
            seen = seen.add({"eval_loss": 0.5})
    assert seen.baseline("entropy") == 1.0


@pytest.mark.parametrize(("eos_fraction", "level"), [(0.6, OK), (0.4, BAD)])
@pytest.mark.rule("F6")
def test_sft_answers_that_do_not_end(eos_fraction: float, level: Level) -> None:
    assert level_of("eos_fraction", StageType.SFT, window(eos_fraction=[eos_fraction])) is level


def test_evaluations_between_steps_hide_no_trend() -> None:
    """An evaluation is an entry of its own: 30 steps with three of them are still 30 steps."""
    seen = Window()
    for step in range(30):
        seen = seen.add({"reward_mean": step / 30, "loss": 2.0})
        if step % 12 == 11 or step == 29:
            seen = seen.add({"exact_match": 0.9 - step / 50})
    assert level_of("exact_match", StageType.PPO, seen) is BAD
    for step in range(200):
        seen = seen.add({"loss": 2.0})
        seen = seen.add({"eval_loss": 2.0}) if step % 20 == 0 else seen
    assert level_of("loss", StageType.SFT, seen) is WARN
