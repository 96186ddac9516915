"""`make chaos`: kill, stop, corrupt, fill and resume stages, and compare every ending with that of an undisturbed run.

    python -m tests.chaos [--points 20] [--seed 0] [--stages sft,rm,ppo] [--one-process]

Prints each point as it is tried, and how many were lost: the exit code is 0 only when none was.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator

from tests.chaos import campaign, zygote
from tests.chaos.jobs import STAGES, Volume


def main() -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--points", type=int, default=20, help="kills in each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--one-process", action="store_true", help="leave the gangs of two workers out: they import Colossal-AI")
    options = parser.parse_args()
    began = time.monotonic()
    zygote.warm(colossal=not options.one_process)
    directory, volume = campaign.a_volume()
    tried, lost = 0, []
    with directory:
        for stage in options.stages.split(","):
            for found in scenarios(volume, stage, options.points, random.Random(f"{options.seed} {stage}"), gangs=not options.one_process):
                tried, lost = tried + 1, [*lost, *found]
                print(f"{tried:4} {'LOST' if found else 'ok'}   {stage}", *found, flush=True)
    print(f"{tried} points tried, {len(lost)} lost, {time.monotonic() - began:.0f} s")
    return int(bool(lost))


def scenarios(volume: Volume, stage: str, num_points: int, rng: random.Random, *, gangs: bool) -> Iterator[list[str]]:
    """Everything that happens to one stage, one result a point."""
    whole = campaign.undisturbed(volume, stage)
    kinds = {kind: whole.points.count(kind) for kind in campaign.KINDS}
    print(f"     {stage}: undisturbed, {len(whole.windows)} steps, moments: {kinds}", flush=True)
    yield from campaign.kills(volume, stage, whole, campaign.draw(whole.points, num_points, rng), rng)
    yield from campaign.stops(volume, stage, whole, rng)
    yield from campaign.corruptions(volume, stage, whole)
    yield from campaign.full_disk(volume, stage, whole)
    yield from campaign.not_a_number(volume, stage, whole)
    yield from campaign.synchronous_saves(volume, stage, whole)
    if gangs:
        for strategy in ("ddp", "zero2"):
            yield from campaign.other_workers(volume, stage, whole, strategy, tolerance=1e-4 if stage == "ppo" else 1e-5)


if __name__ == "__main__":
    sys.exit(main())
