"""What may happen to a stage: every scenario is a function that runs a job, and returns a line for each thing that was lost.

A job is lost when it does not end with the bits of the undisturbed one, when its rows are others, when no checkpoint is left, or when the
exit code, the event or the message is not the one that the contract promises.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.jobs import Job, Volume

KINDS = {"step": 9, "save": 8, "retain": 1, "epoch": 1, "export": 1}
"""How many of 20 kills fall on moments of each kind."""
PREEMPTED, STORAGE, DIVERGED, KILLED = 75, 74, 76, -9


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """What a stage ends with when nothing happens."""

    weights: dict[str, str]
    windows: list[list[Any]]
    losses: dict[int, float]
    points: list[str]


def undisturbed(volume: Volume, stage: str) -> Undisturbed:
    """Run the stage once, with all moments counted."""
    job = volume.job(stage)
    ended = job.attempt()
    assert ended.codes == (0,), ended.log
    return Undisturbed(job.weights(), job.windows(), job.losses(), job.points())


def draw(points: list[str], num_points: int, rng: random.Random) -> list[int]:
    """Numbers of moments, spread over the kinds as in `KINDS`; the last moment of every kind is never needed to end a stage."""
    chosen: list[int] = []
    for kind, share in KINDS.items():
        numbers = [number for number, each in enumerate(points, start=1) if each == kind]
        chosen += rng.sample(numbers, min(len(numbers), max(1, round(share * num_points / 20))))
    rng.shuffle(chosen)
    return chosen[:num_points]


def kills(volume: Volume, stage: str, whole: Undisturbed, numbers: list[int], rng: random.Random) -> Iterator[list[str]]:
    """SIGKILL at each of the moments; every third job is killed a second time while it resumes."""
    for index, number in enumerate(numbers):
        name = f"{stage}: SIGKILL at moment {number} of {len(whole.points)} ({whole.points[number - 1]})"
        job = volume.job(stage)
        ended = job.attempt("kill", number)
        if ended.codes != (KILLED,):
            # a save beside the training shifts moments: the last ones may not come
            yield judged(name, job, whole) if ended.codes == (0,) else [f"{name}: exit codes {ended.codes}\n{ended.log}"]
            continue
        before = job.complete_steps()
        if index % 3 == 2:
            job.attempt("kill", rng.randint(1, max(2, number // 2)))
            if before and not job.complete_steps():
                yield [f"{name}: no complete checkpoint is left"]
                continue
        yield _finish(name, job, whole)


def stops(volume: Volume, stage: str, whole: Undisturbed, rng: random.Random) -> Iterator[list[str]]:
    """SIGTERM in a step and in a save: the attempt saves, ends Preempted, and the next one goes on from there."""
    for kind in ("step", "save"):
        numbers = [number for number, each in enumerate(whole.points, start=1) if each == kind]
        number = rng.choice(numbers[: len(numbers) // 2])
        name = f"{stage}: SIGTERM at moment {number} ({kind})"
        job = volume.job(stage)
        ended = job.attempt("term", number)
        if ended.codes != (PREEMPTED,):
            yield [f"{name}: exit codes {ended.codes}, wanted {PREEMPTED}\n{ended.log}"]
        elif not job.complete_steps():
            yield [f"{name}: nothing was saved"]
        else:
            yield _finish(name, job, whole)


def corruptions(volume: Volume, stage: str, whole: Undisturbed) -> Iterator[list[str]]:
    """Each file of the newest checkpoint, one byte changed: it is named in an event, and the checkpoint before it is used."""
    job = _stopped_late(volume, stage, whole)
    newest, older, *_ = job.complete_steps()
    directory = next(path / "checkpoints" / str(newest) for path in job.attempts if (path / "checkpoints" / str(newest)).is_dir())
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = f"{stage}: a byte of {file.relative_to(directory)} changed"
        sound = file.read_bytes()
        file.write_bytes(sound[:-2] + bytes([sound[-2] ^ 1]) + sound[-1:])
        again = Job(volume, stage, list(job.attempts))
        lost = _finish(name, again, whole)
        skipped = [event for event in again.events() if event["reason"] == "CheckpointSkipped"]
        if not any(file.name in event["message"] for event in skipped):
            lost.append(f"{name}: no event names the file")
        resumed = int((again.attempts[-1] / "chaos-0" / "resumed").read_text())
        if resumed != older:
            lost.append(f"{name}: resumed from step {resumed}, the older checkpoint is {older}")
        file.write_bytes(sound)
        yield lost


def full_disk(volume: Volume, stage: str, whole: Undisturbed) -> Iterator[list[str]]:
    """The kernel refuses to write while a checkpoint is saved: Storage, the older checkpoint is intact, nothing half is left."""
    saves = [number for number, kind in enumerate(whole.points, start=1) if kind == "save"]
    name = f"{stage}: a full disk during a save"
    job = volume.job(stage)
    ended = job.attempt("full", saves[len(saves) // 2])
    if ended.codes != (STORAGE,):
        yield [f"{name}: exit codes {ended.codes}, wanted {STORAGE}\n{ended.log}"]
    elif not job.complete_steps():
        yield [f"{name}: no complete checkpoint is left"]
    else:
        yield _finish(name, job, whole)


def not_a_number(volume: Volume, stage: str, whole: Undisturbed) -> Iterator[list[str]]:
    """Every loss is NaN from the middle on: Diverged, and a good checkpoint is left, from which the stage can end.

    Steps without an update were counted before the third one: the weights at the end are not those of the undisturbed run.
    """
    steps = [number for number, kind in enumerate(whole.points, start=1) if kind == "step"]
    name = f"{stage}: NaN from the middle on"
    job = volume.job(stage)
    ended = job.attempt("nan", steps[len(steps) // 2])
    if ended.codes != (DIVERGED,):
        yield [f"{name}: exit codes {ended.codes}, wanted {DIVERGED}\n{ended.log}"]
        return
    lost = [] if job.complete_steps() else [f"{name}: no complete checkpoint is left"]
    again = job.attempt()
    yield lost if again.codes == (0,) else [*lost, f"{name}: the next attempt, without NaN, ended with {again.codes}\n{again.log}"]


def other_workers(volume: Volume, stage: str, whole: Undisturbed, strategy: str, tolerance: float) -> Iterator[list[str]]:
    """1, then 2, then 1 worker: the same rows, and losses within `tolerance` of those of one worker."""
    name = f"{stage}: 1 → 2 → 1 workers ({strategy})"
    steps = [number for number, kind in enumerate(whole.points, start=1) if kind == "step"]
    job = volume.job(stage)
    first = job.attempt("term", steps[len(steps) // 3])
    second = job.attempt("term", steps[len(steps) // 4], world_size=2, strategy=strategy)
    if (first.codes, second.codes) != ((PREEMPTED,), (PREEMPTED, PREEMPTED)):
        yield [f"{name}: exit codes {first.codes} and {second.codes}\n{second.log}"]
        return
    third = job.attempt()
    lost = [] if third.codes == (0,) else [f"{name}: exit codes {third.codes}\n{third.log}"]
    if job.windows() != whole.windows:
        lost.append(f"{name}: other rows")
    far = {step: (loss, whole.losses[step]) for step, loss in job.losses().items() if abs(loss - whole.losses[step]) > tolerance}
    yield lost + ([f"{name}: losses differ by more than {tolerance:g}: {far}"] if far else [])


def synchronous_saves(volume: Volume, stage: str, whole: Undisturbed) -> Iterator[list[str]]:
    """Saves at every step, and the last one only: neither how often nor how a checkpoint is written changes a weight."""
    for every_steps in (1, None):
        job = volume.job(stage)
        ended = job.attempt(changes={"checkpoint": {"everySteps": every_steps, "everySeconds": 86400, "keep": 1}})
        name = f"{stage}: a save every {every_steps or 'last'} step"
        yield judged(name, job, whole) if ended.codes == (0,) else [f"{name}: exit codes {ended.codes}\n{ended.log}"]


def judged(name: str, job: Job, whole: Undisturbed) -> list[str]:
    """What a finished job lost against the undisturbed one."""
    lost = [] if job.weights() == whole.weights else [f"{name}: other weights"]
    return lost if job.windows() == whole.windows else [*lost, f"{name}: other rows: {job.windows()} for {whole.windows}"]


def _finish(name: str, job: Job, whole: Undisturbed) -> list[str]:
    """Resume undisturbed and judge."""
    before = job.complete_steps()
    ended = job.attempt()
    if ended.codes != (0,):
        return [f"{name}: the next attempt ended with {ended.codes}\n{ended.log}"]
    resumed = int((job.attempts[-1] / "chaos-0" / "resumed").read_text())
    # corruptions hide the newest one on purpose: `complete_steps` does not count it then
    lost = [] if resumed == max(before, default=0) else [f"{name}: resumed from step {resumed}, there was {max(before, default=0)}"]
    return lost + judged(name, job, whole)


def _stopped_late(volume: Volume, stage: str, whole: Undisturbed) -> Job:
    """A job that was stopped when it had at least two checkpoints."""
    steps = [number for number, kind in enumerate(whole.points, start=1) if kind == "step"]
    job = volume.job(stage)
    ended = job.attempt("term", steps[len(steps) // 2])
    assert ended.codes == (PREEMPTED,), ended.log
    assert len(job.complete_steps()) > 1, job.complete_steps()
    return job


def a_volume() -> tuple[tempfile.TemporaryDirectory[str], Volume]:
    """A volume in a directory that goes with it."""
    directory = tempfile.TemporaryDirectory(prefix="rlhf-chaos-")
    return directory, Volume(Path(directory.name))
