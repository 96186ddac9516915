"""`python -m rlhf_trainer.doctor`: is this machine fit to train? Prints what it finds; exits 1 when training is impossible (rule S2).

Run it in the trainer image before a job is blamed: pins, device, kernels, memory, disk, and a real all-reduce between two processes.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from rlhf_trainer.cpu import fastest_precision
from rlhf_trainer.memory import free_host_bytes

PINS = {
    "torch": ((2, 11), (2, 12)),
    "transformers": ((5, 17), (6,)),
    "colossalai": ((0, 5, 0), (0, 5, 1)),
    "peft": ((0, 18), None),
    "numpy": ((2,), None),
    "bitsandbytes": ((0, 50), None),
}
"""Package -> oldest version that is allowed, first one that is not (trainer.md section 1)."""
_ALL_REDUCE = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
assert total.item() == 2, total
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. What is not required may be missing."""

    name: str
    text: str
    is_fine: bool = True


def main() -> int:
    """Print every finding. Returns 1 when one of them makes training impossible."""
    findings = list(examine())
    for finding in findings:
        print(f"{'ok  ' if finding.is_fine else 'FAIL'} {finding.name:<16} {finding.text}")
    return 0 if all(finding.is_fine for finding in findings) else 1


def examine() -> Iterator[Finding]:
    """All findings, cheap ones first."""
    for package, (oldest, first_refused) in PINS.items():
        yield check_pin(package, oldest, first_refused)
    yield Finding("host memory", f"{free_host_bytes() >> 20} MiB free")
    yield Finding("precision", f"{fastest_precision()} is the fastest number format of this CPU")
    yield Finding("disk", f"{shutil.disk_usage(tempfile.gettempdir()).free >> 20} MiB free in {tempfile.gettempdir()}")
    yield from _device()
    yield from _kernels()
    yield check_all_reduce()


def check_pin(package: str, oldest: tuple[int, ...], first_refused: tuple[int, ...] | None) -> Finding:
    """Is the installed version inside the tested range?"""
    try:
        installed = version(package)
    except PackageNotFoundError:
        return Finding(package, "is not installed", is_fine=False)
    numbers = _numbers(installed)
    is_fine = numbers >= oldest and (first_refused is None or numbers < first_refused)
    wanted = f">= {_dotted(oldest)}" + (f", < {_dotted(first_refused)}" if first_refused else "")
    return Finding(package, installed if is_fine else f"{installed} must be {wanted}", is_fine)


def check_all_reduce() -> Finding:
    """Do two processes on this machine find each other over gloo?"""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    common = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    pair = [
        subprocess.Popen([sys.executable, "-c", _ALL_REDUCE], env=common | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in pair]
    except subprocess.TimeoutExpired:
        return Finding("gloo all-reduce", "two processes did not meet within 120 s", is_fine=False)
    finally:
        for process in pair:
            process.kill()
            process.wait()
    failed = [error.strip().splitlines()[-1:] for process, error in zip(pair, errors, strict=True) if process.returncode]
    return Finding("gloo all-reduce", f"failed: {failed}" if failed else "2 processes agree", not failed)


def _device() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("device", "no GPU: plain training, and Colossal-AI's plugins on the host accelerator (functional only)")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        yield Finding(f"device {index}", f"{torch.cuda.get_device_name(index)}, {free >> 20} of {total >> 20} MiB free")
    yield Finding("NCCL", ".".join(str(part) for part in torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]


def _kernels() -> Iterator[Finding]:
    """HybridAdam: required by the offload strategies and gemini, so a GPU image without it is incomplete (rule T8)."""
    import torch

    from rlhf_trainer.strategy import host

    host.activate()
    from colossalai.nn.optimizer import HybridAdam

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        HybridAdam([torch.nn.Parameter(torch.zeros(1, device=device))])
    except (RuntimeError, AssertionError, OSError, ImportError) as error:
        yield Finding("HybridAdam", f"does not load: {error}", is_fine=False)
    else:
        yield Finding("HybridAdam", "loads" if device == "cuda" else "loads (host kernel)")


def _numbers(text: str) -> tuple[int, ...]:
    """`2.11.0+cu130` -> (2, 11, 0)"""
    return tuple(int(part) for part in text.split("+")[0].split(".") if part.isdecimal())


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in numbers)


if __name__ == "__main__":
    sys.exit(main())
