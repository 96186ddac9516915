"""How much memory a run takes: the pulse of the stage in, peaks in bytes out.

The stage beats after every piece of work, so its heartbeat is where peaks are read. Saving and exporting at the end load models once
more; they are no part of the steps, and what they take is not counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rlhf_trainer.report.heartbeat import Heartbeat

NOT_MEASURED: Final = frozenset({"saving", "finishing"})
_STATUS: Final = Path("/proc/self/status")


class PeakWatch(Heartbeat):
    """A heartbeat that nobody watches and that remembers peaks."""

    def __init__(self, *, on_cuda: bool) -> None:
        super().__init__(None, 0)
        self._on_cuda = on_cuda
        self.peaks: dict[str, int] = {}
        """Bytes so far: `host_rss_bytes` and, on CUDA, `device_allocated_bytes`, `device_reserved_bytes`, and `device_used_bytes`, which
        has the context, NCCL and any other process on the device too."""

    def beat(self, state: str, step: int) -> None:
        """Note the peaks up to here."""
        if state in NOT_MEASURED:
            return
        found = {"host_rss_bytes": host_peak_bytes()} | (_cuda_peaks() if self._on_cuda else {})
        self.peaks = {name: max(value, self.peaks.get(name, 0)) for name, value in found.items()}


def host_peak_bytes(status: Path = _STATUS) -> int:
    """Highest resident memory of this process (`VmHWM`; `getrusage` would report the parent's from before `exec`). 0 where unknown."""
    for line in status.read_text().splitlines() if status.is_file() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _cuda_peaks() -> dict[str, int]:
    import torch

    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.max_memory_reserved()
    return {
        "device_allocated_bytes": torch.cuda.max_memory_allocated(),
        "device_reserved_bytes": reserved,
        "device_used_bytes": reserved + total - free - torch.cuda.memory_reserved(),
    }
