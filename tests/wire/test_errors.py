"""Answers of the API server that are no success: throttled, in conflict, refused, broken; and what never follows from them."""

from aiohttp import web

from rlhf_api import names
from rlhf_operator.shell.kube import Unavailable
from tests.support.api_server import refused
from tests.support.wire import Wire, eventually, on_the_wire


class Once:
    """Answers one kind of request badly for the first few times."""

    def __init__(self, request: str, answer: web.Response, times: int = 1) -> None:
        self.request, self.answer, self.left = request, answer, times

    def __call__(self, verb: str, kind: str) -> web.Response | None:
        if f"{verb} {kind}" != self.request or not self.left:
            return None
        self.left -= 1
        body = self.answer.body
        return web.Response(body=body, status=self.answer.status, headers=self.answer.headers, content_type=None)


async def _run_a_job(wire: Wire) -> None:
    wire.add_profile()
    await wire.start_operator()
    await wire.until_watching()
    wire.add_job()
    await eventually(lambda: wire.condition("Accepted") == "True/Valid", "a status")


@on_the_wire
async def test_throttling_is_waited_out(wire: Wire) -> None:
    wire.server.intercept = Once("create Job", refused(429, "TooManyRequests", **{"Retry-After": "1"}))
    await _run_a_job(wire)
    (process,) = wire.operators.values()
    assert 'code="429"' in process._metrics.text().decode()
    assert wire.server.count("create Job") == 2


@on_the_wire
async def test_while_it_is_throttled_the_lease_is_renewed(wire: Wire) -> None:
    wire.add_profile()
    await wire.start_operator(leader_election=True)
    await wire.until_watching()
    wire.server.intercept = Once("create Job", refused(429, "TooManyRequests", **{"Retry-After": "20"}))
    wire.add_job()
    await eventually(lambda: wire.server.count("create Job") == 1, "the refusal")
    seen = wire.server.count("update Lease")
    await eventually(lambda: wire.server.count("update Lease") >= seen + 3, "three renewals", deadline_seconds=4)


@on_the_wire
async def test_a_stale_status_is_decided_anew(wire: Wire) -> None:
    wire.server.intercept = Once("apply RLHFJob", refused(409, "Conflict"), times=3)
    await _run_a_job(wire)
    assert wire.server.count("apply RLHFJob") == 4


@on_the_wire
async def test_a_create_whose_answer_was_lost_is_found(wire: Wire) -> None:
    wire.server.api.faults.fail("create", "Job", Unavailable("the answer was lost"), applied=True)
    await _run_a_job(wire)
    assert len(wire.server.store.find("Job", "team-a")) == 1
    assert wire.server.count("create Job") == 2


@on_the_wire
async def test_a_broken_answer_decides_nothing(wire: Wire) -> None:
    wire.server.intercept = Once("get RLHFJob", web.Response(status=502, text="<html>bad gateway</html>"), times=2)
    await _run_a_job(wire)
    assert wire.condition("Stalled") == "False/NotStalled"


@on_the_wire
async def test_quota_is_told_to_the_user(wire: Wire) -> None:
    message = 'jobs.batch "chat-prepare-r1" is forbidden: exceeded quota: jobs'
    wire.server.intercept = Once("create Job", refused(403, "Forbidden", message), times=99)
    wire.add_profile()
    await wire.start_operator()
    wire.add_job()
    await eventually(lambda: wire.condition("Stalled") == "True/QuotaExceeded", "the reason")
    wire.server.intercept = lambda verb, kind: None


@on_the_wire
async def test_secrets_are_read_without_their_data(wire: Wire) -> None:
    wire.add_profile(sources={"allow": ["hf://"]})
    await wire.start_operator()
    wire.add_job(model={"source": {"uri": f"hf://o/m@{'0' * 40}", "secretName": "token"}, "parameters": "1B"})
    await eventually(lambda: wire.condition("Accepted"), "a status")
    if wire.server.count("get Secret"):
        assert "PartialObjectMetadata" in wire.server.accepts["get Secret"]


@on_the_wire
async def test_a_profile_hears_whether_it_is_usable(wire: Wire) -> None:
    wire.add_profile()
    await wire.start_operator()
    await eventually(lambda: wire.server.store.get(names.KIND_PROFILE, "", "default").get("status"), "a status of the profile")
    (condition,) = wire.server.store.get(names.KIND_PROFILE, "", "default")["status"]["conditions"]
    assert (condition["type"], condition["status"]) == ("Ready", "True")


@on_the_wire
async def test_a_missing_profile_heals_by_itself(wire: Wire) -> None:
    await wire.start_operator()
    await wire.until_watching()
    wire.add_job()
    await eventually(lambda: wire.condition("Accepted") == "False/ProfileNotFound", "the refusal")
    wire.add_profile()
    await eventually(lambda: wire.find("Job", "chat-prepare-r1"), "the Job", deadline_seconds=5)


@on_the_wire
async def test_events_are_sent_and_counted(wire: Wire) -> None:
    await _run_a_job(wire)
    await eventually(lambda: wire.server.store.find("Event", "team-a"), "an event")
    (event,) = wire.server.store.find("Event", "team-a")
    assert (event["reason"], event["count"], event["involvedObject"]["name"]) == ("AttemptStarted", 1, "chat")


@on_the_wire
async def test_further_jobs_of_a_namespace_wait_for_a_slot(wire: Wire) -> None:
    wire.add_profile(limits={"maxRunningJobsPerNamespace": 1})
    await wire.start_operator()
    await wire.until_watching()
    wire.add_job("first")
    await eventually(lambda: wire.condition("Accepted", "first"), "the first job")
    wire.add_job("second")
    await eventually(lambda: wire.condition("QuotaReserved", "second") == "False/ConcurrencyLimit", "the reason")
    assert wire.find("Job", "second-prepare-r1") is None
    wire.server.store.delete(names.KIND_JOB, "team-a", "first")
    await eventually(lambda: wire.find("Job", "second-prepare-r1"), "the second job")
