"""How fast a burst of RLHFJobs becomes Jobs, and what that costs: on a real control plane, everything on this machine.

    python -m tests.bench.operator --jobs 300 [--runs 5] [--json] [--profile FILE]

Eight clients create the jobs (two nodes, an existing claim, no NetworkPolicy); a recording watch stamps the first sight of each RLHFJob and of its
first Job, because creation times have whole seconds. CPU times are the processes' own from /proc; writes and reads are the operator's own
count of its requests, events apart, while ten jobs come one by one. A figure that misses its target is printed with the ratio.
"""

import argparse
import http.client
import json
import platform
import re
import ssl
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rlhf_api import names
from tests.bench.api_cost import Load, cpu_seconds, measure
from tests.support.cluster import ControlPlane, install_crds
from tests.support.cluster.operator import Operator
from tests.support.cluster.rest import Rest, end_connection
from tests.support.eventually import eventually
from tests.support.manifests import hello_rlhf

NAMESPACE = "bench"
JOBS = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{NAMESPACE}/{names.PLURAL_JOB}"
IDLE, BURST = "idle", "burst"
"""Two profiles, because at most 1000 jobs of one may run in a namespace."""
NUM_CLIENTS = 8
NUM_IDLE = 10
COST_REQUESTS = 100
_DEADLINE_SECONDS = 300.0
_SLIM = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_REQUEST = re.compile(r'rlhf_api_requests_total\{code="2\d\d",resource="([^"]+)",verb="([^"]+)"\} (\S+)')
_APART = ("Lease", "Event", names.KIND_PROFILE)
_WRITES = frozenset({"create", "update", "patch", "apply", "delete"})
FLAGS = ("--node-monitor-grace-period=1h",)
"""Nobody plays the kubelet: the node may be silent for the length of a run."""
Figures = dict[str, float]


def targets(num_jobs: int) -> Mapping[str, tuple[float, bool]]:
    """The figures to reach, and whether more is better."""
    many = num_jobs > 300
    return {
        "jobs_per_second": (25 if many else 30, True),
        "p99_seconds": (16 if many else 4, False),
        "idle_p50_seconds": (0.1, False),
        "writes_per_attempt": (3, False),
        "operator_cpu_ms_per_job": (10, False),
        "api_cpu_ms_per_create": (11, False),
        "api_cpu_ms_per_status_write": (14, False),
        "rss_mib": (250, False),
    }


