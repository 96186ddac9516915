"""`rlhf-launch` with `fake_worker` in the place of the worker; everything else is the real launcher."""

from __future__ import annotations

import sys

from rlhf_trainer import launch, launch_single

if __name__ == "__main__":
    launch_single.WORKER[:] = ["-m", "tests.support.fake_worker"]
    sys.exit(launch.main())
