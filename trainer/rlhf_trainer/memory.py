"""How much memory this process may still take (the machine's, or its cgroup's when that is less), and how much it has taken.

No torch here, but for the peaks of a CUDA device, which only torch knows.
"""

from __future__ import annotations

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_STATUS = Path("/proc/self/status")


def free_host_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """Bytes that can be allocated without swapping or being killed. 0 when the system does not tell."""
    free = [_available(meminfo)]
    limit, used = _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    if limit is not None and used is not None:
        free.append(max(0, limit - used))
    return min(free)


def peak_bytes(*, on_cuda: bool) -> dict[str, int]:
    """Peaks so far: `host_rss_bytes` and, on CUDA, `device_allocated_bytes`, `device_reserved_bytes`, and `device_used_bytes`, which has
    the context, NCCL and any other process on the device too.
    """
    return {"host_rss_bytes": host_peak_bytes()} | (_cuda_peaks() if on_cuda else {})


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


def _available(meminfo: Path) -> int:
    for line in meminfo.read_text().splitlines() if meminfo.is_file() else []:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _number(path: Path) -> int | None:
    """The number in a cgroup file; None when there is no such file, or it says `max`."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
