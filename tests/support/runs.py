"""Builds run.json documents and `Run`s for tests of the trainer: state what matters, the rest is defaulted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf_api.run_config import RunConfig, run_sha256
from rlhf_trainer.run import Run

ROOT = "/workspace/uid-1"


def run_wire(**changes: Any) -> dict[str, Any]:
    """The wire form of a run.json of an SFT stage; `changes` replace top-level fields."""
    dataset = {"uri": "builtin://datasets/tasks"}
    return {
        "version": 1,
        "job": {"name": "chat", "namespace": "default", "uid": "uid-1"},
        "stage": {"name": "sft", "type": "SFT"},
        "attempt": 1,
        "gang": {"nodes": 1, "processesPerNode": 1, "worldSize": 1, "masterAddress": "127.0.0.1", "masterPort": 29500, "device": "cpu"},
        "root": ROOT,
        "directory": "stages/sft/r1",
        "resumeFrom": [],
        "model": {"precision": "fp32"},
        "config": {"dataset": dataset, "learningRate": 1e-3},
        "plan": {"strategy": "plain"},
        "seed": 42,
        "checkpoint": {"everySteps": None, "everySeconds": 900, "keep": 2},
        "deadlines": {"startupSeconds": 60, "progressSeconds": 120, "shutdownSeconds": 60},
        "progressPort": 0,
    } | changes


def a_run(workspace: Path, *, rank: int = 0, world_size: int = 1, **changes: Any) -> Run:
    """A `Run` below `workspace`, as a worker sees it. Its directory exists."""
    config = RunConfig.from_wire(run_wire(**changes))
    root = workspace / config.root.removeprefix("/workspace/")
    directory = root / config.directory
    directory.mkdir(parents=True, exist_ok=True)
    digest = "sha256:" + run_sha256(config.to_bytes())
    return Run(
        config=config, digest=digest, root=root, directory=directory, secrets=workspace / "secrets", rank=rank, world_size=world_size
    )
