"""`python -m rlhf_trainer.bench`: how fast is PPO here, and how much memory does it take? Random weights in, one JSON line out.

    options ► plan (arithmetic) ► volume: random model, random prompts, run.json ► the real PPO stage ► metrics.jsonl, peaks ► JSON line

Mirrors ColossalChat's `benchmark_gpt_dummy.py`: 1000 random prompts of 400 tokens, rows of 512, policy, critic, reward model and reference
of one size, 3 episodes of 8 rollouts, the first episode ignored. Its commands run unchanged but for the program's name:

    torchrun --standalone --nproc_per_node 4 -m rlhf_trainer.bench --model xl --strategy colossalai_zero2
    python -m rlhf_trainer.bench --model 175b --strategy colossalai_gemini_cpu --plan --nodes 4 --gpus-per-node 8

Departures: every rollout is followed by its update, once over all answers (theirs collects 8 rollouts first); sampling is not truncated;
every answer has its full length. At its end the stage saves a checkpoint and two models like any other: not measured, but the disk must
hold them. Notices go to standard error. Exit codes are those of a stage; 69 after a plan: this machine cannot hold the run.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf_api.planning.memory import GIB
from rlhf_trainer import failures
from rlhf_trainer.benchmark import figures, gang, options, planning, volume
from rlhf_trainer.benchmark.gang import Gang
from rlhf_trainer.benchmark.options import Options
from rlhf_trainer.benchmark.planning import Planned
from rlhf_trainer.benchmark.watch import PeakWatch
from rlhf_trainer.errors import ConfigError, InternalError, UnsupportedError
from rlhf_trainer.memory import free_host_bytes

DEFAULT_GPU_GIB = 80
"""Memory of a GPU that is only planned for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or plan one benchmark. Returns the exit code; the JSON line is on standard output."""
    try:
        chosen = options.parse(arguments)
        if (notice := options.alias_notice(arguments)) and os.environ.get("RANK", "0") == "0":
            _say(notice)
        document = _plan(chosen) if chosen.plan else _run(chosen)
    except Exception as error:
        failure = failures.as_stage_error(error)
        if isinstance(failure, InternalError):
            logging.exception("the benchmark failed")
        _say(failure.message + (f" ({failure.hint})" if failure.hint else ""))
        return int(failure.exit_code)
    if document is not None:
        print(json.dumps(document), flush=True)
    return 0


def _plan(chosen: Options) -> dict[str, Any] | None:
    """The plan for GPUs that need not be here, once a launch."""
    here = gang.of_environment("cuda")
    if here.rank != 0:
        return None
    per_node = here.per_node if chosen.gpus_per_node is None else chosen.gpus_per_node
    wanted = Gang(nodes=chosen.nodes or here.nodes, per_node=per_node or 1, device="cuda" if per_node else "cpu")
    return planning.document(chosen, planning.make(chosen, wanted, (chosen.gpu_memory_gib or DEFAULT_GPU_GIB) * GIB))


def _run(chosen: Options) -> dict[str, Any] | None:
    """Write the volume, run the stage on it, read its figures: rank 0 gets the document."""
    import torch

    here = gang.of_environment("cuda" if torch.cuda.is_available() else "cpu")
    planned = planning.make(chosen, here, _gpu_bytes(here))
    with _volume(chosen, here) as directory:
        if here.is_leader:
            _refuse_what_cannot_be(chosen, here, planned, directory)
            volume.write(directory, chosen, here, planned)
        volume.wait_for(directory)
        with redirect_stdout(sys.stderr):  # Colossal-AI prints where it pleases
            peaks = _run_stage(directory, here)
        return _report(chosen, here, planned, directory, peaks) if here.rank == 0 else None


def _run_stage(directory: Path, here: Gang) -> list[dict[str, int]]:
    """The real stage, as a worker runs it. Returns the peaks of every worker."""
    import torch

    from rlhf_trainer import worker
    from rlhf_trainer.launch_options import Options as Places
    from rlhf_trainer.run import StopFlag
    from rlhf_trainer.strategy.world import World

    places = Places(run_file=directory / volume.RUN_FILE, workspace=directory, secrets=directory / "secrets", claims={}, progress_port=0)
    watch = PeakWatch(on_cuda=here.device == "cuda")
    run = replace(worker.build_run(places, None, here.local_rank, StopFlag()), heartbeat=watch)
    worker.run_stage(run)
    device = torch.device("cuda", here.local_rank) if here.device == "cuda" else torch.device("cpu")
    return World(here.rank, here.size, device).gather(watch.peaks)


def _report(chosen: Options, here: Gang, planned: Planned, directory: Path, peaks: list[dict[str, int]]) -> dict[str, Any]:
    attempt = directory / "bench" / volume.ATTEMPT
    lines = [json.loads(line) for line in (attempt / "metrics.jsonl").read_text("utf-8").splitlines()]
    environment = json.loads((attempt / "env.json").read_text("utf-8"))
    return figures.report(chosen, planned, figures.measure(lines, chosen.num_rollouts), peaks, _device_name(here), environment)


@contextmanager
def _volume(chosen: Options, here: Gang) -> Iterator[Path]:
    """A directory that this node's workers share. Its first one makes it and removes it."""
    if here.size == 1:
        directory = Path(tempfile.mkdtemp(prefix="rlhf-bench-", dir=chosen.directory))
    else:  # the launcher is the parent of all of them
        directory = (chosen.directory or Path(tempfile.gettempdir())) / f"rlhf-bench-{os.getppid()}-{here.master_port}"
        if here.is_leader:
            directory.mkdir(mode=0o700)  # one that is there already is somebody else's
    try:
        yield directory
    finally:
        if here.is_leader:
            shutil.rmtree(directory, ignore_errors=True)


