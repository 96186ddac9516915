"""The job file of `make demo-real` for this machine: `examples/real-chat.yaml`, with fp32 where the CPU cannot compute in bf16.

    python examples/real-model/job.py --to models/real-chat.yaml

Without such instructions (AVX512-BF16, AMX, or bf16 of Arm) bf16 is emulated: a step of this model then takes minutes instead of seconds.
With them bf16 is three times faster than fp32. Read from /proc/cpuinfo; where there is none, fp32.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "real-chat.yaml"
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_LINE = "    precision: bf16\n"


def precision_of(cpuinfo: str) -> str:
    """The number format in which a CPU trains fastest, from the text of /proc/cpuinfo."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    flags = {flag for name, _, value in lines if name.strip() in ("flags", "Features") for flag in value.split()}
    return "bf16" if flags & BF16_FLAGS else "fp32"


def job_file(precision: str) -> str:
    """The example's text with this precision.

    Raises:
        ValueError: the example has no line that says the precision.
    """
    text = EXAMPLE.read_text("utf-8")
    if text.count(_LINE) != 1:
        raise ValueError(f"{EXAMPLE.name} must say {_LINE.strip()!r} once")
    return text.replace(_LINE, _LINE.replace("bf16", precision))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file, and say which precision it has."""
    parser = argparse.ArgumentParser(prog="job.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args(arguments)
    cpuinfo = Path("/proc/cpuinfo")
    precision = precision_of(cpuinfo.read_text("utf-8") if cpuinfo.is_file() else "")
    options.to.write_text(job_file(precision), "utf-8")
    print(f"{options.to}: {EXAMPLE.name} with precision {precision}, the faster one on this CPU")


if __name__ == "__main__":
    main()
