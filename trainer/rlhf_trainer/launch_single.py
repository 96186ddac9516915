"""One node, one worker: a plain child process, no elastic agent, no torch in the launcher (rule L8)."""

from __future__ import annotations

import os
import subprocess
import sys

from rlhf_trainer.launch_options import Options
from rlhf_trainer.launch_watch import Watch

WORKER = ["-m", "rlhf_trainer.worker"]


def run(options: Options, watch: Watch) -> dict[int, int]:
    """Run the worker to its end. Returns its code by local rank; -s means signal s."""
    environment = os.environ | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    # A session of its own: Ctrl-C in a terminal reaches the launcher alone, which lets the worker save first.
    child = subprocess.Popen([sys.executable, *WORKER, *options.arguments()], env=environment, start_new_session=True)
    watch.begin()
    return {0: child.wait()}
