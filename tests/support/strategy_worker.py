"""One of two gloo workers that train a toy model with every strategy. Writes what it saw as JSON; `test_strategies.py` judges.

Colossal-AI takes a quarter of a minute to import, so one pair of processes does all of it.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlhf_trainer.errors import Preempted, UnsupportedError
from rlhf_trainer.loop import Loop
from rlhf_trainer.report.reporter import Reporter
from rlhf_trainer.run import Run
from rlhf_trainer.schedule import Schedule
from rlhf_trainer.strategy import booster, gemini
from rlhf_trainer.strategy.base import OptimizerConfig, Strategy
from rlhf_trainer.strategy.select import build
from tests.support.runs import a_run

VOCABULARY, WIDTH, ROWS, LENGTH, STEPS = 17, 10, 8, 5, 6
CLIP = 0.05  # below every norm: a strategy that does not clip leaves the trajectory at once
SCALE = 0.3  # no bf16 number
CASES = [
    ("ddp", "fp32"), ("zero1", "fp32"), ("zero2", "fp32"), ("zero2-offload", "fp32"),
    ("ddp", "bf16"), ("zero1", "bf16"), ("zero2", "bf16"), ("zero2-offload", "bf16"), ("gemini", "bf16"), ("gemini-offload", "bf16"),
]  # fmt: skip


class Toy(nn.Module):
    """A language model with odd sizes, so that every shard needs padding, and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.up, self.norm, self.down = nn.Linear(WIDTH, 23), nn.LayerNorm(23), nn.Linear(23, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor([SCALE]))

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed(ids)
        hidden = hidden + self.down(torch.tanh(self.norm(self.up(hidden)))) * self.scale.to(hidden.dtype)
        logits: Tensor = self.head(hidden)
        return logits.float()


def toy(precision: str) -> Toy:
    """Buffers stay fp32 in a bf16 model, as transformers keep the frequencies of rotary positions."""
    torch.manual_seed(1)
    module = Toy()
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    return module


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Rows of one global batch, and how many of their tokens count: rows differ, so a mean of means is wrong."""
    generator = torch.Generator().manual_seed(100 + step)
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1), generator=generator)
    counts = torch.arange(ROWS) % LENGTH + 1
    return ids, (torch.arange(LENGTH)[None] < counts[:, None]).float()


class Position:
    """Where the data stands, as a part of the loop."""

    def __init__(self) -> None:
        self.step = 0

    def state(self) -> dict[str, int]:
        return {"step": self.step}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]


class Training:
    """One model under one strategy. Every worker takes every other row, in micro-batches of one length."""

    def __init__(self, run: Run, strategy: Strategy, precision: str, position: Position | None = None) -> None:
        self.strategy, self.position = strategy, position or Position()
        schedule = Schedule(peak=0.05, total_steps=STEPS, kind="linear", min_fraction=0.1)
        self.trained = strategy.prepare(toy(precision), OptimizerConfig(schedule=schedule, weight_decay=0.1))
        self.loop = Loop(run, strategy, Reporter(run), models={"model": self.trained}, parts={"position": self.position}, total_steps=STEPS)

    def step(self, number: int, poison: bool = False) -> tuple[float, float, bool]:
        ids, mask = batch(number)
        world = self.strategy.world
        mine = slice(world.rank, None, world.size)
        total, losses = float(mask.sum()), []

        def loss_of(part: tuple[Tensor, Tensor]) -> Tensor:
            logits = self.trained.model(part[0][:, :-1])
            each = nn.functional.cross_entropy(logits.transpose(1, 2), part[0][:, 1:], reduction="none")
            loss = (each * part[1]).sum() / total
            losses.append(float(loss.detach()))
            return loss * (math.nan if poison else 1)

        num_micro = 2 if self.strategy.capabilities().accumulation else 1
        micro = list(zip(ids[mine].chunk(num_micro), mask[mine].chunk(num_micro), strict=True))
        report = self.loop.update(self.trained, micro, loss_of, max_norm=CLIP)
        return world.sum_number(sum(losses)), report.grad_norm, report.was_skipped

    def finish_step(self) -> None:
        self.position.step += 1
        self.loop.finish_step({})

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.strategy.state(self.trained)}

    def load(self, state: dict[str, Tensor], num_steps: int) -> None:
        self.trained.num_updates = self.trained.num_applied = num_steps
        self.strategy.load_state(self.trained, state.__getitem__)


def plain_trajectory(workspace: Path, precision: str) -> list[tuple[float, float]]:
    run = a_run(workspace, model={"precision": precision})
    training = Training(run, build(run), precision)
    return [training.step(number)[:2] for number in range(STEPS)]


def examine(workspace: Path, name: str, precision: str, rank: int, world_size: int) -> dict[str, Any]:
    run = a_run(workspace / name, rank=rank, world_size=world_size, plan={"strategy": name}, model={"precision": precision})

    def fresh() -> Training:
        return Training(run, build(run), precision)

    training = fresh()
    trajectory, middle = [], {}
    for number in range(STEPS):
        trajectory.append(training.step(number)[:2])
        if number == 2:
            middle = training.state()
    end = training.state()

    resumed = fresh()
    resumed.load(middle, 3)
    is_same = same(resumed.state(), middle)
    for number in range(3, STEPS):
        resumed.step(number)
    rounded = fresh()  # the mutant of rule T1: masters rebuilt from bf16 weights
    rounded.load({key: value.bfloat16().float() if key.startswith("weight/") else value for key, value in middle.items()}, 3)
    for number in range(3, STEPS):
        rounded.step(number)

    before = resumed.state()
    _, norm, was_skipped = resumed.step(0, poison=rank == 1)
    exported = dict(training.strategy.export(training.trained))
    with training.strategy.rollout_weights(training.trained) as module:
        answers = module(batch(0)[0])
        kept_mode = not module.training
    whole = toy(precision)
    whole.load_state_dict(exported)
    return {
        "trajectory": trajectory,
        "resumes": is_same and same(before, end),
        "mutant_resumes": same(rounded.state(), end),
        "skipped": was_skipped and not math.isfinite(norm) and same(resumed.state(), before),
        "names": sorted(exported) == sorted(toy(precision).state_dict()),
        "rollout": kept_mode and torch.allclose(answers, whole.float()(batch(0)[0]), atol=1e-2 if precision == "bf16" else 1e-6),
        "shrunk": shrunk(workspace, middle, trajectory, precision),
        "refuses": training.strategy.capabilities().accumulation or refuses_accumulation(training),
        "buffers": is_exact(training),
        "mutant_buffers": is_exact(cast(fresh)),
        "state_bytes": sum(4 * tensor.numel() for tensor in end.values()) == training.trained.state_bytes,
    }


def is_exact(training: Training) -> bool:
    return torch.equal(training.trained.module.scale, torch.tensor([SCALE]))


def cast(fresh: Callable[[], Training]) -> Training:
    """The mutant of rule T9: buffers as the plugins leave them."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (booster, gemini):
            patch.setattr(module, "exact_buffers", lambda _: nullcontext())
        return fresh()


