"""Volumes with real faults: full, or read-only. They are mounts of their own, so a test can break nothing else."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def mounted(directory: Path, *, size_bytes: int, options: str = "") -> Iterator[Path]:
    """A small file system in memory at `directory`. Needs the right to mount, which containers of CI have as root."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0777{options}", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