def _refuse_what_cannot_be(chosen: Options, here: Gang, planned: Planned, directory: Path) -> None:
    """Refuse before anything is written. What lies on the GPU is tried: the planner's constants may be wrong there.

    Raises:
        UnsupportedError: disk or host memory is too small, or the policy cannot be whole on a GPU. The plan was printed.
    """
    need, where = planned.need, f"{chosen.shape.name}, {here.size} workers, {planned.plan.strategy}"
    host = here.per_node * (need.host if here.device == "cuda" else need.device + need.host)
    disk, free_disk, free_host = volume.disk_bytes(chosen, planned), shutil.disk_usage(directory).free, free_host_bytes()
    problems = []
    if disk > free_disk:
        problems.append(f"needs {_gib(disk)} of disk, {directory} has {_gib(free_disk)} free: try --directory")
    if free_host and host > free_host:
        problems.append(f"needs about {_gib(host)} of host memory on each node (estimate), {_gib(free_host)} are free")
    if planned.plan.rollout == "streamed":
        problems.append("needs streamed rollouts, which are planned but do not run yet")
    if problems:
        if here.rank == 0:
            print(json.dumps(planning.document(chosen, planned)), flush=True)
        raise UnsupportedError(f"{where}: {'; '.join(problems)}", hint="--plan prints the plan alone; take a smaller model")


def _gpu_bytes(here: Gang) -> int:
    import torch

    if here.device == "cpu":
        return 0
    if torch.cuda.device_count() < here.per_node:
        raise ConfigError(f"LOCAL_WORLD_SIZE: {here.per_node} processes must have a GPU each, here are {torch.cuda.device_count()}")
    return int(torch.cuda.get_device_properties(here.local_rank).total_memory)


def _device_name(here: Gang) -> str:
    import torch

    return torch.cuda.get_device_name(here.local_rank) if here.device == "cuda" else "cpu"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB"


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _end(*_: object) -> None:
    """On SIGTERM the volume, which may be large, is removed before this process leaves."""
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a destructor that hangs in a communicator must not keep torchrun waiting
