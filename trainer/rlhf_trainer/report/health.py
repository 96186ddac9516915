"""Is the training healthy? Verdicts on the metrics so far, each with a reason and what to do (trainer.md section 5). Pure.

A verdict informs: it never stops a stage. What stops one are non-finite steps, the `maxKl` guard and the gates.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from rlhf_api.stages import StageType

Metrics = Mapping[str, float]
NUM_FIRST, NUM_RECENT = 10, 200
_NUM_KEPT = NUM_RECENT + 20
"""Entries of a window: the recent steps, and the evaluations between them, which have other metrics."""
_TREND_STEPS = 30
_RISING, _FALLING = 1, -1
_ALARMING, _LIKELY = 3.0, 2.0
"""Standard errors between two halves of a window. Every step looks again: two of them are exceeded by chance a dozen times in a run."""
_MATERIAL_RISE = 0.2
"""Of the loss, within 50 steps. What rises by less and goes on is not falling over 200 steps, which is a verdict too."""


class Level(IntEnum):
    """How bad it is; the number is the metric `health`."""

    OK = 0
    WARN = 1
    BAD = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that is not as it should be."""

    metric: str
    level: Level
    reason: str
    action: str


@dataclass(frozen=True, slots=True)
class Window:
    """What is judged: the first ten values of each metric, to compare with, and the newest two hundred steps, oldest first."""

    first: Mapping[str, Sequence[float]] = field(default_factory=dict)
    recent: tuple[Metrics, ...] = ()
    """In a long run evaluations lie further apart than this: what only older entries measured is kept in one more, in front of them."""

    def add(self, metrics: Metrics) -> Window:
        """The window one step later."""
        early = {name: [*self.first.get(name, ()), value][:NUM_FIRST] for name, value in metrics.items()}
        return Window({**self.first, **early}, _newest((*self.recent, metrics)))

    def values(self, name: str, num_steps: int = NUM_RECENT) -> list[float]:
        """The metric over the newest steps that have it. The last one is the newest that was ever measured, however long ago."""
        return [step[name] for step in self.recent if name in step][-num_steps:]

    def baseline(self, name: str) -> float | None:
        """Mean over the first ten values, once there are more than those."""
        values = self.first.get(name, ())
        return statistics.fmean(values) if len(values) == NUM_FIRST and len(self.recent) > NUM_FIRST else None

    def trend(self, name: str, num_steps: int = _TREND_STEPS, *, num_errors: float = _ALARMING, least: float = 0.0) -> int:
        """1 rising, -1 falling, 0 flat or unknown: the mean of the newer half against that of the older one.

        Args:
            num_errors: standard errors of the difference that it must exceed.
            least: share of the older mean that it must exceed, too.
        """
        values = self.values(name, num_steps)
        if len(values) < num_steps:
            return 0
        return _direction(values[: num_steps // 2], values[num_steps // 2 :], num_errors, least)

    def trend_since_start(self, name: str) -> int:
        """The same of the newest ten values against the first ten, however long ago those were."""
        first, last = self.first.get(name, ()), self.values(name, NUM_FIRST)
        return _direction(first, last) if len(first) == len(last) == NUM_FIRST else 0


def _newest(entries: tuple[Metrics, ...]) -> tuple[Metrics, ...]:
    """The newest entries, behind one with the last value of each metric that they lack: no verdict heals without a new measurement.

    A field of its own was rejected: this way checkpoints of either kind, with it and without, are windows.
    """
    left, kept = entries[:-_NUM_KEPT], entries[-_NUM_KEPT:]
    last = {name: value for entry in left for name, value in entry.items()}
    missing = set(last)
    for entry in reversed(kept):  # newest first: what every step measures is gone after one of them
        missing = missing.difference(entry)
    only_there = {name: value for name, value in last.items() if name in missing}
    return (only_there, *kept) if only_there else kept


def judge(stage: StageType, window: Window, kl_target: float | None = None) -> list[Verdict]:
    """Every verdict that is not ok, worst first. `kl_target` is PPO's wanted KL in nats per answer, when there is one."""
    rules: list[Callable[[Window], Verdict | None]] = [_grad_norm]
    if stage is StageType.PPO:
        rules += [
            lambda window: _kl(window, kl_target),
            _above("ratio_max", 3, 10, "fewer epochsPerRollout, or a lower learningRate"),
            _above("clip_fraction", 0.2, 0.4, "fewer epochsPerRollout, or a lower learningRate"),
            _entropy,
            _explained,
            _reward,
            _exact_match,
            _below("eos_fraction", 0.9, 0.5, "raise maxNewTokens, or check the stop tokens of the chat template"),
            _answer_length,
        ]
    if stage is StageType.SFT:
        rules += [_loss, _below("eos_fraction", 0.5, 0.5, "check that answers end with the template's stop token")]
    if stage is StageType.REWARD_MODEL:
        rules += [_below("accuracy", 0.6, 0.55, "more pairs, or cleaner ones"), _length_correlation]
    verdicts = [verdict for rule in rules if (verdict := rule(window)) is not None]
    return sorted(verdicts, key=lambda verdict: -verdict.level)


def level(verdicts: Sequence[Verdict]) -> Level:
    """The worst of them; ok when there are none."""
    return max((verdict.level for verdict in verdicts), default=Level.OK)


def _above(metric: str, warn: float, bad: float, action: str) -> Callable[[Window], Verdict | None]:
    def rule(window: Window) -> Verdict | None:
        values = window.values(metric, 1)
        if not values or values[-1] <= warn:
            return None
        return Verdict(metric, Level.BAD if values[-1] > bad else Level.WARN, f"{metric} is {values[-1]:.3g}, above {warn:g}", action)

    return rule


def _below(metric: str, warn: float, bad: float, action: str) -> Callable[[Window], Verdict | None]:
    def rule(window: Window) -> Verdict | None:
        values = window.values(metric)
        if not values or values[-1] >= warn:
            return None
        return Verdict(metric, Level.BAD if values[-1] < bad else Level.WARN, f"{metric} is {values[-1]:.3g}, below {warn:g}", action)

    return rule


def _kl(window: Window, target: float | None) -> Verdict | None:
    last = window.values("kl_mean", 10)
    if len(last) == 10 and max(last) < -1:
        reason = f"kl_mean was below -1 for ten steps (now {last[-1]:.3g})"
        return Verdict("kl_mean", Level.BAD, reason, "sampling and update disagree: check temperature, topK and topP")
    if not last or not target or last[-1] <= 2 * target:
        return None
    reason = f"kl_mean is {last[-1]:.3g}, {last[-1] / target:.1f} times kl.target {target:g}"
    return Verdict("kl_mean", Level.BAD if last[-1] > 5 * target else Level.WARN, reason, "raise kl.coefficient, or lower learningRate")


def _entropy(window: Window) -> Verdict | None:
    first, last = window.baseline("entropy"), window.values("entropy", 1)
    if not first or not last or last[-1] > 0.4 * first:
        return None
    reason = f"entropy fell to {last[-1] / first:.0%} of its first ten steps"
    return Verdict("entropy", Level.BAD if last[-1] < 0.1 * first else Level.WARN, reason, "the policy collapses: raise kl.coefficient")


def _explained(window: Window) -> Verdict | None:
    """Only steps in which the policy learned: while the critic warms up, it may not know anything yet."""
    trained = Window(recent=tuple(step for step in window.recent if "policy_loss" in step))
    return _below("vf_explained_var", 0, -0.5, "longer criticWarmupSteps, or a higher criticLearningRate")(trained)


def _reward(window: Window) -> Verdict | None:
    """The raw reward: the normalised one falls in every good run, back to nought as its running mean follows the policy."""
    if window.trend("reward_mean") is not _FALLING:
        return None
    is_worse = window.trend("kl_mean") is _RISING
    reason = "reward_mean falls" + (" while kl_mean rises" if is_worse else "")
    return Verdict("reward_mean", Level.BAD if is_worse else Level.WARN, reason, "look at samples.jsonl: the reward model, or its sign")


def _exact_match(window: Window) -> Verdict | None:
    """Against the first evaluation, and so is the reward: over 30 of 3000 steps nothing rises that would not drown in noise.

    Against the best so far was rejected: of five noisy shares the best is a lucky one.
    """
    first, last = window.first.get("exact_match"), window.values("exact_match", 1)
    if not first or not last or (fall := first[0] - last[-1]) < 0.02:
        return None
    is_hacking = fall >= 0.05 and window.trend_since_start("reward_mean") is _RISING
    reason = f"exact_match fell by {fall:.2f}" + (" while the reward rises" if is_hacking else "")
    return Verdict(
        "exact_match", Level.BAD if is_hacking else Level.WARN, reason, "reward hacking: a better reward model, or higher kl.coefficient"
    )


def _answer_length(window: Window) -> Verdict | None:
    first, last = window.baseline("answer_tokens_mean"), window.values("answer_tokens_mean", 1)
    if not first or not last or 0.5 <= (factor := last[-1] / first) <= 2:
        return None
    level_ = Level.BAD if factor > 4 or factor < 0.25 else Level.WARN
    reason = f"answers have {factor:.2g} times the tokens of the first ten steps"
    return Verdict("answer_tokens_mean", level_, reason, "length bias of the reward model: see its length_correlation")


def _grad_norm(window: Window) -> Verdict | None:
    values = window.values("grad_norm")
    if not values:
        return None
    if not math.isfinite(values[-1]):
        return Verdict("grad_norm", Level.BAD, "grad_norm is not finite: the step was skipped", "lower learningRate")
    earlier = [value for value in values[:-1] if math.isfinite(value)]
    median = statistics.median(earlier) if len(earlier) >= NUM_FIRST else 0.0
    if median <= 0 or values[-1] < 10 * median:
        return None
    reason = f"grad_norm is {values[-1] / median:.0f} times its running median"
    return Verdict(
        "grad_norm", Level.BAD if values[-1] > 50 * median else Level.WARN, reason, "lower learningRate, or look at the rows of this step"
    )


def _loss(window: Window) -> Verdict | None:
    if window.trend("loss", 50, least=_MATERIAL_RISE) is _RISING:
        return Verdict("loss", Level.BAD, "the loss rises over 50 steps", "lower learningRate")
    if len(window.values("loss")) == NUM_RECENT and window.trend("loss", NUM_RECENT, num_errors=_LIKELY) is not _FALLING:
        return Verdict("loss", Level.WARN, "the loss is flat over 200 steps", "raise learningRate, or stop earlier")
    return None


def _length_correlation(window: Window) -> Verdict | None:
    values = window.values("length_correlation")
    if not values or abs(values[-1]) <= 0.4:
        return None
    reason = f"scores follow the length of answers (correlation {values[-1]:.2f})"
    return Verdict("length_correlation", Level.WARN, reason, "balance the lengths of chosen and rejected answers")


def _direction(older: Sequence[float], newer: Sequence[float], num_errors: float = _ALARMING, least: float = 0.0) -> int:
    (older_mean, older_variance), (newer_mean, newer_variance) = _moments(older), _moments(newer)
    noise = math.sqrt(older_variance / len(older) + newer_variance / len(newer))
    change = newer_mean - older_mean
    return 0 if abs(change) <= max(num_errors * noise, least * abs(older_mean), 1e-12) else int(math.copysign(1, change))


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean and variance. In floats: `statistics.pvariance` computes in fractions, a millisecond of every step. Infinities raise nothing."""
    mean = sum(values) / len(values)
    return mean, sum((value - mean) ** 2 for value in values) / len(values)