def refuses_accumulation(training: Training) -> bool:
    try:
        training.strategy.accumulate(training.trained, last=False)
    except UnsupportedError:
        return True
    return False


def preempt(workspace: Path, rank: int, world_size: int) -> dict[str, Any]:
    """SIGTERM reaches the second worker only: both must stop at one step, and a new attempt of one or two workers goes on from it."""
    run = a_run(workspace / "stopped", rank=rank, world_size=world_size, plan={"strategy": "zero2"})
    training = Training(run, build(run), "fp32", Position())
    stopped_at = None
    for number in range(STEPS):
        if number == 2 and rank == 1:
            run.stop.set()
        try:
            training.step(number)
            training.finish_step()
        except Preempted:
            stopped_at = training.loop.step
            break
    again = {"attempt": 2, "directory": "stages/sft/r2", "resumeFrom": ["stages/sft/r1/checkpoints"]}
    run = a_run(workspace / "stopped", rank=rank, world_size=world_size, plan={"strategy": "zero2"}, **again)
    resumed = Training(run, build(run), "fp32", Position())
    found = resumed.loop.resume()
    position = resumed.position.step
    losses = [resumed.step(number)[0] for number in range(position, STEPS)]
    alone = {}
    if rank == 0:
        again["directory"] = "stages/sft/r3"
        run = a_run(workspace / "stopped", **again)
        smaller = Training(run, build(run), "fp32", Position())
        smaller.loop.resume()
        alone = {"losses": [smaller.step(number)[0] for number in range(smaller.position.step, STEPS)]}
    return {"stopped_at": stopped_at, "found": found, "position": position, "losses": losses, "alone": alone}


def shrunk(workspace: Path, middle: dict[str, Tensor], trajectory: list[tuple[float, float]], precision: str) -> float:
    """Largest difference of losses when one plain worker goes on where two stopped."""
    run = a_run(workspace, model={"precision": precision})
    training = Training(run, build(run), precision)
    training.load(middle, 3)
    return max(abs(training.step(number)[0] - trajectory[number][0]) for number in range(3, STEPS))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def host_accelerator() -> dict[str, str]:
    """Who is Colossal-AI's accelerator after `activate`: with CUDA in sight (which is a lie here), then without."""
    from colossalai.accelerator import get_accelerator

    from rlhf_trainer.strategy import host

    found, is_available = {}, torch.cuda.is_available
    for name, answer in (("with CUDA", True), ("without", False)):
        torch.cuda.is_available = lambda answer=answer: answer  # type: ignore[misc]
        try:
            host.activate()
            found[name] = type(get_accelerator()).__name__
        finally:
            torch.cuda.is_available = is_available
    return found


def main(directory: Path) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=world_size)
    accelerators = host_accelerator()
    seen: dict[str, Any] = {"accelerators": accelerators} | {
        f"plain {precision}": plain_trajectory(directory, precision) for precision in ("fp32", "bf16")
    }
    for name, precision in CASES:
        seen[f"{name} {precision}"] = examine(directory, name, precision, rank, world_size)
    seen["preempted"] = preempt(directory, rank, world_size)
    (directory / f"seen-{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
