"""The gang as one worker sees it: its rank, its device, and the few collective operations that the trainer needs.

Everything works without a process group too, as a gang of one. Messages between workers are JSON in byte tensors: nothing is unpickled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rlhf_trainer.errors import CommunicationError


@dataclass(frozen=True, slots=True)
class World:
    """One gang. All workers must call the same operations in the same order."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def all_sum(self, value: Tensor) -> Tensor:
        """The sum over all workers, in a new tensor on this worker's device."""
        total = value.detach().to(self.device, copy=True)
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def sum_number(self, value: float) -> float:
        """The sum of one number over all workers, in double precision: counts of tokens and rows stay exact."""
        return float(self.all_sum(torch.tensor(value, dtype=torch.float64)).item())

    def agree(self, flag: int) -> int:
        """The largest flag of all workers: what one of them knows, all of them know (rule L4)."""
        if self.size == 1:
            return flag
        highest = torch.tensor(flag, dtype=torch.int64, device=self.device)
        dist.all_reduce(highest, op=dist.ReduceOp.MAX)
        return int(highest.item())

    def share(self, value: Any = None) -> Any:
        """Rank 0's JSON value on every worker."""
        if self.size == 1:
            return value
        return self._gather_json(value if self.is_first else None)[0]

    def gather(self, value: Any) -> list[Any]:
        """Every worker's JSON value, by rank, on every worker."""
        return [value] if self.size == 1 else self._gather_json(value)

    def barrier(self, timeout_seconds: float | None = None) -> None:
        """Wait until all workers are here.

        Raises:
            CommunicationError: they were not within the timeout (gloo only; NCCL uses the process group's).
        """
        if self.size == 1:
            return
        try:
            if timeout_seconds is None or dist.get_backend() != "gloo":
                dist.barrier()
            else:
                dist.monitored_barrier(timeout=timedelta(seconds=timeout_seconds))
        except RuntimeError as error:
            raise CommunicationError(f"workers did not meet: {error}") from error

    def _gather_json(self, value: Any) -> list[Any]:
        content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self.device)
        sizes = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([content.numel()], dtype=torch.int64, device=self.device))
        longest = max(int(size.item()) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8, device=self.device)
        padded[: content.numel()] = content
        parts = [torch.zeros_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return [json.loads(bytes(part[: int(size.item())].cpu().numpy())) for part, size in zip(parts, sizes, strict=True)]
