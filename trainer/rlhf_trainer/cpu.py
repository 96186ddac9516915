"""Which number format this CPU trains fastest in: the text of /proc/cpuinfo in. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Instructions for bf16: AVX512-BF16, AMX, and those of Arm."""
_CPUINFO: Final = Path("/proc/cpuinfo")


def fastest_precision(cpuinfo: Path = _CPUINFO) -> Literal["bf16", "fp32"]:
    """bf16 where the CPU has instructions for it (a step is then about three times faster), else fp32.

    Without them bf16 is emulated: a step of a 270M model takes minutes instead of seconds. Where there is no such file, fp32.
    """
    lines = cpuinfo.read_text("utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    pairs = (line.partition(":") for line in lines)
    flags = {flag for name, _, value in pairs if name.strip() in ("flags", "Features") for flag in value.split()}
    return "bf16" if flags & BF16_FLAGS else "fp32"
