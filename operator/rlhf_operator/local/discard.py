"""Forget the job of a working directory: its processes end, its objects, volume and logs go. `rlhf run --fresh` calls this.

Only what the embedded backend itself made is removed: the directory may be one that the user keeps other files in.
"""

import json
import shutil
from contextlib import suppress

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
            runtime.end_leftovers(str(json.loads(file.read_text(encoding="utf-8"))["metadata"]["uid"]))
        for name in MADE_HERE:
            path = workdir.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                with suppress(FileNotFoundError):
                    path.unlink()
