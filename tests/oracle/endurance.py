"""What only many steps show: PPO reaches a target on every seed, health verdicts see what is wrong, memory and handles stay.

The reward is a rule here, so that "better" is not a matter of opinion: 1 for an answer with an 8 or a 9 in it, the right answer to one
prompt in 18, else −1. Each run is a forked process of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.chaos import zygote
from tests.support.training import LETTERS, Workshop

TARGETS = [4 + LETTERS.index(letter) for letter in "89"]
STEPS, ROWS = 60, 64
SETTINGS: dict[str, Any] = {
    "steps": STEPS,
    "rolloutBatchSize": 128,
    "minibatchSize": 32,
    "criticWarmupSteps": 4,
    "learningRate": 2e-3,
    "criticLearningRate": 1e-2,
    "maxNewTokens": 4,
    "kl": {"coefficient": 0.22, "target": 3.25},
    "normalizeReward": False,
}


def a_workshop(directory: Path) -> Workshop:
    """A volume with an SFT model that answers with letters, and a reward model that nobody asks."""
    from rlhf_trainer.stages import reward, sft

    shop = Workshop(directory, num_rows=ROWS)
    zygote.must(lambda: sft.run(shop.sft(epochs=6)), directory / "sft.log")
    zygote.must(lambda: reward.run(shop.reward(maxSteps=2, minAccuracy=0)), directory / "rm.log")
    return shop


def learned(shop: Workshop, seed: int) -> dict[str, float]:
    """Share of answers that obey the rule while the policy stands still and in the last three rollouts, and the largest KL."""
    lines, _ = _ppo(shop, 100 + seed, seed, SETTINGS)
    rewards = [(line["reward_mean"] + 1) / 2 for line in lines]
    return {"before": sum(rewards[:4]) / 4, "after": sum(rewards[-3:]) / 3, "kl": max(line["kl_mean"] for line in lines)}


def health(shop: Workshop) -> dict[str, list[str]]:
    """Metrics that were called bad: of a sound run, of one whose answers get worse while it is paid more, and of one that runs away."""
    runaway = SETTINGS | {"kl": {"coefficient": 0.0, "target": 0.2}, "learningRate": 0.1, "maxKl": 0, "clip": 0.9}
    runs = {"sound": (SETTINGS, None), "hacked": (SETTINGS, worse_and_worse), "runaway": (runaway, None)}
    found = {}
    for number, (name, (settings, before)) in enumerate(runs.items()):
        _, events = _ppo(shop, 200 + number, 0, settings, before=before or (lambda: None))
        found[name] = sorted({event["metric"] for event in events if event["reason"] == "HealthBad"})
    return found


def worse_and_worse() -> None:
    """The checker of held-out answers, as if the policy forgot more each time: the reward is hacked."""
    from rlhf_trainer.stages.evaluate import Examiner

    matches = itertools.count(0.9, -0.1)
    Examiner.measure = lambda self, model, **_: {"exact_match": next(matches)}  # type: ignore[method-assign]


def memory(shop: Workshop, *, early: int = 50, late: int = 500) -> tuple[float, float]:
    """Resident MiB of a PPO worker at two steps."""
    file = shop.directory / "memory.json"

    def watch() -> None:
        from rlhf_trainer.loop import Loop

        ours, seen = Loop.finish_step, {}

        def wrapped(loop: Any, *step: Any) -> None:
            ours(loop, *step)
            if loop.step in (early, late):
                seen[loop.step] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
                file.write_text(json.dumps(seen))

        Loop.finish_step = wrapped  # type: ignore[method-assign]

    _ppo(shop, 300, 0, SETTINGS | {"steps": late, "rolloutBatchSize": 32, "minibatchSize": 16}, before=watch)
    seen = json.loads(file.read_text())
    return seen[str(early)], seen[str(late)]


def handles(shop: Workshop, *, cycles: int = 20) -> tuple[tuple[int, int], tuple[int, int]]:
    """(open files, threads) of one process after the second and after the last of many stopped and resumed attempts."""
    file = shop.directory / "handles.json"

    def work() -> None:
        from rlhf_trainer.errors import Preempted
        from rlhf_trainer.run import StopFlag
        from rlhf_trainer.stages import sft

        seen, earlier = [], []
        for number in range(400, 400 + cycles):
            policy = {"everySteps": 1, "everySeconds": 900, "keep": 1}
            run = shop.sft(attempt=number, epochs=20, run={"resumeFrom": list(earlier), "checkpoint": policy})
            stop = StopFlag()
            stop.set()
            try:
                sft.run(replace(run, stop=stop))
            except Preempted:
                earlier.append(f"stages/sft/r{number}/checkpoints")
            seen.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
        file.write_text(json.dumps({"seen": seen, "attempts": len(earlier)}))

    ended = zygote.in_child(work, shop.directory / "handles.log")
    assert ended.codes == (0,), ended.log
    found = json.loads(file.read_text())
    assert found["attempts"] == cycles
    return tuple(found["seen"][1]), tuple(found["seen"][-1])


def _ppo(
    shop: Workshop, attempt: int, seed: int, settings: dict[str, Any], *, before: Callable[[], None] = lambda: None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Metrics of all rollouts, and events, of a PPO stage that is paid by the rule."""
    policy = {"everySteps": None, "everySeconds": 86400, "keep": 1}
    run = shop.ppo(attempt=attempt, run={"seed": seed, "checkpoint": policy}, **settings)

    def work() -> None:
        import torch

        from rlhf_trainer.stages import experience, ppo

        def obeys(batch: experience.Answers) -> torch.Tensor:
            return (torch.isin(batch.tokens, torch.tensor(TARGETS)) & batch.mask.bool()).any(dim=1)

        experience.raw_scores = lambda _, batch: obeys(batch).float() * 2 - 1
        before()
        ppo.run(run)

    ended = zygote.in_child(work, shop.directory / f"ppo-{attempt}.log")
    assert ended.codes == (0,), ended.log
    lines = [line for line in _json_lines(run.directory / "metrics.jsonl") if "kl_mean" in line]
    return lines, list(_json_lines(run.directory / "events.jsonl"))


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        yield from map(json.loads, path.read_text().splitlines())
