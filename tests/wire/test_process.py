"""The process itself: one leader, a standby that takes over, health, metrics, progress, and a clean end."""

import json

import aiohttp
from aiohttp import web

from rlhf_api.names import MANAGER as LEASE
from rlhf_operator.shell.process import LOST, STOPPED
from tests.support.wire import Wire, eventually, on_the_wire


async def _text(wire: Wire, path: str) -> tuple[int, str]:
    process = list(wire.operators.values())[-1]
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{process.port}{path}") as response:
        return response.status, await response.text()


@on_the_wire
async def test_it_answers_for_its_health(wire: Wire) -> None:
    wire.add_profile()
    await wire.start_operator()
    await wire.until_watching()
    assert (await _text(wire, "/healthz"))[0] == 200
    process = list(wire.operators.values())[-1]
    await eventually(lambda: process._health.is_ready, "readiness")
    assert (await _text(wire, "/readyz"))[0] == 200
    code, metrics = await _text(wire, "/metrics")
    assert code == 200
    assert 'rlhf_api_requests_total{code="200",resource="RLHFJob",verb="list"}' in metrics
    assert "rlhf_leader 1.0" in metrics


@on_the_wire
async def test_sigterm_gives_the_lease_back(wire: Wire) -> None:
    wire.add_profile()
    first = await wire.start_operator(leader_election=True)
    await wire.until_watching()
    assert wire.find("Lease", LEASE, "rlhf-system")["spec"]["holderIdentity"]
    assert await wire.stop(first) == STOPPED
    assert wire.find("Lease", LEASE, "rlhf-system")["spec"]["holderIdentity"] == ""


@on_the_wire
async def test_a_standby_watches_nothing_and_takes_over(wire: Wire) -> None:
    wire.add_profile()
    first = await wire.start_process()  # both in processes of their own: kopf ends every task of its loop when it goes, our server's too
    await wire.until_watching()
    standby = await wire.start_process()
    holder = _holder(wire)
    assert len(wire.server.watches) == 3
    first.terminate()
    assert await first.wait() == STOPPED
    await eventually(lambda: _holder(wire) not in ("", holder), "the standby to lead", deadline_seconds=40)
    wire.add_job()
    await eventually(lambda: wire.find("Job", "chat-prepare-r1"), "the Job")
    standby.terminate()
    assert await standby.wait() == STOPPED
    assert _holder(wire) == ""


def _holder(wire: Wire) -> str:
    return str(wire.find("Lease", LEASE, "rlhf-system")["spec"]["holderIdentity"])


@on_the_wire
async def test_a_leader_that_lost_its_lease_writes_no_more_and_exits(wire: Wire) -> None:
    wire.add_profile()
    task = await wire.start_operator(leader_election=True)
    await wire.until_watching()
    lease = wire.find("Lease", LEASE, "rlhf-system")
    lease["spec"]["holderIdentity"] = "another"
    wire.server.store.update("Lease", "rlhf-system", lease)
    wire.add_job()
    assert await task == LOST
    assert wire.find("Lease", LEASE, "rlhf-system")["spec"]["holderIdentity"] == "another"


@on_the_wire
async def test_progress_of_a_running_attempt_reaches_the_status(wire: Wire) -> None:
    async def progress(request: web.Request) -> web.Response:
        return web.json_response(document)

    app = web.Application()
    app.router.add_get("/progress", progress)
    pod = web.AppRunner(app)
    await pod.setup()
    await web.TCPSite(pod, "127.0.0.1", 0).start()
    wire.add_profile()
    await wire.start_operator()
    job = wire.add_job()
    document = {
        "version": 1,
        "jobUid": job["metadata"]["uid"],
        "stage": "prepare",
        "attempt": 1,
        "state": "training",
        "step": 3,
        "percent": 30,
    }
    await eventually(lambda: wire.find("Job", "chat-prepare-r1"), "the Job")
    _run_pod(wire, pod.addresses[0][1])
    wire.set_job_status("chat-prepare-r1", startTime=wire.server.store.now(), active=1, ready=1)
    await eventually(lambda: _percent(wire) == 30, "progress")
    await pod.cleanup()


def _run_pod(wire: Wire, port: int) -> None:
    owner = wire.find("Job", "chat-prepare-r1")
    labels = {**owner["spec"]["template"]["metadata"]["labels"], "batch.kubernetes.io/job-completion-index": "0"}
    reference = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
    }
    spec = json.loads(json.dumps(owner["spec"]["template"]["spec"]))
    for item in spec["containers"][0]["ports"]:
        if item["name"] == "progress":
            item["containerPort"] = port
    body = {"metadata": {"name": "chat-prepare-r1-0-x", "labels": labels, "ownerReferences": [reference]}, "spec": spec}
    wire.server.store.create("Pod", "team-a", body)
    ready = [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True", "lastTransitionTime": wire.server.store.now()}]
    wire.server.store.update_status("Pod", "team-a", "chat-prepare-r1-0-x", {"phase": "Running", "podIP": "127.0.0.1", "conditions": ready})


def _percent(wire: Wire) -> float | None:
    stages = wire.status().get("stages", ())
    return stages[0].get("progress", {}).get("percent") if stages else None
