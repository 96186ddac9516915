"""What an RLHFJob costs the API server: CPU milliseconds per request, for our CRD and for variants of it without some of its rules.

    python -m tests.bench.api_cost [--jobs 150] [--clients 8] [--rounds 3] [--variants full,leaves,none] [--json]

Each round creates jobs, writes each status twice (as the operator does: server-side apply with a change), and deletes them. CPU time is the
API server's own from /proc; other load on the machine stretches the wall clock but hardly this figure. Variants run in turn, so that drift hits all.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from rlhf_api import names
from rlhf_api.crd.definitions import job_definition
from rlhf_api.crd.policies import change_policy
from tests.support.cluster import ControlPlane
from tests.support.cluster.rest import Rest
from tests.support.eventually import eventually
from tests.support.manifests import chat_7b, hello_rlhf

JOBS = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/default/{names.PLURAL_JOB}"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
VALIDATIONS = "x-kubernetes-validations"
_WINDOW_SECONDS, _CALM_SHARE = 1.0, 0.1
TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
Schema = dict[str, Any]


def _without(schema: Schema, keeps: Callable[[str], bool], path: str = "") -> Schema:
    """The schema, with rules only at the places that are kept."""
    found = {key: value for key, value in schema.items() if key != VALIDATIONS or keeps(path)}
    if "properties" in found:
        found["properties"] = {name: _without(inner, keeps, f"{path}.{name}") for name, inner in found["properties"].items()}
    if isinstance(found.get("items"), dict):
        found["items"] = _without(found["items"], keeps, f"{path}[]")
    return found


VARIANTS: Mapping[str, Callable[[str], bool]] = {
    "full": lambda path: True,
    "leaves": lambda path: path not in ("", ".spec"),
    "spec": lambda path: path == ".spec",
    "none": lambda path: False,
}
"""Name -> places whose rules stay. Any other name is a file with a CRD, for example the one of an earlier commit."""


def definition(variant: str) -> Schema:
    """Our CRD with the rules of a variant, or the CRD of a file."""
    if variant not in VARIANTS:
        return dict(YAML(typ="safe").load(Path(variant)))
    body = json.loads(json.dumps(job_definition()))
    version = body["spec"]["versions"][0]
    version["schema"]["openAPIV3Schema"] = _without(version["schema"]["openAPIV3Schema"], VARIANTS[variant])
    return dict(body)


def status_of(step: int) -> dict[str, Any]:
    """A status as the operator writes it in the middle of a job."""
    condition = {"status": "True", "reason": "Valid", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}
    stages = [
        {"name": name, "type": kind, "phase": "Running", "attempt": 1, "specHash": "sha256:" + "0" * 64, "progress": {"step": step}}
        | {"attempts": [{"attempt": 1, "jobName": f"job-{name}-r1", "jobUid": "0" * 36}]}
        for name, kind in (("prepare", "Prepare"), ("sft", "SFT"), ("rm", "RewardModel"), ("ppo", "PPO"))
    ]
    conditions = [{"type": kind, **condition} for kind in ("Accepted", "StorageReady", "PodsReady", "Stalled")]
    return {"phase": "Running", "currentStage": "sft", "stagesSummary": "1/4", "conditions": conditions, "stages": stages}


class Load:
    """Some clients that share the requests of a step."""

    def __init__(self, plane: ControlPlane, num_clients: int) -> None:
        self._pid = plane.pids["kube-apiserver"]
        self._clients = [plane.rest() for _ in range(num_clients)]
        self._pool = ThreadPoolExecutor(num_clients)

    def wait_until_calm(self) -> None:
        """Wait for the end of what the API server does by itself after its start or a new definition: it is no request's cost."""

        def is_calm() -> bool:
            before = cpu_seconds(self._pid)
            time.sleep(_WINDOW_SECONDS)  # the window of the measurement
            return cpu_seconds(self._pid) - before < _CALM_SHARE * _WINDOW_SECONDS

        eventually(is_calm, 60, "the API server comes to rest")

    def cost(self, num_requests: int, send: Callable[[Rest, int], object]) -> float:
        """CPU milliseconds of the API server per request."""
        before = cpu_seconds(self._pid)
        shares = [self._pool.submit(self._share, client, number, num_requests, send) for number, client in enumerate(self._clients)]
        for share in shares:
            share.result()
        return (cpu_seconds(self._pid) - before) * 1000 / num_requests

    def _share(self, client: Rest, first: int, num_requests: int, send: Callable[[Rest, int], object]) -> None:
        for number in range(first, num_requests, len(self._clients)):
            send(client, number)

    def close(self) -> None:
        """Close all connections."""
        self._pool.shutdown()
        for client in self._clients:
            client.close()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_SECONDS


