"""Forget the job of a working directory: its processes end, its objects, volume and logs go. `rlhf run --fresh` calls this.

Only what the embedded backend itself made is removed: the directory may be one that the user keeps other files in.
"""

import json
import shutil
from contextlib import suppress
from pathlib import Path

from rlhf_operator.local.processes import Runtime
from rlhf_operator.local.workdir import Workdir

MADE_HERE = ("state", "volume", "logs", "pods", "session.json", "suspend")


def discard(workdir: Workdir, runtime: Runtime) -> None:
    """End what a killed `rlhf` left running, then remove the job.

    Raises:
        Busy: another process drives the job.
    """
    with workdir.drive():
        for file in (workdir.state / "Pod").glob("*/*.json"):
            if uid := _uid_in(file):
                runtime.end_leftovers(uid)
        for name in MADE_HERE:
            path = workdir.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                with suppress(FileNotFoundError):
                    path.unlink()


def _uid_in(file: Path) -> str:
    """The uid of a stored pod. Empty when the file is damaged: it has to go like the others, and keeps nobody from starting afresh."""
    try:
        return str(json.loads(file.read_bytes())["metadata"]["uid"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""
