"""The job file of `make demo-real` for this machine: `examples/real-chat.yaml`, with fp32 where the CPU cannot compute in bf16.

    python examples/real-model/job.py --to models/real-chat.yaml

Without instructions for bf16 it is emulated: a step of this model then takes minutes instead of seconds. With them it is three times
faster than fp32.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rlhf_trainer.cpu import fastest_precision

EXAMPLE = Path(__file__).parents[1] / "real-chat.yaml"
_LINE = "    precision: bf16\n"


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
    precision = fastest_precision()
    options.to.write_text(job_file(precision), "utf-8")
    print(f"{options.to}: {EXAMPLE.name} with precision {precision}, the faster one on this CPU")


if __name__ == "__main__":
    main()