def measure(load: Load, num_jobs: int, document: Mapping[str, Any]) -> dict[str, float]:
    """One round: the cost of each kind of request."""
    body = {**document, "metadata": {}}
    figures = {"create": load.cost(num_jobs, lambda rest, i: rest.create(JOBS, {**body, "metadata": {"name": f"job-{i}"}}))}
    load.cost(num_jobs, lambda rest, i: _apply(rest, i, 1))  # the first write adds what later ones change
    figures["status"] = load.cost(num_jobs, lambda rest, i: _apply(rest, i, 2))
    figures["get"] = load.cost(num_jobs, lambda rest, i: rest.get(f"{JOBS}/job-{i}"))
    figures["delete"] = load.cost(num_jobs, lambda rest, i: rest.delete(f"{JOBS}/job-{i}"))
    return figures


def _apply(rest: Rest, number: int, step: int) -> None:
    body = {"apiVersion": names.API_VERSION, "kind": names.KIND_JOB, "metadata": {"name": f"job-{number}"}, "status": status_of(step)}
    rest.apply(f"{JOBS}/job-{number}/status", body, names.MANAGER)


def install(plane: ControlPlane, variant: str) -> None:
    """Put a variant of the CRD into the API server, and wait until it counts."""
    rest, body = plane.rest(), definition(variant)
    name = body["metadata"]["name"]
    rest.apply(f"{CRD}/{name}", body, "bench")
    eventually(lambda: rest.find(JOBS), 20, "the API server serves RLHFJobs")
    marker = {**hello_rlhf(), "metadata": {"name": "marker", "annotations": {"variant": variant}}}
    plane.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=20s")
    for _ in range(20):  # the storage of the old version is replaced in the background: let requests of both pass
        rest.create(JOBS, marker, dryRun="All")
    rest.close()


def rounds(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Figures of each variant, in turn."""
    with tempfile.TemporaryDirectory() as directory, ControlPlane.start(Path(directory), with_controllers=False) as plane:
        for policy in change_policy():
            path = "validatingadmissionpolicybindings" if policy["kind"].endswith("Binding") else "validatingadmissionpolicies"
            with plane.rest() as rest:
                rest.create(f"/apis/admissionregistration.k8s.io/v1/{path}", policy)
        for _ in range(options.rounds):
            for variant in options.variants:
                install(plane, variant)
                load = Load(plane, options.clients)
                document = chat_7b() if options.large else hello_rlhf()
                measure(load, options.jobs // 5, document)  # warm: compiled programs, caches
                load.wait_until_calm()
                yield variant, measure(load, options.jobs, document)
                load.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row per variant: the median over all rounds."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.api_cost", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=150)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", type=lambda text: text.split(","), default=list(VARIANTS))
    parser.add_argument("--large", action="store_true", help="the full example instead of the smallest")
    parser.add_argument("--json", action="store_true", help="one line on standard output")
    options = parser.parse_args(arguments)
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in options.variants}
    for variant, figures in rounds(options):
        found[variant].append(figures)
    medians = {
        variant: {kind: round(statistics.median(figures[kind] for figures in all_figures), 1) for kind in all_figures[0]}
        for variant, all_figures in found.items()
    }
    if options.json:
        print(json.dumps(medians))
        return
    print("API-server CPU, ms per request (median)")
    for variant, figures in medians.items():
        print(f"{variant[-20:]:20}", *(f"{kind} {value:5.1f}" for kind, value in figures.items()))


if __name__ == "__main__":
    main()
