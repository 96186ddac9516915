"""What it takes to know many RLHFJobs: the operator's memory, and how soon it decides again after a restart.

    python -m tests.bench.known [--jobs 5000] [--json]

All but one of the jobs are over, as most jobs of a cluster are. The operator starts when they are there; the last job was created just before,
and waits for its first Job. Then the operator is left alone for a while: with nothing to do it should do nothing.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rlhf_api import names
from tests.bench.api_cost import Load, cpu_seconds, status_of
from tests.bench.operator import BURST, FLAGS, JOBS, NUM_CLIENTS, Figures, Recorder, a_job, install_world, rss_mib
from tests.support.cluster import ControlPlane, install_crds
from tests.support.cluster.operator import Operator
from tests.support.cluster.rest import Rest
from tests.support.eventually import eventually

TARGETS = {"first_decision_seconds": 10.0, "rss_mib": 250.0, "rest_cpu_percent": 10.0}
REST_SECONDS = 60.0


def _create_over(rest: Rest, number: int) -> None:
    """A job that has succeeded, with a status of the usual size."""
    name = f"over-{number}"
    rest.create(JOBS, {**a_job(BURST), "metadata": {"name": name}})
    status = {**status_of(1), "phase": "Succeeded", "observedGeneration": 1}
    body = {"apiVersion": names.API_VERSION, "kind": names.KIND_JOB, "metadata": {"name": name}, "status": status}
    rest.apply(f"{JOBS}/{name}/status", body, names.MANAGER)


def measure(num_jobs: int) -> Figures:
    """The figures, on a fresh control plane."""
    with tempfile.TemporaryDirectory() as directory, ControlPlane.start(Path(directory), controller_flags=FLAGS) as plane:
        install_crds(plane)
        with plane.rest() as rest:
            install_world(rest)
        load = Load(plane, NUM_CLIENTS)
        load.cost(num_jobs - 1, _create_over)
        load.close()
        recorder = Recorder(plane)
        with plane.rest() as rest:
            rest.create(JOBS, {**a_job(BURST), "metadata": {"name": "new"}})
        started = time.monotonic()
        with Operator(plane, Path(directory) / "operator").wait_until_ready() as operator:
            eventually(lambda: "new" in recorder.first_jobs, 120, "the first Job of the new RLHFJob")
            pid = operator.program.pid
            before = cpu_seconds(pid)
            time.sleep(REST_SECONDS)  # the window of the measurement
            rest_cpu = (cpu_seconds(pid) - before) / REST_SECONDS
            figures = {
                "first_decision_seconds": recorder.first_jobs["new"] - started,
                "rss_mib": rss_mib(pid),
                "rest_cpu_percent": 100 * rest_cpu,
            }
        recorder.close()
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Print each figure beside its target."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.known", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--json", action="store_true", help="one line on standard output")
    options = parser.parse_args(arguments)
    figures = measure(options.jobs)
    if options.json:
        print(json.dumps({"jobs": options.jobs, **{name: round(value, 3) for name, value in figures.items()}}))
        return
    for name, value in figures.items():
        print(f"{name:24} {value:9.2f}   target ≤ {TARGETS[name]:g}")


if __name__ == "__main__":
    main()
