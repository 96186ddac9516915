"""A volume with an SFT and a reward model on it, and attempts of each stage as the operator would write them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_api.run_config import RunConfig
from rlhf_trainer.errors import InputError
from rlhf_trainer.stages import reward, sft
from rlhf_trainer.state import manifest
from tests.chaos import zygote
from tests.chaos.points import Points
from tests.support.training import Workshop

STAGES = ("sft", "rm", "ppo")
CHECKPOINTS = {"everySteps": 2, "everySeconds": 86400, "keep": 2}


class Volume:
    """Where all attempts of a campaign live."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        shop = Workshop(directory)
        zygote.must(lambda: sft.run(shop.sft(maxSteps=3)), directory / "sft.log")
        zygote.must(lambda: reward.run(shop.reward(maxSteps=3, minAccuracy=0)), directory / "rm.log")
        ptx = {"ptxCoefficient": 0.1, "pretrainDataset": {"uri": "pvc://c/d"}, "emaDecay": 0.5}
        kl = {"controller": "adaptive", "target": 2, "horizon": 100}
        runs = {
            "sft": shop.sft(epochs=4),
            "rm": shop.reward(epochs=4, minAccuracy=0),
            "ppo": shop.ppo(steps=8, criticWarmupSteps=1, kl=kl, **ptx),
        }
        self.templates: dict[str, RunConfig] = {stage: run.config for stage, run in runs.items()}
        self.root = shop.root
        self._number = 1

    def job(self, stage: str) -> Job:
        """A job that has not begun."""
        return Job(self, stage)

    def next_number(self) -> int:
        self._number += 1
        return self._number


@dataclass(slots=True)
class Job:
    """The attempts of one stage, each resuming from those before it."""

    volume: Volume
    stage: str
    attempts: list[Path] = field(default_factory=list)

    def attempt(
        self, action: str = "none", at: int = 0, *, world_size: int = 1, strategy: str = "plain", changes: dict[str, Any] | None = None
    ) -> zygote.Ended:
        """Run one more attempt; at a moment (on rank 0) something happens to it."""
        number = self.volume.next_number()
        directory = self.volume.root / "stages" / self.stage / f"r{number}"
        run_file = self.volume.directory / f"{self.stage}-{number}.json"
        run_file.write_bytes(self._document(number, world_size, strategy, changes or {}).to_bytes())

        def prepare(rank: int) -> None:
            Points(directory / f"chaos-{rank}", action if rank == 0 else "none", at).install()

        ended = zygote.run(run_file, self.volume.directory, world_size=world_size, prepare=prepare)
        self.attempts.append(directory)
        return ended

    def _document(self, number: int, world_size: int, strategy: str, changes: dict[str, Any]) -> RunConfig:
        wire = self.volume.templates[self.stage].to_wire()
        wire |= {
            "attempt": number,
            "directory": f"stages/{self.stage}/r{number}",
            "resumeFrom": [f"{path.relative_to(self.volume.root)}/checkpoints" for path in reversed(self.attempts)],
            "checkpoint": CHECKPOINTS,
            "gang": wire["gang"] | {"processesPerNode": world_size, "worldSize": world_size},
            "plan": wire["plan"] | {"strategy": strategy},
        }
        return RunConfig.from_wire(wire | changes)

    def weights(self) -> dict[str, str]:
        """sha256 of every weight file of the proven output."""
        output = self.attempts[-1] / "output"
        manifest.verify(output)
        files = sorted(output.rglob("*.safetensors"))
        return {path.relative_to(output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def points(self) -> list[str]:
        """The moments of the newest attempt."""
        return (self.attempts[-1] / "chaos-0" / "points").read_text().splitlines()

    def windows(self) -> list[list[Any]]:
        """The rows behind the final weights: of each attempt those up to the checkpoint that the next one resumed from."""
        kept: list[list[Any]] = []
        for path in self.attempts:
            resumed = path / "chaos-0" / "resumed"
            if resumed.is_file():  # else it ended before it did anything
                found = [json.loads(line) for line in _lines(path / "chaos-0" / "windows.jsonl")]
                kept = kept[: int(resumed.read_text())] + [window[1:] for window in found if window[0] == 0]
        return kept

    def losses(self) -> dict[int, float]:
        """Loss by step, of the newest attempt, which took over the lines of the earlier ones."""
        lines = map(json.loads, _lines(self.attempts[-1] / "metrics.jsonl"))
        return {line["step"]: line.get("loss", line.get("value_loss")) for line in lines if "grad_norm" in line or "value_loss" in line}

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in _lines(self.attempts[-1] / "events.jsonl")]

    def complete_steps(self) -> list[int]:
        """Steps of all checkpoints that verify, newest first."""
        found = []
        for path in self.attempts:
            for directory in (path / "checkpoints").glob("[0-9]*"):
                try:
                    found.append(manifest.verify(directory).step)
                except InputError:
                    continue
        return sorted(found, reverse=True)


def _lines(path: Path) -> Sequence[str]:
    return path.read_text().splitlines() if path.is_file() else []
