"""The workers of the benchmark, as torchrun or a bare `python` started them: environment in, a gang out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rlhf_api.names import RENDEZVOUS_PORT
from rlhf_trainer.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Gang:
    """Who takes part, and which of them this process is."""

    nodes: int = 1
    per_node: int = 1
    """Processes of a node, one for each of its GPUs."""
    device: Literal["cuda", "cpu"]
    rank: int = 0
    local_rank: int = 0
    master_address: str = "127.0.0.1"
    master_port: int = RENDEZVOUS_PORT

    @property
    def size(self) -> int:
        """Workers in all."""
        return self.nodes * self.per_node

    @property
    def is_leader(self) -> bool:
        """True for the process that writes its node's volume: nodes need not share a disk."""
        return self.local_rank == 0

    @property
    def topology(self) -> dict[str, int]:
        """`spec.topology` of a job on these machines."""
        sizes = {"gpusPerNode": self.per_node} if self.device == "cuda" else {"gpusPerNode": 0, "processesPerNode": self.per_node}
        return {"nodes": self.nodes, **sizes}


def of_environment(device: Literal["cuda", "cpu"], environment: Mapping[str, str] = os.environ) -> Gang:
    """The gang that RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe; without them, one process.

    Raises:
        ConfigError: a variable is no number, or the nodes have different numbers of processes.
    """

    def number(name: str, default: int) -> int:
        text = environment.get(name, str(default))
        if not text.isdecimal():
            raise ConfigError(f"{name}: {text!r} must be a number")
        return int(text)

    size = number("WORLD_SIZE", 1)
    per_node = number("LOCAL_WORLD_SIZE", size)
    if per_node < 1 or size % per_node:
        raise ConfigError(f"WORLD_SIZE: {size} must be a multiple of LOCAL_WORLD_SIZE {per_node}: every node needs as many processes")
    return Gang(
        nodes=size // per_node,
        per_node=per_node,
        device=device,
        rank=number("RANK", 0),
        local_rank=number("LOCAL_RANK", 0),
        master_address=environment.get("MASTER_ADDR", "127.0.0.1"),
        master_port=number("MASTER_PORT", RENDEZVOUS_PORT),
    )
