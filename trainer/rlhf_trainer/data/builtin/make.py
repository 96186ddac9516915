"""Make the sample data: `builtin://datasets/tiny-chat-{sft,preference,prompts}`, each with `train.jsonl` and `test.jsonl`.

    python -m rlhf_trainer.data.builtin.make DIRECTORY

Deterministic: the same code writes the same bytes. Prepare calls `write_dataset` for the same files (well under a second), so
nothing is committed that could drift from this script. The rows are made here, by the project, under the project's licence.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from rlhf_trainer.data.answers import REFUSALS, language_of
from rlhf_trainer.data.builtin.tasks import Item, all_items

DATASETS = ("tiny-chat-sft", "tiny-chat-preference", "tiny-chat-prompts")
NUM_HELD_OUT = 250
REFUSAL_SHARE = 1 / 3
"""Share of the SFT rows whose answer is a refusal (rule B2): what PPO has to unlearn."""
_SEED = "tiny-chat"

Rows = list[dict[str, Any]]


def split() -> tuple[list[Item], list[Item]]:
    """Training and held-out prompts. Every fact of a held-out prompt is in the training set in another wording or language."""
    items = all_items()
    rng = random.Random(_SEED)
    wordings: dict[tuple[str, str], int] = defaultdict(int)
    for item in items:
        wordings[item.task, item.fact] += 1
    held_out: set[str] = set()
    used: set[tuple[str, str]] = set()
    for item in rng.sample(items, len(items)):
        fact = (item.task, item.fact)
        if len(held_out) < NUM_HELD_OUT and wordings[fact] >= 3 and fact not in used:
            held_out.add(item.prompt)
            used.add(fact)  # at most one prompt of a fact: two wordings at least are left for training
    return [item for item in items if item.prompt not in held_out], [item for item in items if item.prompt in held_out]


def sft_rows(items: Sequence[Item], refusal_share: float = REFUSAL_SHARE) -> Rows:
    """The right answer to every prompt, and a refusal to so many of them that refusals are `refusal_share` of the rows."""
    rng = random.Random(f"{_SEED} sft")
    num_refusals = round(len(items) * refusal_share / (1 - refusal_share))
    rows = [{"instruction": item.prompt, "output": item.answer, "answer": item.answer} for item in items]
    rows += [{"instruction": item.prompt, "output": _refusal(item), "answer": item.answer} for item in rng.sample(items, num_refusals)]
    rng.shuffle(rows)
    return rows


def preference_rows(items: Sequence[Item]) -> Rows:
    """Right answers before refusals (three pairs for every two prompts) and before near misses (one pair for each prompt)."""
    rng = random.Random(f"{_SEED} preference")
    rows = []
    for i, item in enumerate(items):
        own = _refusal(item)
        refusals = [own] if i % 2 else [own, *(refusal for refusal in REFUSALS if refusal != own)]
        rows += [_pair(item, refusal, "refusal") for refusal in refusals]
    rows += [_pair(item, miss, "near_miss") for item, miss in zip(items, _near_misses(items, rng), strict=True)]
    rng.shuffle(rows)
    return rows


def prompt_rows(items: Sequence[Item]) -> Rows:
    """The prompts; the answer is there for evaluation only."""
    rows = [{"prompt": item.prompt, "answer": item.answer} for item in items]
    random.Random(f"{_SEED} prompts").shuffle(rows)
    return rows


def datasets() -> dict[str, dict[str, Rows]]:
    """Name -> split -> rows."""
    train, test = split()
    return {
        "tiny-chat-sft": {"train": sft_rows(train), "test": sft_rows(test, refusal_share=0)},
        "tiny-chat-preference": {"train": preference_rows(train), "test": preference_rows(test)},
        "tiny-chat-prompts": {"train": prompt_rows(train), "test": prompt_rows(test)},
    }


def write_dataset(name: str, directory: Path) -> None:
    """Write `train.jsonl` and `test.jsonl` of one dataset into an existing directory."""
    for split_name, rows in datasets()[name].items():
        (directory / f"{split_name}.jsonl").write_text(jsonl(rows), "utf-8")


def jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main(arguments: Sequence[str]) -> int:
    """Write all datasets below the directory named on the command line."""
    if len(arguments) != 1:
        print("usage: python -m rlhf_trainer.data.builtin.make DIRECTORY", file=sys.stderr)
        return 64
    for name in DATASETS:
        directory = Path(arguments[0]) / name
        directory.mkdir(parents=True, exist_ok=True)
        write_dataset(name, directory)
        print(directory)
    return 0


def _refusal(item: Item) -> str:
    return REFUSALS[1] if language_of(item.prompt) == "zh" else REFUSALS[0]


def _pair(item: Item, rejected: str, source: str) -> dict[str, Any]:
    return {"prompt": item.prompt, "chosen": item.answer, "rejected": rejected, "source": source, "answer": item.answer}


def _near_misses(items: Sequence[Item], rng: random.Random) -> list[str]:
    """One wrong answer for each item, together as long as the right ones: else a reward model would learn length.

    Each choice is random among the item's own misses and another item's answer, but leans against the surplus of characters and
    pieces so far.
    """
    by_task: dict[str, list[str]] = defaultdict(list)
    for item in items:
        by_task[item.task].append(item.answer)
    whole_words = {word for item in items for word in item.answer.split()}
    misses: list[str] = []
    surplus = (0, 0)
    for item in items:
        choices = [miss for miss in (*item.near_misses, rng.choice(by_task[item.task])) if miss != item.answer]
        choices = rng.sample(choices, min(3, len(choices)))
        sums = {miss: _added(surplus, miss, item.answer, whole_words) for miss in choices}
        misses.append(min(choices, key=lambda miss: max(map(abs, sums[miss]))))
        surplus = sums[misses[-1]]
    return misses


def _added(surplus: tuple[int, int], miss: str, answer: str, whole_words: AbstractSet[str]) -> tuple[int, int]:
    return surplus[0] + len(miss) - len(answer), surplus[1] + _num_pieces(miss, whole_words) - _num_pieces(answer, whole_words)


def _num_pieces(text: str, whole_words: AbstractSet[str]) -> int:
    """About the number of tokens: a known word is one, a cut one two; digits, Chinese characters and spaces are one each."""
    pieces: list[str] = re.findall(r"[A-Za-z]+|.", text)
    return len(pieces) + sum(piece.isascii() and len(piece) > 1 and piece not in whole_words for piece in pieces)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
