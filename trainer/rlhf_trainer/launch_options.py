"""Where the launcher finds things: arguments (rule L9), the pod's place in the gang, and the verified run.json."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rlhf_api.run_config import RunConfig, run_sha256
from rlhf_trainer.errors import ConfigError

CONTAINER_WORKSPACE = "/workspace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Paths of one launch. The defaults are the container's; the embedded backend passes its own."""

    run_file: Path = Path("/etc/rlhf/run.json")
    secrets: Path = Path("/etc/rlhf/secrets")
    workspace: Path = Path(CONTAINER_WORKSPACE)
    claims: Mapping[str, Path]
    """Explicit directories of claims; any other claim is below `/claims`."""
    termination_log: Path = Path("/dev/termination-log")
    progress_port: int | None = None
    """None: the port of run.json, on all interfaces. A number: that port on loopback only; 0 serves nothing."""
    exchange: Path | None = None
    """Set by the launcher for its workers."""

    def arguments(self) -> list[str]:
        """These options as arguments of a worker."""
        pairs = [("--run-file", self.run_file), ("--secrets", self.secrets), ("--workspace", self.workspace)]
        arguments = [str(part) for pair in pairs for part in pair]
        arguments += [part for name, path in self.claims.items() for part in ("--claim", f"{name}={path}")]
        if self.progress_port is not None:
            arguments += ["--progress-port", str(self.progress_port)]
        return arguments + (["--exchange", str(self.exchange)] if self.exchange else [])

    def root_of(self, config: RunConfig) -> Path:
        """`root` of run.json with the workspace in the place of `/workspace`.

        Raises:
            ConfigError: the root is not below `/workspace`.
        """
        try:
            return self.workspace / PurePosixPath(config.root).relative_to(CONTAINER_WORKSPACE)
        except ValueError as error:
            raise ConfigError(f"run.json: root: {config.root!r} must be below {CONTAINER_WORKSPACE}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """This pod among the pods of its gang. The environment wins over run.json, which the embedded backend does not rewrite."""

    num_nodes: int
    node_rank: int
    num_local: int
    master_address: str
    master_port: int

    @classmethod
    def of(cls, config: RunConfig, environment: Mapping[str, str] = os.environ) -> Place:
        """The place that `PET_*` variables and run.json give.

        Raises:
            ConfigError: a variable is no number, or the two disagree about the size of the gang.
        """
        gang = config.gang
        place = cls(
            num_nodes=_number(environment, "PET_NNODES", gang.nodes),
            node_rank=_number(environment, "PET_NODE_RANK", 0),
            num_local=_number(environment, "PET_NPROC_PER_NODE", gang.processes_per_node),
            master_address=environment.get("PET_MASTER_ADDR", gang.master_address),
            master_port=_number(environment, "PET_MASTER_PORT", gang.master_port),
        )
        if place.num_nodes * place.num_local != gang.world_size:
            raise ConfigError(
                f"PET_NNODES × PET_NPROC_PER_NODE: {place.num_nodes} × {place.num_local} must be the gang's worldSize {gang.world_size}"
            )
        return place

    @property
    def first_rank(self) -> int:
        """The rank, in the whole gang, of this pod's local worker 0."""
        return self.node_rank * self.num_local

    @property
    def is_single(self) -> bool:
        """One worker in all: no rendezvous, no torch in the launcher (rule L8)."""
        return self.num_nodes == 1 and self.num_local == 1


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Options from the command line."""
    parser = argparse.ArgumentParser(prog="rlhf-launch", description="Run the workers of one stage attempt on this node.")
    for name in ("--run-file", "--secrets", "--workspace", "--termination-log", "--exchange"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--claim", action="append", default=[], metavar="NAME=DIR", type=_claim)
    parser.add_argument("--progress-port", type=int)
    parsed = vars(parser.parse_args(arguments))
    return Options(claims=dict(parsed.pop("claim")), **{name: value for name, value in parsed.items() if value is not None})


def read_run(options: Options, environment: Mapping[str, str] = os.environ) -> tuple[RunConfig, str]:
    """run.json and its digest, checked against `RLHF_RUN_SHA256`, which is part of the immutable pod template.

    Raises:
        ConfigError: it cannot be read, is not a run.json, or is not the one that the operator wrote.
    """
    try:
        content = options.run_file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{options.run_file}: cannot be read: {error.strerror}") from error
    expected = environment.get("RLHF_RUN_SHA256", "")
    if expected and run_sha256(content) != expected:
        raise ConfigError(f"{options.run_file}: sha256 {run_sha256(content)}, RLHF_RUN_SHA256 says {expected}: it was changed")
    try:
        return RunConfig.load(options.run_file), "sha256:" + run_sha256(content)
    except ValueError as error:
        raise ConfigError(f"{options.run_file}: not a run.json of this version: {error}") from error


def _claim(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=DIR")
    return name, Path(path)


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(f"{name}: {text!r} must be a number")
    return int(text)
