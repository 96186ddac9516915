"""`rlhf plan`: a valid job file and a profile in, one row a stage out. The figures come from `rlhf_api.planning`, as the operator's do."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rlhf_api.job import RLHFJobSpec
from rlhf_api.outcome import ExitCode
from rlhf_api.planning.plan import DoesNotFit, NotSupported, StagePlan, plan_stage
from rlhf_api.planning.steps import topology_of, written_at
from rlhf_api.profile import ProfileSpec
from rlhf_api.stages import Stage, StageType
from rlhf_api.validate import find_profile_problems
from rlhf_cli.errors import refused
from rlhf_cli.job_files import read_object
from rlhf_cli.tables import print_whole
from rlhf_operator.local.machine import profile_of, this_machine

GIB = 1024**3
TYPICAL_GPUS = ProfileSpec.from_wire(
    {"image": "local", "allowUnpinnedImage": True, "gpu": {"memoryGiB": 80}, "limits": {"maxNodes": 1024, "maxGpus": 16384}}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """A stage as it would run, or why it cannot. Memory is an estimate from shapes; steps are None until Prepare has counted the rows."""

    stage: str
    type: str
    nodes: int
    processes: int
    plan: StagePlan | None = None
    problem: str = ""
    exit_code: int = 0

    def to_wire(self) -> dict[str, Any]:
        """The row for `--output json`."""
        wire: dict[str, Any] = {"stage": self.stage, "type": self.type, "nodes": self.nodes, "processes": self.processes}
        if self.plan is None:
            return wire | {"problem": self.problem}
        return wire | {
            "strategy": self.plan.strategy,
            "microBatchSize": self.plan.micro_batch_size,
            "gradientCheckpointing": self.plan.gradient_checkpointing,
            "gpuMemoryGiB": round(self.plan.gpu_memory_bytes / GIB, 2),
            "hostMemoryGiB": round(self.plan.host_memory_bytes / GIB, 2),
            "totalSteps": self.plan.total_steps,
            "notes": list(self.plan.notes),
        }


def plan_rows(spec: RLHFJobSpec, profile: ProfileSpec) -> list[PlanRow]:
    """A row for every stage that computes; Publish only copies files."""
    return [_row(spec, stage, profile) for stage in spec.stages if stage.publish is None]


def _row(spec: RLHFJobSpec, stage: Stage, profile: ProfileSpec) -> PlanRow:
    topology = topology_of(spec, stage)
    row = PlanRow(stage=stage.name, type=stage.type.value, nodes=topology.nodes, processes=topology.world_size)
    if problem := _over_limits(spec, stage, profile):
        return replace(row, problem=problem, exit_code=ExitCode.CONFIG)
    try:
        return replace(row, plan=plan_stage(spec, stage, profile))
    except DoesNotFit as error:
        return replace(row, problem=str(error), exit_code=ExitCode.CONFIG)
    except NotSupported as error:
        return replace(row, problem=str(error), exit_code=ExitCode.UNSUPPORTED)


def _over_limits(spec: RLHFJobSpec, stage: Stage, profile: ProfileSpec) -> str:
    """The size that the profile does not allow a stage, in words. The operator refuses it before it plans anything (LimitExceeded)."""
    topology, path = topology_of(spec, stage), written_at(spec, stage, "topology")
    if topology.nodes > (most := profile.limits.max_nodes):
        return f"{path}.nodes: {topology.nodes} must be at most {most}, the profile's spec.limits.maxNodes"
    if profile.gpu is not None and topology.num_gpus > (most := profile.limits.max_gpus):
        asked = f"{topology.nodes} nodes x {topology.gpus_per_node} GPUs"
        return f"{path}: {asked} must be at most {most} GPUs, the profile's spec.limits.maxGpus"
    return ""


def print_plan(console: Console, rows: list[PlanRow], basis: str) -> None:
    """The table, what its memory was compared with, and one line for each stage that does not fit."""
    table = Table(box=None, pad_edge=False)
    for heading in ("STAGE", "TYPE", "STRATEGY", "PROCESSES", "MICRO-BATCH", "GPU GiB", "HOST GiB", "STEPS"):
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("STAGE", "TYPE", "STRATEGY") else "right")
    for row in rows:
        table.add_row(row.stage, row.type, *_cells(row))
    print_whole(console, table)
    problems = dict.fromkeys(row.problem for row in rows if row.problem)  # stages that inherit a field have the same problem
    console.print("\n".join(["", basis, *_notes(rows), *problems]), markup=False, highlight=False, soft_wrap=True)


def _notes(rows: list[PlanRow]) -> list[str]:
    """The notes of all plans, each one once, after the stages that it is about."""
    stages: dict[str, list[str]] = {}
    for row in rows:
        for note in row.plan.notes if row.plan else ():
            stages.setdefault(note, []).append(row.stage)
    return [f"{', '.join(named)}: {note}" for note, named in stages.items()]


def _cells(row: PlanRow) -> tuple[str, ...]:
    processes = f"{row.nodes} x {row.processes // row.nodes}" if row.nodes > 1 else str(row.processes)
    if row.plan is None:
        verdict = "not supported" if row.exit_code == ExitCode.UNSUPPORTED else "does not fit"
        return (verdict, processes, "–", "–", "–", "–")
    gpu, host = row.plan.gpu_memory_bytes / GIB, row.plan.host_memory_bytes / GIB
    memory = tuple(f"{gib:.1f}" if gib else "–" for gib in (gpu, host))
    if row.type == StageType.QUANTIZE:
        return (row.plan.strategy, processes, "–", *memory, "–")
    return (row.plan.strategy, processes, str(row.plan.micro_batch_size), *memory, str(row.plan.total_steps or "by rows"))


def basis_of(profile: ProfileSpec, where: str) -> str:
    """What the plan was compared with, in words."""
    memory = f"{profile.resources.per_process.memory} of memory for each process without a GPU"
    if profile.gpu is not None:
        memory = f"GPUs of {profile.gpu.memory_gib} GiB, {profile.resources.per_gpu.memory} of host memory for each; {memory}"
    return f"estimated for {where}: {memory}"


def needs_gpus(spec: RLHFJobSpec) -> bool:
    """True when a stage asks for GPUs."""
    return any(topology_of(spec, stage).gpus_per_node for stage in spec.stages)


def choose_profile(spec: RLHFJobSpec, file: Path | None) -> tuple[ProfileSpec, str]:
    """What to compare a plan with, and that in words: the profile in `file`, else this machine, else typical GPUs where it has none.

    Raises:
        CommandError: 64, the profile breaks rules.
    """
    if file is not None:
        wire = read_object(file, "profile")
        if problems := find_profile_problems(wire):
            raise refused(problems)
        found = profile_spec(wire)
        return found, basis_of(found, str(file))
    machine = this_machine()
    if needs_gpus(spec) and not machine.gpus:
        return TYPICAL_GPUS, basis_of(TYPICAL_GPUS, "typical GPUs, because this machine has none (--profile FILE says otherwise)")
    found = profile_of(machine, spec)
    return found, basis_of(found, "this machine")


def profile_spec(wire: Mapping[str, Any]) -> ProfileSpec:
    """The spec of a ClusterRLHFProfile object, or of its spec alone."""
    return ProfileSpec.from_wire(wire.get("spec", wire))
