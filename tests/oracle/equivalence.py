"""Training that must not depend on how it is cut: micro-batches, packing, workers and strategies give one trajectory.

`matrix` runs every class through the worker's entry with a run.json of its own, in processes that meet over gloo; `through_the_cli` runs jobs
with `rlhf run`. Both compare losses and gradient norms, step by step, with one plain worker.

Two judgements: the largest relative difference stays within a tolerance that is stated, and the mean of the differences is no drift: an
error that always points one way is a bug, however small, because it adds up.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlhf_api import names
from rlhf_api.planning.plan import DoesNotFit, plan_stage
from rlhf_api.validate import parse_job, parse_profile
from tests.chaos.jobs import Volume
from tests.support.jobs import SFT, Rlhf, a_job_file

Trajectory = list[tuple[float, ...]]
TOLERANCE = {"fp32": 2e-5, "bf16": 0.1}
"""A single number of a single step: about three times what was measured. The mean below is the sharper judgement."""
FLOOR = {"fp32": 2e-6, "bf16": 5e-3}
"""Mean differences below this are rounding, whichever way they point."""
SIGMAS = 4.0
ACCUMULATING = ("ddp", "zero1", "zero2", "zero2-offload")
GEMINI = ("gemini", "gemini-offload")
ACCUMULATED_THROUGH_THE_CLI = (("auto", 1), ("ddp", 2), ("zero2", 2))


@dataclass(frozen=True, slots=True)
class Case:
    """One way to run a stage."""

    stage: str
    precision: str = "fp32"
    strategy: str = "plain"
    world_size: int = 1
    micro_batch: int = 4
    packing: bool = True

    @property
    def reference(self) -> Case:
        """What it is compared with: one plain worker. PPO in bf16 draws another token wherever rounding differs: there it is ZeRO on two workers."""
        if self.stage == "ppo" and self.precision == "bf16":
            return Case(self.stage, self.precision, "zero2", 2)
        return Case(self.stage, self.precision)

    def __str__(self) -> str:
        packed = "" if self.stage != "sft" else ", packed" if self.packing else ", padded"
        return f"{self.stage} {self.precision}: {self.strategy}, {self.world_size} worker(s), micro-batch {self.micro_batch}{packed}"


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two trajectories are apart, relative to the reference."""

    largest: float
    mean: float
    deviation: float
    num_values: int

    def problem(self, precision: str) -> str | None:
        """Why this is not one trajectory; None when it is."""
        if not self.largest <= TOLERANCE[precision]:
            return f"differs by {self.largest:.2g}, at most {TOLERANCE[precision]:g}"
        noise = SIGMAS * self.deviation / math.sqrt(self.num_values)
        if abs(self.mean) > max(FLOOR[precision], noise):
            return f"drifts one way: mean difference {self.mean:.2g}, noise explains {noise:.2g}"
        return None


def difference(found: Trajectory, reference: Trajectory) -> Difference:
    """Relative differences of all numbers of all steps.

    Raises:
        ValueError: one has more steps than the other.
    """
    pairs = [pair for mine, other in zip(found, reference, strict=True) for pair in zip(mine, other, strict=True)]
    residuals = [(mine - other) / max(abs(other), 1e-3) for mine, other in pairs]
    largest = max((abs(residual) for residual in residuals), default=math.nan)
    deviation = statistics.pstdev(residuals) if all(map(math.isfinite, residuals)) else math.nan
    return Difference(largest, statistics.fmean(residuals), deviation, len(residuals))


def cases() -> list[Case]:
    """The whole matrix, as far as the capability table allows. Gemini takes one micro-batch, and computes in bf16."""
    found = [Case("sft", micro_batch=size, packing=packing) for size in (1, 4, 8) for packing in (True, False)]
    found += [
        Case("sft", strategy=strategy, world_size=2, micro_batch=size, packing=packing)
        for strategy in ACCUMULATING
        for size in (1, 4)
        for packing in (True, False)
    ]
    found += [Case("sft", strategy=strategy, world_size=1) for strategy in ACCUMULATING[1:]]
    found += [Case("sft", "bf16", micro_batch=size) for size in (1, 8)]
    found += [Case("sft", "bf16", strategy, 2) for strategy in (*ACCUMULATING, *GEMINI)]
    found += [Case("sft", "bf16", strategy, 1) for strategy in GEMINI]
    for stage in ("rm", "ppo"):
        found += [Case(stage, micro_batch=size) for size in (1, 8)]
        found += [Case(stage, strategy=strategy, world_size=2, micro_batch=size) for strategy in ACCUMULATING for size in (1, 4)]
    found += [Case(stage, "bf16", strategy, 2) for stage in ("rm", "ppo") for strategy in GEMINI]
    return [case for case in found if case != case.reference]


