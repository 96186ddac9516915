"""The commands as users type them, on a cluster: which place they talk to, what they print, how they exit."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_api import names
from rlhf_cli.cluster import waiting
from tests.support.cli import Rlhf
from tests.support.jobs import SFT, a_job_file
from tests.support.small_api import EVENTS, JOBS, PODS, SmallApi, status
from tests.support.statuses import a_job, a_stage

EVERYWHERE = f"/apis/{names.GROUP}/{names.VERSION}/{names.PLURAL_JOB}"


@pytest.fixture(autouse=True)
def _cluster(api: SmallApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig))
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)


def serve(api: SmallApi, **fields: Any) -> dict[str, Any]:
    job = a_job(a_stage(), **fields)
    job["metadata"] |= {"uid": "u-1", "managedFields": [{"manager": "x"}]}
    api.on("GET", JOBS, {"items": [job]})
    api.on("GET", f"{JOBS}/hello", job)
    api.on("PATCH", f"{JOBS}/hello", job)
    api.on("GET", EVENTS, {"items": []})
    api.on("GET", PODS, {"items": []})
    return job


def test_without_an_option_nothing_is_asked_of_a_cluster(rlhf: Rlhf, api: SmallApi) -> None:
    serve(api)
    code, out, _ = rlhf("get")
    assert (code, out) == (0, "no jobs below .rlhf; start one: rlhf run JOB_FILE\n")
    assert rlhf("describe", "hello").code == 64
    assert rlhf("cancel", "hello").code == 64
    assert api.requests == []


@pytest.mark.parametrize("options", [["--cluster"], ["-n", "team-a"], ["--context", "test"]])
def test_each_option_that_names_a_cluster_asks_it(rlhf: Rlhf, api: SmallApi, options: list[str]) -> None:
    serve(api, stagesSummary="1/4")
    code, out, _ = rlhf("get", *options)
    assert code == 0
    assert out.splitlines()[1].split()[:3] == ["hello", "Running", "1/4"]


@pytest.mark.parametrize("command", ["get", "describe", "logs", "cancel", "resume"])
def test_an_empty_name_is_not_the_list(rlhf: Rlhf, kubectl_rlhf: Rlhf, api: SmallApi, command: str) -> None:
    serve(api)
    said = "JOB: '' is no name: a job must be named on a cluster, where others have jobs too: list them with get\n"
    assert rlhf(command, "", "-n", "team-a") == (64, "", said)
    assert kubectl_rlhf(command, "") == (64, "", said)
    assert api.requests == []


def test_the_plugin_always_asks_the_cluster(kubectl_rlhf: Rlhf, api: SmallApi) -> None:
    serve(api)
    assert "hello" in kubectl_rlhf("get").out
    assert kubectl_rlhf("cancel", "hello").out == (
        "hello stops after a checkpoint and gives its nodes back; go on with: kubectl rlhf resume hello\n"
    )


@pytest.mark.parametrize("option", ["-A", "--all-namespaces"])
def test_jobs_of_all_namespaces(rlhf: Rlhf, kubectl_rlhf: Rlhf, api: SmallApi, option: str) -> None:
    jobs = [a_job(a_stage(), name=name, stagesSummary="1/4") for name in ("hello", "chat")]
    jobs[0]["metadata"]["namespace"], jobs[1]["metadata"]["namespace"] = "team-a", "team-b"
    api.on("GET", EVERYWHERE, {"items": jobs})
    for command in (rlhf, kubectl_rlhf):
        lines = [line.split() for line in command("get", option).out.splitlines()]
        assert lines[0][:3] == ["NAMESPACE", "NAME", "PHASE"]
        assert [line[:3] for line in lines[1:]] == [["team-a", "hello", "Running"], ["team-b", "chat", "Running"]]
    found = json.loads(rlhf("get", option, "-o", "json").out)["items"]
    assert [job["metadata"]["namespace"] for job in found] == ["team-a", "team-b"]


def test_no_namespace_has_a_job(rlhf: Rlhf, api: SmallApi) -> None:
    api.on("GET", EVERYWHERE, {"items": []})
    assert rlhf("get", "-A").out == "no jobs in any namespace of test; submit one: rlhf submit -f JOB_FILE\n"


def test_all_namespaces_may_be_forbidden(rlhf: Rlhf, api: SmallApi) -> None:
    api.on("GET", EVERYWHERE, status(403, "Forbidden", "no jobs for you"), 403)
    code, _, said = rlhf("get", "-A")
    assert (code, said.startswith("-A: 'test' does not let you see all namespaces (no jobs for you): name a namespace with -n")) == (
        1,
        True,
    )


@pytest.mark.parametrize(("arguments", "field"), [(["hello"], "JOB: 'hello'"), (["-n", "team-a"], "--namespace: 'team-a'")])
def test_all_namespaces_and_one_of_them_is_refused(kubectl_rlhf: Rlhf, api: SmallApi, arguments: list[str], field: str) -> None:
    code, _, said = kubectl_rlhf("get", "-A", *arguments)
    assert (code, said) == (64, f"{field} and --all-namespaces contradict each other: remove one\n")
    assert api.requests == []


def test_objects_are_printed_without_bookkeeping(rlhf: Rlhf, api: SmallApi) -> None:
    serve(api)
    assert "managedFields" not in json.loads(rlhf("get", "hello", "--cluster", "-o", "json").out)["metadata"]
    assert [job["metadata"]["name"] for job in json.loads(rlhf("get", "--cluster", "-o", "json").out)["items"]] == ["hello"]


def test_an_empty_namespace_says_how_to_begin(rlhf: Rlhf, api: SmallApi) -> None:
    api.on("GET", JOBS, {"items": []})
    assert rlhf("get", "--cluster").out == "no jobs in namespace team-a of test; submit one: rlhf submit -f JOB_FILE\n"


def test_one_job_in_detail(rlhf: Rlhf, api: SmallApi) -> None:
    serve(api)
    assert "sft             Running" in rlhf("get", "hello", "--cluster").out


@pytest.mark.parametrize("command", ["describe", "logs", "cancel", "resume"])
def test_on_a_cluster_the_job_must_be_named(rlhf: Rlhf, api: SmallApi, command: str) -> None:
    code, _, said = rlhf(command, "--cluster")
    assert (code, said.startswith("JOB: must be named on a cluster")) == (64, True)


def test_describe_answers_even_when_events_may_not_be_read(rlhf: Rlhf, api: SmallApi) -> None:
    serve(api, observedGeneration=1)
    api.on("GET", EVENTS, status(403, "Forbidden", "no events for you"), 403)
    code, out, said = rlhf("describe", "hello", "-n", "team-a")
    assert code == 0
    assert out.startswith("What happened\n  it is Running, 0 stages done; nothing holds it up\n")
    assert "Watch it: rlhf logs hello -f -n team-a" in out
    assert "events: " in said


def test_describe_asks_for_the_events_of_this_job_only(kubectl_rlhf: Rlhf, api: SmallApi) -> None:
    serve(api, observedGeneration=1)
    kubectl_rlhf("describe", "hello")
    assert next(request.query for request in api.requests if request.path == EVENTS)["fieldSelector"] == "involvedObject.uid=u-1"


def test_logs_of_a_job_without_pods(rlhf: Rlhf, api: SmallApi) -> None:
    serve(api)
    code, _, said = rlhf("logs", "hello", "--cluster")
    assert (code, said.split(":")[0]) == (64, "JOB")


def test_resume_says_what_happens_now(rlhf: Rlhf, api: SmallApi) -> None:
    job = serve(api, phase="Suspended")
    job["spec"]["suspend"] = True
    assert rlhf("resume", "hello", "--cluster").out == "hello goes on from its newest checkpoint; watch it: rlhf logs hello -f --cluster\n"


@pytest.fixture
def job_file(tmp_path: Path, api: SmallApi) -> Path:
    api.on("POST", JOBS, a_job(a_stage()), 201)
    return a_job_file(tmp_path / "hello.json", stages={"sft": SFT})


def test_submit_returns_at_once(rlhf: Rlhf, api: SmallApi, job_file: Path) -> None:
    code, out, _ = rlhf("submit", "-f", job_file)
    assert code == 0
    assert out.splitlines()[0] == "rlhfjob/hello created in namespace team-a of test"
    assert "rlhf logs hello -f -n team-a" in out


def test_submit_can_wait_and_exits_like_run(rlhf: Rlhf, api: SmallApi, job_file: Path) -> None:
    failed = [{"type": "Failed", "status": "True", "reason": "Diverged"}]
    stage = a_stage(phase="Failed", reason="Diverged", attempts=[{"attempt": 1, "outcome": "Diverged", "exitCode": 76}])
    api.on_each("GET", f"{JOBS}/hello", (200, a_job(a_stage())), (200, a_job(stage, phase="Failed", conditions=failed)))
    code, out, said = rlhf("submit", "-f", job_file, "--wait")
    assert code == 76
    assert "Diverged" in out
    assert said == "hello: why, and what to do: rlhf describe hello -n team-a\n"


def test_submit_prints_one_object_for_machines(rlhf: Rlhf, api: SmallApi, job_file: Path) -> None:
    code, out, said = rlhf("submit", "-f", job_file, "-o", "json")
    assert (code, json.loads(out)["metadata"]["name"]) == (0, "hello")
    assert "created" in said


def test_ctrl_c_leaves_the_job_alone(rlhf: Rlhf, api: SmallApi, job_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlhf_cli.cluster.actions.wait_for_end", interrupted)
    code, out, _ = rlhf("submit", "-f", job_file, "--wait")
    assert code == 130
    assert "hello goes on; stop it with: rlhf cancel hello -n team-a" in out
    assert api.sent("PATCH") == []
