"""`make numerics`: every mutant, every equivalence class, learning and endurance; writes `docs/numerics.md` with what was measured.

    python -m tests.oracle.numerics [--only mutants,trl,matrix,cli,learning,endurance]

Prints a line for each check as it ends. The exit code is 0 only when all hold. At most half an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.chaos import zygote
from tests.chaos.jobs import Volume
from tests.oracle import endurance, equivalence, ledger, trl_ppo

PARTS = ("mutants", "trl", "matrix", "cli", "learning", "endurance")
SEEDS = (0, 1, 2)
REWARD_BEFORE, REWARD_AFTER, MAX_KL, MEMORY_CHANGE = 0.1, 0.8, 5.0, 0.02
VERDICTS: dict[str, set[str]] = {"sound": set(), "hacked": {"exact_match"}, "runaway": {"entropy", "kl_mean"}}
INDIFFERENT = {"eos_fraction", "vf_explained_var"}
"""What a model of 16 dimensions is rightly called bad for: four tokens seldom hold an end, and its critic is late."""
Row = tuple[list[str], str | None]
"""Cells of a table, and what is wrong with them."""


def main() -> int:
    """Run the chosen parts and write the document."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle.numerics", description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS))
    only, began = parser.parse_args().only.split(","), time.monotonic()
    zygote.warm(colossal="matrix" in only)
    measured = json.loads(ledger.MEASURED.read_text("utf-8")) if ledger.MEASURED.is_file() else {}
    problems: list[str] = []
    if "mutants" in only:  # in a process of its own: this one has imported the sound trainer
        ended = subprocess.run([sys.executable, "-m", "tests.oracle.mutation"], check=False)
        problems += ["a mutant was not caught"] * (ended.returncode != 0)
    for part, (title, text, header, rows) in _tables().items():
        if part in only:
            cells = [header]
            for row, problem in rows:
                print(f"{'FAILED' if problem else 'ok':6} {' | '.join(row)} {problem or ''}", flush=True)
                cells.append(row)
                problems += [f"{row[0]}: {problem}"] if problem else []
            measured[title] = {"text": text, "rows": cells}
    ledger.MEASURED.parent.mkdir(parents=True, exist_ok=True)
    ledger.MEASURED.write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n", "utf-8")
    ledger.DOCUMENT.write_text(ledger.document(), "utf-8")
    print(f"{len(problems)} problems, {time.monotonic() - began:.0f} s", *problems, sep="\n")
    return int(bool(problems))


def _tables() -> dict[str, tuple[str, str, list[str], Iterator[Row]]]:
    tolerance, floor = equivalence.TOLERANCE, equivalence.FLOOR
    text = (
        "Loss and gradient norm of every step (PPO: value loss, critic's gradient norm, KL) against one plain worker with micro-batches of "
        f"four (PPO in bf16, where a rounding draws another token: against zero2 on two workers). Allowed: {tolerance['fp32']:g} relative in fp32, {tolerance['bf16']:g} in bf16; and a mean difference below "
        f"{floor['fp32']:g} ({floor['bf16']:g}) or within {equivalence.SIGMAS:g} standard errors: no drift one way."
    )
    header = ["case", "largest difference", "mean difference"]
    return {
        "trl": (
            "PPO against TRL",
            "A rollout and two updates by the trainer of trl 1.12.0 and by our stage, on the same models, prompts and answers: differences relative "
            f"to TRL's figures, at most {trl_ppo.TOLERANCE:g}; and the largest one for each mutant of ours, which must be more.",
            ["figure", "difference"],
            _trl(),
        ),
        "matrix": ("Equivalence classes, as workers with a run.json", text, header, _matrix()),
        "cli": ("Equivalence classes, through `rlhf run`", text, header, _cli()),
        "learning": (
            "Learning",
            f"PPO on a rule as reward, {endurance.STEPS} rollouts of {endurance.SETTINGS['rolloutBatchSize']} answers: the share of answers that obey goes from at most "
            f"{REWARD_BEFORE:g} to at least {REWARD_AFTER:g} on every seed, with a KL below {MAX_KL:g} nats an answer.",
            ["seed", "obeys, first four", "obeys, last three", "largest KL"],
            _learning(),
        ),
        "endurance": (
            "Endurance",
            f"Memory at step 500 of PPO is that of step 50 ± {MEMORY_CHANGE:.0%}; twenty stops and resumes leave no file open and no thread.",
            ["what", "early", "late"],
            _endurance(),
        ),
    }


def _trl() -> Iterator[Row]:
    """In a process of its own: TRL changes what it imports."""
    ended = subprocess.run([sys.executable, "-m", "tests.oracle.trl_ppo"], capture_output=True, text=True, check=False)
    found = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("[")]
    for name, difference, holds in found:
        yield [name, f"{difference:.1e}"], None if holds else "is not as it must be"
    if ended.returncode != 0 and all(holds for *_, holds in found):  # it broke off: what it had not reached proves nothing
        yield ["TRL's trainer", "–"], f"ended with {ended.returncode}: {ended.stderr[-500:]}"


def _matrix() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as directory:
        for case, found in equivalence.matrix(Volume(Path(directory)), equivalence.cases()):
            yield [str(case), f"{found.largest:.1e}", f"{found.mean:+.1e}"], found.problem(case.precision)


def _cli() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as directory:
        for name, found, precision in equivalence.through_the_cli(Path(directory)):
            yield [name, f"{found.largest:.1e}", f"{found.mean:+.1e}"], found.problem(precision)


def _learning() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as directory:
        shop = endurance.a_workshop(Path(directory))
        for seed in SEEDS:
            found = endurance.learned(shop, seed)
            is_fine = found["before"] <= REWARD_BEFORE and found["after"] >= REWARD_AFTER and found["kl"] < MAX_KL
            cells = [str(seed), f"{found['before']:.2f}", f"{found['after']:.2f}", f"{found['kl']:.2f}"]
            yield cells, None if is_fine else "missed the target"
        for name, bad in endurance.health(shop).items():
            judged = set(bad) - INDIFFERENT
            is_fine = judged == VERDICTS[name] if name != "runaway" else judged >= VERDICTS[name]
            yield (
                [f"bad verdicts of a run that is {name}", "–", ", ".join(bad) or "none", ""],
                None if is_fine else f"wanted {sorted(VERDICTS[name])}",
            )


def _endurance() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as directory:
        shop = endurance.a_workshop(Path(directory))
        early, late = endurance.memory(shop)
        change = abs(late / early - 1)
        yield (
            ["PPO: MiB resident at step 50, step 500", f"{early:.1f}", f"{late:.1f}"],
            None if change <= MEMORY_CHANGE else f"changed by {change:.1%}",
        )
        first, last = endurance.handles(shop)
        yield (
            ["files and threads after 2, after 20 resumes", f"{first[0]}, {first[1]}", f"{last[0]}, {last[1]}"],
            None if last <= first else "grew",
        )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
