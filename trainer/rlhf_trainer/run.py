"""What a stage is given (`Run`) and what it hands back (`StageResult`). No torch here: Prepare and Publish never load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_api.outcome import CheckpointRef
from rlhf_api.run_config import RunConfig
from rlhf_trainer.errors import Preempted
from rlhf_trainer.report.heartbeat import Heartbeat


class StopFlag:
    """Raised by SIGTERM, read at step boundaries. A signal handler may do no more than this."""

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        self.is_set = False

    def set(self, *_: object) -> None:
        """Raise the flag. The arguments are those of a signal handler."""
        self.is_set = True


class Latest:
    """The newest facts of the stage, kept by the reporter: an attempt that fails still says how far it got."""

    __slots__ = ("checkpoint", "metrics", "resumed_from", "step")

    def __init__(self) -> None:
        self.step = 0
        self.metrics: Mapping[str, float] = {}
        self.checkpoint: CheckpointRef | None = None
        self.resumed_from: CheckpointRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One attempt of a stage as one worker sees it."""

    config: RunConfig
    """run.json: everything resolved, nothing left to default."""
    digest: str
    """`sha256:…` of the bytes of run.json."""
    root: Path
    """The job's directory on the volume: every path of run.json and of manifests is relative to it."""
    directory: Path
    """The attempt's own directory, the only one it writes to (Prepare also adds to `sources/` and `datasets/`)."""
    secrets: Path
    """One directory a secret, one file a key. Empty but for Prepare and Publish."""
    claims: Mapping[str, Path] = field(default_factory=dict)
    """Directories behind `pvc://<claim>/…`."""
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    progress_port: int = 0
    """0: nothing is served."""
    progress_host: str = "127.0.0.1"
    """Where it is served; all interfaces in a pod."""
    heartbeat: Heartbeat = field(default_factory=Heartbeat.unwatched)
    """Call `heartbeat.beat(state, step)` after every finished piece of work: silence ends the attempt as Stalled."""
    stop: StopFlag = field(default_factory=StopFlag)
    latest: Latest = field(default_factory=Latest)

    @property
    def output(self) -> Path:
        """Where the output goes; `output/manifest.json` is written last."""
        return self.directory / "output"

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    @property
    def is_first(self) -> bool:
        """True for the worker that writes files, serves progress and logs."""
        return self.rank == 0

    def stop_requested(self) -> bool:
        """True once this worker got SIGTERM. Training stages leave it to `loop.py`: all workers stop at the same step."""
        return self.stop.is_set

    def stop_if_requested(self, step: int) -> None:
        """For stages of one process, between two pieces of work that a next attempt finds done.

        Raises:
            Preempted: SIGTERM came.
        """
        if self.stop.is_set:
            raise Preempted(f"stopped on request after step {step}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """What a finished stage says. `worker.py` hands it to the launcher, the operator proves it."""

    output_digest: str
    """Digest of `output/manifest.json`."""
    step: int
    """Optimizer steps (PPO: rollouts; else pieces of work) that were finished."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint: CheckpointRef | None = None
