"""`rlhf` and `kubectl rlhf` against a real API server and the real operator: what a user types, and what the server says back.

Logs come from a kubelet, so they are followed in tests/e2e; here only which pods would be read.
"""

import json
from pathlib import Path
from typing import Any

import certifi
import pytest

from rlhf_cli.cluster.connection import connect
from rlhf_cli.cluster.jobs import Jobs
from rlhf_cli.cluster.pod_logs import sources
from rlhf_cli.cluster.target import Target
from rlhf_cli.errors import CommandError
from rlhf_cli.main import run_plugin
from tests.support.cli import Rlhf, rlhf_in
from tests.support.cluster import rights
from tests.support.cluster.plays import exits, runs
from tests.support.cluster.world import World

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def rlhf(world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rlhf:
    """`rlhf` of the administrator, whose kubeconfig names the namespace of the test."""
    kubeconfig = world.plane.write_kubeconfig(world.plane.directory / f"{world.namespace}.admin", world.plane.token, world.namespace)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    return rlhf_in(capsys, monkeypatch)


@pytest.fixture
def kubectl_rlhf(rlhf: Rlhf, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rlhf:
    """The plugin, with the same kubeconfig."""
    return rlhf_in(capsys, monkeypatch, run_plugin)


@pytest.fixture
def jobs(rlhf: Rlhf) -> Jobs:
    return Jobs(connect(Target()))


@pytest.fixture
def job_file(world: World, tmp_path: Path) -> Path:
    """A job of one stage with the profile of the namespace, and a volume for it."""
    world.volume()
    file = tmp_path / "chat.json"
    file.write_text(json.dumps(a_job(world)))
    return file


def a_job(world: World, **spec: Any) -> dict[str, Any]:
    body = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": {"name": "chat"}}
    return body | {"spec": world.spec() | spec}


def test_submit_and_wait_until_the_model_is_there(world: World, rlhf: Rlhf, job_file: Path) -> None:
    code, out, said = rlhf("submit", "-f", job_file, "--wait")
    assert (code, said) == (0, "")
    assert out.splitlines()[0] == f"rlhfjob/chat created in namespace {world.namespace} of test"
    assert out.splitlines()[-1].split()[:2] == ["sft", "Succeeded"]
    assert "Nothing: it is complete." in rlhf("describe", "chat", "--cluster").out


def test_a_failed_job_says_what_happened_to_whom_and_what_to_do(world: World, rlhf: Rlhf, job_file: Path) -> None:
    world.on(exits(76), stage="sft")
    code, _, said = rlhf("submit", "-f", job_file, "--wait")
    assert code == 76
    assert said == f"chat: why, and what to do: rlhf describe chat -n {world.namespace}\n"
    world.until(lambda: "StageFailed" in world.events(), "events are written")
    answer = rlhf("describe", "chat", "-n", world.namespace).out
    assert "\n  sft: Diverged" in answer
    assert "sft/r1: Diverged, exit 76, pod chat-sft-r1-0-" in answer
    assert f"Read its log: rlhf logs chat sft -n {world.namespace}" in answer
    assert "StageFailed" in answer.partition("\nEvents\n")[2]


def test_get_lists_the_columns_of_kubectl(world: World, rlhf: Rlhf, kubectl_rlhf: Rlhf, job_file: Path) -> None:
    world.on(runs(), stage="sft")
    rlhf("submit", "-f", job_file)
    world.until_stage("sft", "Running")
    printed = world.plane.kubectl("get", "rlhf", "-n", world.namespace).splitlines()
    ours = kubectl_rlhf("get").out.splitlines()
    assert ours[0].split() == printed[0].split()
    assert ours[1].split()[:4] == printed[1].split()[:4] == ["chat", "Running", "sft", "1/2"]
    assert "managedFields" not in json.loads(kubectl_rlhf("get", "chat", "-o", "json").out)["metadata"]
    everywhere = [line.split()[:3] for line in kubectl_rlhf("get", "-A").out.splitlines()]
    assert [world.namespace, "chat", "Running"] in everywhere


def test_cancel_and_resume(world: World, rlhf: Rlhf, kubectl_rlhf: Rlhf, job_file: Path) -> None:
    world.on(runs(), stage="sft")
    rlhf("submit", "-f", job_file)
    world.until_stage("sft", "Running")
    assert rlhf("cancel", "chat", "--cluster").code == 0
    world.until_phase("Suspended")
    assert rlhf("cancel", "chat", "--cluster").out.startswith("chat is suspended already")
    assert kubectl_rlhf("resume", "chat").out.startswith("chat goes on from its newest checkpoint")
    world.until_stage("sft", "Running", attempt=2)


def test_resume_runs_a_failed_stage_again(world: World, rlhf: Rlhf, job_file: Path) -> None:
    world.on(exits(64), stage="sft", attempt=1)
    rlhf("submit", "-f", job_file)
    world.until_phase("Failed")
    assert "runs again from its stage sft" in rlhf("resume", "chat", "--cluster").out
    world.until_phase("Succeeded")
    assert world.stage()["attempt"] == 2


def test_the_pods_whose_logs_are_read(world: World, jobs: Jobs, rlhf: Rlhf, job_file: Path) -> None:
    world.on(runs(), stage="sft")
    rlhf("submit", "-f", job_file)
    world.until_stage("sft", "Running")
    job = jobs.get("chat")
    assert [source.label for source in sources(job, jobs.pods(job), None, None)] == ["prepare/r1/0", "sft/r1/0"]


# ---- what the server refuses


def refusal(jobs: Jobs, job: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(CommandError) as caught:
        jobs.create(job)
    assert caught.value.exit_code == 64
    return caught.value.lines


SFT = {"dataset": {"uri": "builtin://datasets/tiny-chat-sft"}}


@pytest.mark.parametrize(
    ("block", "field"),
    [
        pytest.param({"epochs": 0, "maxLength": 1}, "spec.stages[0].sft.epochs", id="a value out of range"),
        pytest.param({"epoch": 1}, "spec.stages[0].sft.epoch", id="a field that does not exist"),
    ],
)
def test_an_invalid_job_is_named_field_by_field(world: World, jobs: Jobs, block: dict[str, Any], field: str) -> None:
    lines = refusal(jobs, a_job(world, stages=[{"name": "sft", "type": "SFT", "sft": SFT | block}]))
    assert len(lines) == len(block)
    assert [line for line in lines if line.startswith(f"{field}: ") and line.count(field) == 1]


def test_a_rule_between_fields_is_told_in_its_own_words(world: World, jobs: Jobs) -> None:
    stages = [{"name": "sft", "type": "SFT"}]
    assert not any("Invalid value" in line for line in refusal(jobs, a_job(world, stages=stages)))


def test_a_name_that_is_taken(world: World, rlhf: Rlhf, job_file: Path) -> None:
    rlhf("submit", "-f", job_file)
    code, _, said = rlhf("submit", "-f", job_file)
    assert (code, said.split(":")[0]) == (64, "metadata.name")
    assert "kubectl apply" in said


def test_a_change_that_the_policy_denies(world: World, jobs: Jobs, rlhf: Rlhf, job_file: Path) -> None:
    world.on(runs(), stage="sft")
    rlhf("submit", "-f", job_file)
    world.until_stage("sft", "Running")
    with pytest.raises(CommandError) as caught:
        jobs.patch("chat", {"strategy": "zero2"})
    assert caught.value.exit_code == 64
    assert "may change only while the job is Pending, Suspended or Failed" in str(caught.value)
    assert "ValidatingAdmissionPolicy" not in str(caught.value)
    assert "(denied by rlhfjob.rlhf.dev)" in str(caught.value)


@pytest.mark.parametrize("command", ["get", "describe", "logs", "cancel", "resume"])
def test_a_job_that_is_not_there(world: World, rlhf: Rlhf, command: str) -> None:
    code, _, said = rlhf(command, "absent", "--cluster")
    assert code == 64
    assert said.startswith(f"JOB: 'absent' is no RLHFJob in namespace {world.namespace} of test")


def test_a_namespace_that_is_not_there(rlhf: Rlhf, job_file: Path) -> None:
    code, _, said = rlhf("submit", "-f", job_file, "-n", "nowhere")
    assert (code, said.startswith("-n: 'nowhere' is no namespace of test")) == (64, True)


# ---- who may


@pytest.fixture
def bob(world: World) -> Path:
    """The kubeconfig of a service account without any right."""
    world.rest.create(world.core("serviceaccounts"), {"metadata": {"name": "bob"}})
    return world.plane.service_account_kubeconfig(world.namespace, "bob")


def test_without_a_role_the_missing_right_and_its_cure_are_named(world: World, rlhf: Rlhf, bob: Path) -> None:
    code, _, said = rlhf("get", "--kubeconfig", bob, "-n", world.namespace)
    assert code == 1
    assert f"-n: '{world.namespace}' does not let you do this" in said
    assert "ask for the ClusterRole rlhf-user" in said


def test_rlhf_user_is_enough_for_every_command(world: World, rlhf: Rlhf, bob: Path, job_file: Path) -> None:
    subject = {"kind": "ServiceAccount", "name": "bob", "namespace": world.namespace}
    rights.grant_in(world.rest, world.namespace, rights.USER_ROLE, rights.USER_RULES, subject)
    options = ["--kubeconfig", bob, "-n", world.namespace]
    world.until(lambda: rlhf("get", *options).code == 0, "the role holds")
    world.on(runs(), stage="sft")
    assert rlhf("submit", "-f", job_file, *options).code == 0
    world.until_stage("sft", "Running")
    code, out, said = rlhf("describe", "chat", *options)
    assert (code, said) == (0, "")
    assert "\nEvents\n" in out
    assert rlhf("cancel", "chat", *options).code == 0
    world.until_phase("Suspended")
    assert rlhf("resume", "chat", *options).code == 0


def test_a_token_that_nobody_knows(world: World, rlhf: Rlhf, tmp_path: Path) -> None:
    kubeconfig = world.plane.write_kubeconfig(tmp_path / "stale", "expired")
    code, _, said = rlhf("get", "--kubeconfig", kubeconfig)
    assert (code, "log in again" in said) == (1, True)


def test_a_server_whose_certificate_is_not_trusted(world: World, rlhf: Rlhf, tmp_path: Path) -> None:
    text = (world.plane.directory / f"{world.namespace}.admin").read_text()
    (tmp_path / "strange").write_text(text.replace(str(world.plane.certificate), certifi.where()))
    code, _, said = rlhf("get", "--kubeconfig", tmp_path / "strange")
    assert (code, said.startswith("--context: 'test' at https://")) == (1, True)
    assert "certificate" in said