class Recorder:
    """Stamps when objects are first seen on a watch. It reads metadata only, and parses no more than one field of it."""

    def __init__(self, plane: ControlPlane) -> None:
        self.jobs: dict[str, float] = {}
        self.first_jobs: dict[str, float] = {}
        self.statuses: dict[str, float] = {}
        self._connections: list[http.client.HTTPSConnection] = []
        self._watch(plane, JOBS, rb'"name":"([^"]+)"', ADDED=self.jobs, MODIFIED=self.statuses)
        self._watch(plane, f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", rb'"rlhf\.dev/job":"([^"]+)"', ADDED=self.first_jobs)

    def _watch(self, plane: ControlPlane, path: str, pattern: bytes, **seen: dict[str, float]) -> None:
        url = urlsplit(plane.url)
        tls = ssl.create_default_context(cafile=str(plane.certificate))
        connection = http.client.HTTPSConnection(str(url.hostname), url.port, context=tls, timeout=_DEADLINE_SECONDS)
        connection.request("GET", f"{path}?watch=1", headers={"Authorization": f"Bearer {plane.token}", "Accept": _SLIM})
        self._connections.append(connection)
        lines = connection.getresponse()
        threading.Thread(target=_record, args=(lines, seen, re.compile(pattern)), daemon=True).start()

    def latencies(self, prefix: str) -> list[float]:
        """Seconds from each RLHFJob's first sight to its first Job's."""
        return [at - self.jobs[name] for name, at in self.first_jobs.items() if name.startswith(prefix) and name in self.jobs]

    def close(self) -> None:
        """End the watches."""
        for connection in self._connections:
            if connection.sock is not None:
                end_connection(connection.sock)


def _record(lines: Iterable[bytes], seen: Mapping[str, dict[str, float]], pattern: "re.Pattern[bytes]") -> None:
    with suppress(OSError, ValueError, http.client.HTTPException):  # the watch was ended
        for line in lines:
            now = time.monotonic()
            stamps = seen.get(line[9 : line.index(b'"', 9)].decode())  # {"type":"ADDED",…
            if stamps is not None and (found := pattern.search(line)):
                stamps.setdefault(found[1].decode(), now)


class Bench:
    """One control plane and one operator, for one run."""

    def __init__(self, plane: ControlPlane, operator: Operator) -> None:
        self._plane, self._operator = plane, operator
        self._recorder = Recorder(plane)
        self._clients = [plane.rest() for _ in range(NUM_CLIENTS)]

    def run(self, num_jobs: int) -> Figures:
        """A few jobs one by one, which shows what an attempt's start takes; then the burst."""
        at_first = self._usage()
        for number in range(NUM_IDLE):
            self._create(self._clients[0], f"idle-{number}", IDLE)
            self._until(self._recorder.first_jobs, f"idle-{number}", 1)
            self._until(self._recorder.statuses, f"idle-{number}", 1)
        before = self._usage()
        started = time.monotonic()
        with ThreadPoolExecutor(NUM_CLIENTS) as pool:
            list(pool.map(self._create_share, range(NUM_CLIENTS), [num_jobs] * NUM_CLIENTS))
        self._until(self._recorder.first_jobs, "burst-", num_jobs)
        last = max(at for name, at in self._recorder.first_jobs.items() if name.startswith("burst-"))
        self._until(self._recorder.statuses, "burst-", num_jobs)
        after = self._usage()
        burst = self._recorder.latencies("burst-")
        return {
            "jobs_per_second": num_jobs / (last - started),
            "p50_seconds": statistics.median(burst),
            "p99_seconds": statistics.quantiles(burst, n=100)[98],
            "idle_p50_seconds": statistics.median(self._recorder.latencies("idle-")),
            **_requests_per(NUM_IDLE, at_first, before, "attempt"),
            **_requests_per(num_jobs, before, after, "job_in_burst"),  # late ones hear a second time: their pods are not placed
            "operator_cpu_ms_per_job": (after["operator"] - before["operator"]) * 1000 / num_jobs,
            "api_cpu_ms_per_job": (after["api"] - before["api"]) * 1000 / num_jobs,
            "rss_mib": after["rss_mib"],
        }

    def close(self) -> None:
        """End the clients."""
        self._recorder.close()
        for client in self._clients:
            client.close()

    def _create_share(self, first: int, num_jobs: int) -> None:
        for number in range(first, num_jobs, NUM_CLIENTS):
            self._create(self._clients[first], f"burst-{number}", BURST)

    def _create(self, client: Rest, name: str, profile: str) -> None:
        client.create(JOBS, {**a_job(profile), "metadata": {"name": name}})

    def _until(self, seen: Mapping[str, float], prefix: str, count: int) -> None:
        def is_there() -> bool:
            return sum(name.startswith(prefix) for name in list(seen)) >= count

        eventually(is_there, _DEADLINE_SECONDS, f"{count} objects of {prefix}")

    def _requests(self) -> "Counter[tuple[str, str]]":
        found = _REQUEST.findall(self._operator.metrics())
        return Counter({(resource, verb): int(float(count)) for resource, verb, count in found})

    def _usage(self) -> dict[str, Any]:
        pid = self._operator.program.pid
        return {
            "operator": cpu_seconds(pid),
            "api": cpu_seconds(self._plane.pids["kube-apiserver"]),
            "requests": self._requests(),
            "rss_mib": rss_mib(pid),
        }


def _requests_per(count: int, before: Mapping[str, Any], after: Mapping[str, Any], unit: str) -> Figures:
    """The operator's requests of a time, divided. Events are counted apart; Lease and profiles cost nothing per job."""
    requests = after["requests"] - before["requests"]
    counted = {key: number for key, number in requests.items() if key[0].partition("/")[0] not in _APART}
    return {
        f"writes_per_{unit}": sum(number for key, number in counted.items() if key[1] in _WRITES) / count,
        f"reads_per_{unit}": sum(number for key, number in counted.items() if key[1] not in _WRITES) / count,
        f"events_per_{unit}": sum(number for key, number in requests.items() if key[0] == "Event") / count,
    }


def a_job(profile: str) -> dict[str, Any]:
    """A chain whose training stage has two nodes, on a claim that exists."""
    body = hello_rlhf()
    spec = {**body["spec"], "storage": {"existingClaim": "shared"}, "topology": {"nodes": 2, "gpusPerNode": 0}, "profile": profile}
    return {**body, "spec": spec}


@contextmanager
def a_bench(options: argparse.Namespace) -> Iterator[tuple[Figures, Bench]]:
    """A fresh control plane with everything that the jobs need; what single requests cost is measured before the operator starts."""
    with tempfile.TemporaryDirectory() as directory, ControlPlane.start(Path(directory), controller_flags=FLAGS) as plane:
        install_crds(plane)
        with plane.rest() as rest:
            install_world(rest)
        load = Load(plane, NUM_CLIENTS)
        measure(load, 20, hello_rlhf())
        load.wait_until_calm()
        costs = measure(load, COST_REQUESTS, hello_rlhf())
        load.close()
        operator_flags = ["--request-burst=10000"]
        with Operator(plane, Path(directory) / "operator", flags=operator_flags, profile=options.profile).wait_until_watching() as operator:
            bench = Bench(plane, operator)
            try:
                yield {"api_cpu_ms_per_create": costs["create"], "api_cpu_ms_per_status_write": costs["status"]}, bench
            finally:
                bench.close()


def install_world(rest: Rest) -> None:
    """A node, a claim and profiles: what the jobs of a bench need."""
    rest.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    room = {"cpu": "100k", "memory": "1Pi", "pods": "10k", "ephemeral-storage": "1Pi"}  # pods are placed, and then stay Pending
    rest.create("/api/v1/nodes", {"metadata": {"name": "bench"}})
    ready = [{"type": "Ready", "status": "True", "reason": "Bench", "message": "played"}]
    rest.merge("/api/v1/nodes/bench/status", {"status": {"capacity": room, "allocatable": room, "conditions": ready}})
    rest.merge("/api/v1/nodes/bench", {"spec": {"taints": None}})
    size, modes = {"storage": "10Gi"}, ["ReadWriteMany"]
    volume = {"capacity": size, "accessModes": modes, "hostPath": {"path": "/nonexistent"}, "storageClassName": "bench"}
    rest.create("/api/v1/persistentvolumes", {"metadata": {"name": "shared"}, "spec": volume})
    claim = {"accessModes": modes, "resources": {"requests": size}, "storageClassName": "bench", "volumeName": "shared"}
    rest.create(f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims", {"metadata": {"name": "shared"}, "spec": claim})
    profile = {
        "image": "registry.example.com/trainer@sha256:" + "0" * 64,
        "networkPolicy": "None",
        "limits": {"maxNodes": 2, "maxGpus": 0, "maxRunningJobsPerNamespace": 1000},
        "storage": {"allowExistingClaims": True},
        "resources": {"perProcess": {"memory": "16Gi"}},
    }
    for name in (IDLE, BURST):
        body = {"apiVersion": names.API_VERSION, "kind": names.KIND_PROFILE, "metadata": {"name": name}, "spec": profile}
        rest.create(f"/apis/{names.GROUP}/{names.VERSION}/{names.PLURAL_PROFILE}", body)


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    fields = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmRSS:\s+(\d+)", fields)[0]) / 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Print medians over the runs, with their spread and the ratio to the target."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.operator", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line on standard output")
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="what cProfile saw of the operator, for pstats; it slows the operator down"
    )
    options = parser.parse_args(arguments)
    runs = []
    for _ in range(options.runs):
        with a_bench(options) as (costs, bench):
            runs.append({**bench.run(options.jobs), **costs})
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    if options.json:
        print(json.dumps({"jobs": options.jobs, "runs": options.runs, **{name: round(value, 3) for name, value in medians.items()}}))
        return
    print(f"{options.jobs} jobs, {options.runs} runs, {platform.machine()}, {platform.python_version()}")
    wanted = targets(options.jobs)
    for name, value in medians.items():
        spread = f"{min(run[name] for run in runs):.2f} to {max(run[name] for run in runs):.2f}"
        goal = ""
        if name in wanted:
            target, is_more_better = wanted[name]
            goal = f"target {'≥' if is_more_better else '≤'} {target:g}: {value / target:.2f} × the target"
        print(f"{name:30} {value:9.2f}   {spread:20} {goal}")


if __name__ == "__main__":
    main()