def matrix(volume: Volume, chosen: Sequence[Case]) -> Iterator[tuple[Case, Difference]]:
    """Run the cases, each reference once."""
    references: dict[Case, Trajectory] = {}
    for case in chosen:
        if case.reference not in references:
            references[case.reference] = trajectory(volume, case.reference)
        yield case, difference(trajectory(volume, case), references[case.reference])


def trajectory(volume: Volume, case: Case) -> Trajectory:
    """Loss and gradient norm of every step of a case.

    Raises:
        AssertionError: the stage did not end with code 0.
    """
    config = volume.templates[case.stage].to_wire()["config"]
    config |= {"learningRate": 1e-3}  # large steps would amplify the rounding of the first ones
    config |= {"packing": case.packing} if case.stage == "sft" else {}
    config |= {"ptxCoefficient": 0.0, "pretrainDataset": None, "emaDecay": 0.0} if case.stage == "ppo" else {}
    plan = {"strategy": case.strategy, "microBatchSize": case.micro_batch, "gradientCheckpointing": False}
    job = volume.job(case.stage)
    changes = {"plan": plan, "model": {"precision": case.precision}, "config": {k: v for k, v in config.items() if v is not None}}
    ended = job.attempt(world_size=case.world_size, changes=changes)
    assert set(ended.codes) == {0}, f"{case}: {ended.codes}\n{ended.log}"
    return _numbers(job.attempts[-1] / "metrics.jsonl", case.stage)


def _numbers(file: Path, stage: str) -> Trajectory:
    names = ("value_loss", "critic_grad_norm", "kl_k3") if stage == "ppo" else ("loss", "grad_norm")
    lines = map(json.loads, file.read_text().splitlines())
    return [tuple(line[name] for name in names) for line in lines if names[1] in line]


def through_the_cli(directory: Path) -> Iterator[tuple[str, Difference, str]]:
    """Jobs of one SFT stage through `rlhf run`: strategy x packing x micro-batch on two workers, against one plain worker. (name, difference, precision)

    Nobody writes a micro-batch into a job: the memory of a profile leaves room for one row, and the planner takes several micro-batches a step.
    """
    for precision, strategies in (("fp32", ACCUMULATING), ("bf16", GEMINI)):
        for packing in (True, False):
            reference = _job(directory, "auto", precision, packing, 1)
            padded = "packed" if packing else "padded"
            for strategy in strategies:
                found = _job(directory, strategy, precision, packing, 2)
                yield f"rlhf run, sft {precision}: {strategy}, 2 workers, {padded}", difference(found, reference), precision
            for strategy, num_workers in ACCUMULATED_THROUGH_THE_CLI if precision == "fp32" else ():
                found = _job(directory, strategy, precision, packing, num_workers, is_tight=True)
                name = f"rlhf run, sft {precision}: {strategy}, {num_workers} worker(s), micro-batch 1, {padded}"
                yield name, difference(found, reference), precision


def _job(directory: Path, strategy: str, precision: str, packing: bool, num_processes: int, *, is_tight: bool = False) -> Trajectory:
    name = f"{strategy}-{precision}-{'packed' if packing else 'padded'}-{num_processes}{'-tight' if is_tight else ''}"
    with Rlhf(directory) as rlhf:
        file = a_job_file(
            directory / f"{name}.json",
            stages={"sft": SFT | {"maxSteps": 6, "packing": packing}},
            topology={"gpusPerNode": 0, "processesPerNode": num_processes},
            strategy=strategy,
            model={"source": {"uri": "builtin://models/tiny-llama"}, "precision": precision},
        )
        finished = rlhf("run", file, *(("--profile", a_tight_profile(file)) if is_tight else ()))
        assert finished.code == 0, finished.err + finished.out
        return [(line["loss"], line["grad_norm"]) for line in rlhf.lines(name, "sft") if "grad_norm" in line]


def a_tight_profile(job_file: Path) -> Path:
    """A profile beside the job file whose memory holds micro-batches of one row and no larger ones.

    Raises:
        AssertionError: no amount of memory does that to this job.
    """
    spec = parse_job(json.loads(job_file.read_text())).spec
    for mebibytes in range(600, 1200):
        resources = {"perProcess": {"memory": f"{mebibytes}Mi"}}
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND_PROFILE,
            "metadata": {"name": "tight"},
            "spec": {"image": "local", "allowUnpinnedImage": True, "resources": resources},
        }
        with suppress(DoesNotFit):
            plan = plan_stage(spec, spec.stage("sft"), parse_profile(body).spec)
            assert plan.micro_batch_size == 1, plan
            file = job_file.with_suffix(".profile.json")
            file.write_text(json.dumps(body))
            return file
    raise AssertionError("1200 MiB are not enough for one row")
