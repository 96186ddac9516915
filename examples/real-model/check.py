"""What `make demo-real` promises, read from the files of the job that it ran.

    python examples/real-model/check.py .rlhf/real-chat models/real-chat

| fact | where it is read |
|---|---|
| the SFT loss on held-out answers falls by half or more | `eval_loss` against `base_eval_loss`, manifest of the stage's output |
| the reward model orders 9 of 10 held-out pairs rightly | `accuracy`, manifest |
| PPO's mean reward rises | `reward_mean`, `metrics.jsonl`: last third of the rollouts against the first third |
| the first update of a rollout starts at ratio 1 | `first_ratio_deviation`, `metrics.jsonl`, all rollouts |
| the 4-bit model loads and answers | the published directory, through `rlhf_trainer.chat` |

Prints one line a fact, exits 0 when all of them hold and 1 when one does not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SFT_LOSS_SHARE = 0.5
MIN_ACCURACY = 0.9
MAX_RATIO_DEVIATION = 1e-4
QUESTIONS = ("What is 3 plus 4?", "Translate to Chinese: red", "把狗翻译成英文。")
MAX_NEW_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Fact:
    """One promise, and whether the job kept it."""

    text: str
    holds: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Check the facts that the real-model demo promises.")
    parser.add_argument("workdir", type=Path, help="working directory of the job, for example .rlhf/real-chat")
    parser.add_argument("artifact", type=Path, help="published model, for example models/real-chat")
    given = parser.parse_args(arguments)
    facts = [*training_facts(given.workdir), *chat_facts(given.artifact)]
    for fact in facts:
        print(f"{'ok    ' if fact.holds else 'FAILED'}  {fact.text}")
    return 0 if all(fact.holds for fact in facts) else 1


def training_facts(workdir: Path) -> Iterator[Fact]:
    """SFT, reward model and PPO, in the order of the job."""
    stages = newest_attempts(workdir)
    sft = manifest_metrics(stages["sft"])
    before, after = sft["base_eval_loss"], sft["eval_loss"]
    yield Fact(f"SFT: held-out loss {before:.2f} -> {after:.2f}, must be at most half", after <= SFT_LOSS_SHARE * before)
    accuracy = manifest_metrics(stages["rm"])["accuracy"]
    yield Fact(f"RewardModel: held-out accuracy {accuracy:.3f}, must be at least {MIN_ACCURACY}", accuracy >= MIN_ACCURACY)
    rollouts = [line for line in read_lines(stages["ppo"] / "metrics.jsonl") if "rollout_seconds" in line]
    rewards = [line["reward_mean"] for line in rollouts]
    first, last = thirds(rewards)
    yield Fact(f"PPO: mean reward {first:+.2f} -> {last:+.2f} over {len(rewards)} rollouts, must rise", last > first)
    deviation = max(line["first_ratio_deviation"] for line in rollouts if "first_ratio_deviation" in line)
    yield Fact(f"PPO: ratio of the first minibatch is 1 within {deviation:.1e}", deviation <= MAX_RATIO_DEVIATION)


def chat_facts(artifact: Path) -> Iterator[Fact]:
    """The published model, loaded as `rlhf chat` loads it."""
    from rlhf_trainer.chat import Chat

    method = json.loads((artifact / "config.json").read_text("utf-8")).get("quantization_config", {})
    yield Fact(f"Publish: {artifact} is stored in 4 bits", bool(method.get("load_in_4bit")))
    began = time.monotonic()
    chat = Chat.load(artifact)
    for question in QUESTIONS:
        answer = chat.reply([{"role": "user", "content": question}], max_new_tokens=MAX_NEW_TOKENS)
        yield Fact(f"Chat: {question} -> {answer!r} ({time.monotonic() - began:.0f} s)", bool(answer))


def newest_attempts(workdir: Path) -> dict[str, Path]:
    """Directory of the newest attempt of each stage, by the stage's name."""
    found: dict[str, Path] = {}
    for attempt in sorted((workdir / "volume").glob("*/stages/*/r*"), key=lambda path: int(path.name[1:])):
        found[attempt.parent.name] = attempt
    return found


def manifest_metrics(attempt: Path) -> dict[str, float]:
    """What the stage measured of its output."""
    metrics: dict[str, float] = json.loads((attempt / "output" / "manifest.json").read_text("utf-8"))["metrics"]
    return metrics


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def thirds(values: Sequence[float]) -> tuple[float, float]:
    """Mean of the first and of the last third: single rollouts are noisy.

    [1, 1, 5, 2, 2, 8] -> (1.0, 5.0)
    """
    size = max(1, len(values) // 3)
    return sum(values[:size]) / size, sum(values[-size:]) / size


if __name__ == "__main__":
    sys.exit(main())
