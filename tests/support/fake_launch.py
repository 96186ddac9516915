"""`rlhf-launch` with `fake_worker` in the place of the worker; everything else is the real launcher."""

from __future__ import annotations

import os
import sys

from rlhf_trainer import launch, launch_single

if __name__ == "__main__":
    launch_single.WORKER[:] = ["-m", "tests.support.fake_worker"]
    if os.environ["PET_NPROC_PER_NODE"] != "1":
        from rlhf_trainer import launch_gang

        launch_gang._PEER_SECONDS = 1  # so that a save of some seconds shows whether the grace period is kept
    sys.exit(launch.main())
