"""Real jobs for the tests of tier `local`: job files, `rlhf` as a process, faults, and the weights that came out."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.support.eventually import eventually

STAGE_SECONDS = 300.0
"""Longest time that any one thing may take on two busy cores: a deadline for what hangs, not a measure of speed."""

SFT = {"dataset": {"uri": "builtin://datasets/tiny-chat-sft"}, "maxSteps": 24, "globalBatchSize": 16, "maxLength": 96, "learningRate": 3e-3}
REWARD = {
    "dataset": {"uri": "builtin://datasets/tiny-chat-preference"},
    "maxSteps": 16,
    "globalBatchSize": 16,
    "maxLength": 96,
    "learningRate": 1e-3,
    "minAccuracy": 0,
}
PPO = {
    "prompts": {"uri": "builtin://datasets/tiny-chat-prompts"},
    "steps": 8,
    "rolloutBatchSize": 16,
    "minibatchSize": 8,
    "maxPromptLength": 64,
    "maxNewTokens": 16,
    "criticWarmupSteps": 2,
    "learningRate": 1e-4,
}
NF4 = {"method": "nf4", "maxEvalRows": 64, "maxPerplexityIncrease": 5}


def a_job_file(file: Path, *, stages: Mapping[str, Mapping[str, Any]], **spec: Any) -> Path:
    """Write a job named after the file. `stages` has the block of each stage by its name: sft, rm, ppo, nf4 or publish."""
    types = {"sft": ("SFT", "sft"), "rm": ("RewardModel", "rewardModel"), "ppo": ("PPO", "ppo"), "nf4": ("Quantize", "quantize")}
    types["publish"] = ("Publish", "publish")
    body = {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {"name": file.stem},
        "spec": {
            "model": {"source": {"uri": "builtin://models/tiny-llama"}},
            "topology": {"gpusPerNode": 0},
            "storage": {"size": "1Gi"},
            "checkpoint": {"everySteps": 4},
            "stages": [{"name": name, "type": types[name][0], types[name][1]: dict(block)} for name, block in stages.items()],
        }
        | spec,
    }
    file.write_text(json.dumps(body, indent=1))
    return file


@dataclass(frozen=True, slots=True)
class Finished:
    """How a call of `rlhf` ended."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """What `--output json` printed."""
        found: dict[str, Any] = json.loads(self.out)
        return found


class Rlhf:
    """The `rlhf` program in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever a failed test left running is stopped: it would slow the others down."""
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate()

    def __call__(self, *arguments: object, timeout: float = 4 * STAGE_SECONDS) -> Finished:
        """Run to the end."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=STAGE_SECONDS)
            raise AssertionError(f"rlhf {arguments} took longer than {timeout} s\n{out}\n{err}") from None
        return Finished(process.returncode, out, err)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start it in a session of its own, so that a signal to it reaches no one else."""
        process = subprocess.Popen(
            [sys.executable, "-c", "from rlhf_cli.main import run; run()", *map(str, arguments)],
            cwd=self.directory,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "140"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def workdir(self, job: str) -> Path:
        """Where the job lives."""
        return self.directory / ".rlhf" / job

    def attempts(self, job: str, stage: str) -> list[Path]:
        """The directories of a stage's attempts, oldest first."""
        found = self.workdir(job).glob(f"volume/*/stages/{stage}/r[0-9]*")  # not `**`: what a running job removes would be looked into
        return sorted(found, key=lambda path: int(path.name[1:]))

    def lines(self, job: str, stage: str, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
        """The complete lines that the newest attempt of a stage has written so far."""
        written = [path / file for path in self.attempts(job, stage) if (path / file).is_file()]
        return _lines_of(written[-1]) if written else []

    def step(self, job: str, stage: str) -> int:
        """The newest step of a stage's newest attempt; 0 before the first."""
        attempts = self.attempts(job, stage)
        return max((int(line["step"]) for line in _lines_of(attempts[-1] / "metrics.jsonl")), default=0) if attempts else 0

    def wait_for_step(self, job: str, stage: str, step: int, process: subprocess.Popen[str]) -> None:
        """Return once the stage has finished a step; fail when `rlhf` ends before that."""

        def has_come() -> bool:
            assert process.poll() is None, f"rlhf ended with {process.returncode} before step {step} of {stage}:\n{process.communicate()}"
            return self.step(job, stage) >= step

        eventually(has_come, STAGE_SECONDS)

    def weights(self, job: str, stage: str) -> dict[str, str]:
        """sha256 of every safetensors file that the newest proven output of a stage has."""
        output = self.attempts(job, stage)[-1] / "output"
        assert (output / "manifest.json").is_file(), f"{stage} has no proven output"
        return {
            str(file.relative_to(output)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(output.rglob("*.safetensors"))
        }


def processes_of(directory: Path, module: str) -> list[int]:
    """Process ids of `python -m MODULE` that work below `directory`."""

    def is_ours(command: list[str]) -> bool:
        return module in command and any(argument.startswith(str(directory)) for argument in command)

    return [pid for pid, command in _commands() if is_ours(command)]


def _lines_of(file: Path) -> list[dict[str, Any]]:
    texts = file.read_text().splitlines(keepends=True) if file.is_file() else []
    return [json.loads(text) for text in texts if text.endswith("\n")]


def _commands() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "cmdline").read_text(errors="replace").split("\0")
            except OSError:
                continue


def kill(*pids: int) -> None:
    """`kill -9`. A process that has just ended is fine."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
