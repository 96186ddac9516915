"""`rlhf run`, `resume`, `cancel`, `get` and `logs` over the real embedded backend, with a trainer that only reports."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_operator.local.processes import LocalRuntime
from rlhf_operator.local.session import LocalSession
from rlhf_operator.local.workdir import Workdir
from tests.support import fake_trainer
from tests.support.cli import HELLO, Rlhf
from tests.support.eventually import eventually

REWARD = """\
  - {name: rm, type: RewardModel, rewardModel: {dataset: {uri: "builtin://datasets/tiny-chat-preference"}, maxSteps: 10, globalBatchSize: 8}}
"""
FILE = Path("hello.yaml")
FAKE = (sys.executable, fake_trainer.__file__)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with nothing but a job file, and the fake trainer in place of the real one."""
    monkeypatch.chdir(tmp_path)
    FILE.write_text(HELLO)
    monkeypatch.setattr("rlhf_operator.local.session.LocalRuntime", lambda: LocalRuntime(FAKE))
    return tmp_path


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`stages(sft={"exitCode": 65})`: what the fake trainer does."""
    # Variables that begin with RLHF_ are not handed on to pods; this one is.
    return lambda **wishes: monkeypatch.setenv("FAKE_TRAINER", json.dumps(wishes))


def edited(old: str, new: str) -> Path:
    text = FILE.read_text()
    assert old in text
    FILE.write_text(text.replace(old, new))
    return FILE


def phases(job: str = "hello") -> dict[str, str]:
    found = LocalSession.open(Path(".rlhf") / job).job()
    return {stage["name"]: stage["phase"] for stage in found["status"]["stages"]}


def attempts(job: str = "hello") -> dict[str, int]:
    found = LocalSession.open(Path(".rlhf") / job).job()
    return {stage["name"]: stage["attempt"] for stage in found["status"]["stages"]}


def test_describe_explains_a_job_of_this_machine(rlhf: Rlhf, stages: Callable[..., None]) -> None:
    stages(sft={"exitCode": 65, "message": "train.jsonl:3: prompt: is empty"})
    assert rlhf("run", FILE).code == 65
    code, answer, _ = rlhf("describe", "hello")
    assert code == 0
    assert "\n  sft: DataInvalid" in answer
    assert "sft/r1: DataInvalid, exit 65, pod hello-sft-r1-0" in answer
    assert "Repair the rows that the message names by file and row, then rlhf resume hello." in answer
    assert "Read its log: rlhf logs hello sft" in answer


def test_a_job_runs_to_its_end(rlhf: Rlhf) -> None:
    code, printed, said = rlhf("run", FILE)
    assert (code, said) == (0, "")
    for stage in ("prepare", "sft"):
        assert any(line.split()[:2] == [stage, "Succeeded"] for line in printed.splitlines())
    assert "files     .rlhf/hello" in printed


def test_machines_get_one_object(rlhf: Rlhf) -> None:
    code, printed, said = rlhf("run", FILE, "--output", "json")
    result = json.loads(printed)
    assert (code, result["exitCode"], result["phase"]) == (0, 0, "Succeeded")
    assert "sft" in said


def test_a_failed_stage_names_its_cause_and_its_logs(rlhf: Rlhf, stages: Callable[..., None]) -> None:
    stages(sft={"exitCode": 65, "message": "sft.jsonl:37: no field 'output'"})
    code, _, said = rlhf("run", FILE)
    assert code == 65
    assert said.splitlines() == ["sft: DataInvalid: sft.jsonl:37: no field 'output'", "logs: rlhf logs hello sft"]
    assert phases() == {"prepare": "Succeeded", "sft": "Failed"}


def test_resume_repeats_only_what_failed(rlhf: Rlhf, stages: Callable[..., None]) -> None:
    FILE.write_text(HELLO + REWARD)
    stages(rm={"exitCode": 77, "message": "accuracy"})
    assert rlhf("run", FILE)[0] == 77
    stages()
    assert rlhf("resume")[0] == 0
    assert attempts() == {"prepare": 1, "sft": 1, "rm": 2}


def test_resume_after_prepare_failed(rlhf: Rlhf, stages: Callable[..., None]) -> None:
    stages(prepare={"exitCode": 65, "message": "empty"})
    assert rlhf("run", FILE)[0] == 65
    stages()
    assert rlhf("resume", "hello")[0] == 0
    assert attempts()["prepare"] == 2


def test_resume_takes_the_edits_of_the_job_file(rlhf: Rlhf, stages: Callable[..., None]) -> None:
    stages(sft={"exitCode": 65, "message": "x"})
    assert rlhf("run", FILE)[0] == 65
    stages()
    assert rlhf("resume", edited("maxSteps: 10", "maxSteps: 20"))[0] == 0
    assert LocalSession.open(Path(".rlhf/hello")).job()["spec"]["stages"][0]["sft"]["maxSteps"] == 20
    assert attempts() == {"prepare": 1, "sft": 2}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param("name: hello", "name: other", "metadata.name: 'other' is not the job to resume: 'hello'", id="another job"),
        pytest.param("storage: {size: 1Gi}", "storage: {size: 2Gi}", "spec.storage", id="an immutable field"),
        pytest.param("maxSteps: 10", "maxSteps: 0", "spec.stages[0].sft.maxSteps", id="a mistake"),
    ],
)
def test_edits_that_are_refused(old: str, new: str, message: str, rlhf: Rlhf, stages: Callable[..., None]) -> None:
    stages(sft={"exitCode": 65, "message": "x"})
    rlhf("run", FILE)
    code, _, said = rlhf("resume", edited(old, new), "--workdir", ".rlhf/hello")
    assert code == 64
    assert message in said
    assert attempts()["sft"] == 1


def test_a_complete_job_has_nothing_to_resume(rlhf: Rlhf) -> None:
    rlhf("run", FILE)
    assert rlhf("resume")[0] == 0
    assert set(attempts().values()) == {1}


def press_ctrl_c(*moments: Callable[[], bool]) -> threading.Thread:
    """Send SIGINT to this process once the condition holds; and again once the next one does."""

    def press() -> None:
        for is_now in moments:
            eventually(is_now, 30)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def is_waiting(stage: str, said: str = "attempt 1") -> Callable[[], bool]:
    """The fake trainer of the stage has begun to wait."""
    log = Path(".rlhf/hello/logs") / f"{stage}-r1" / "pod-0.log"
    return lambda: log.is_file() and said in log.read_text()


def test_ctrl_c_saves_and_resume_goes_on(rlhf: Rlhf, stages: Callable[..., None]) -> None:
    stages(sft={"wait": True})
    thread = press_ctrl_c(is_waiting("sft"))
    code, printed, said = rlhf("run", FILE)
    thread.join()
    assert code == 130
    assert "stopping after a checkpoint" in printed
    assert said == "stopped (sft has a checkpoint at step 7); go on with: rlhf resume hello\n"
    assert phases()["sft"] == "Suspended"
    assert rlhf("resume")[0] == 0
    assert attempts() == {"prepare": 1, "sft": 2}
    assert "sft attempt 2 resumes from ['stages/sft/r1/checkpoints']" in rlhf("logs", "hello", "sft")[1]


def test_ctrl_c_twice_does_not_wait(rlhf: Rlhf, stages: Callable[..., None]) -> None:
    stages(sft={"wait": True, "isDeaf": True})
    thread = press_ctrl_c(is_waiting("sft"), is_waiting("sft", "asked to stop"))
    code, _, said = rlhf("run", FILE)
    thread.join()
    assert code == 130
    assert said == "stopped (sft has no checkpoint yet); go on with: rlhf resume hello\n"
    stages()
    assert rlhf("resume")[0] == 0


def test_cancel_reaches_a_job_that_another_process_runs(rlhf: Rlhf, stages: Callable[..., None]) -> None:
    stages(sft={"wait": True})

    def cancel() -> None:
        eventually(is_waiting("sft"), 30)
        LocalSession.open(Path(".rlhf/hello")).suspend()

    thread = threading.Thread(target=cancel)
    thread.start()
    code, _, said = rlhf("run", FILE)
    thread.join()
    assert code == 1
    assert "go on with: rlhf resume hello" in said


def test_cancel_of_a_job_that_nobody_runs(rlhf: Rlhf, stages: Callable[..., None]) -> None:
    stages(sft={"wait": True})
    thread = press_ctrl_c(is_waiting("sft"))
    rlhf("run", FILE)
    thread.join()
    code, printed, _ = rlhf("cancel")
    assert (code, printed) == (0, "hello stops after a checkpoint; go on with: rlhf resume hello\n")


def test_cancel_of_a_job_that_has_ended(rlhf: Rlhf) -> None:
    rlhf("run", FILE)
    code, printed, _ = rlhf("cancel", "hello")
    assert (code, printed) == (0, "hello has ended (Succeeded); there is nothing to cancel\n")


def test_a_job_is_never_overwritten_silently(rlhf: Rlhf, place: Path) -> None:
    rlhf("run", FILE)
    (place / ".rlhf" / "hello" / "mine.txt").write_text("kept")
    code, _, said = rlhf("run", FILE)
    assert code == 64
    assert "holds a job already (Succeeded): go on with `rlhf resume hello`, or discard it with --fresh" in said
    before = LocalSession.open(Path(".rlhf/hello")).job()["metadata"]["uid"]
    assert rlhf("run", FILE, "--fresh")[0] == 0
    assert LocalSession.open(Path(".rlhf/hello")).job()["metadata"]["uid"] != before
    assert (place / ".rlhf" / "hello" / "mine.txt").read_text() == "kept"


def test_fresh_keeps_the_job_when_the_new_one_lacks_a_claim(rlhf: Rlhf) -> None:
    rlhf("run", FILE)
    before = LocalSession.open(Path(".rlhf/hello")).job()
    code, _, said = rlhf("run", edited("builtin://datasets/tiny-chat-sft", "pvc://data/sft.jsonl"), "--fresh")
    assert code == 64
    assert "--claim data=DIR" in said
    assert LocalSession.open(Path(".rlhf/hello")).job() == before


def test_fresh_keeps_the_job_when_the_directory_of_a_remembered_claim_is_gone(rlhf: Rlhf, place: Path) -> None:
    data = place / "data"
    data.mkdir()
    rlhf("run", edited("builtin://datasets/tiny-chat-sft", "pvc://data/sft.jsonl"), "--claim", "data=data")
    before = LocalSession.open(Path(".rlhf/hello")).job()
    data.rmdir()
    code, _, said = rlhf("run", FILE, "--fresh")
    assert (code, said) == (64, f"--claim: '{data}' is no directory, but claim data stands for it: create it first\n")
    assert LocalSession.open(Path(".rlhf/hello")).job() == before


@pytest.mark.parametrize("arguments", [("run", FILE), ("run", FILE, "--fresh"), ("resume", "hello")])
def test_two_processes_do_not_share_a_job(arguments: tuple[object, ...], rlhf: Rlhf) -> None:
    rlhf("run", FILE)
    with Workdir(Path(".rlhf/hello").resolve()).drive():
        code, _, said = rlhf(*arguments)
    assert code in (1, 64)
    assert "hello" in said


def test_a_refused_job_leaves_nothing(rlhf: Rlhf, place: Path) -> None:
    code, _, said = rlhf("run", edited("maxSteps: 10", "maxSteps: 0"))
    assert (code, list(place.iterdir())) == (64, [place / "hello.yaml"]), said


def test_a_claim_that_nobody_gave(rlhf: Rlhf, place: Path) -> None:
    code, _, said = rlhf("run", edited("builtin://datasets/tiny-chat-sft", "pvc://data/sft.jsonl"))
    assert code == 64
    assert "--claim data=DIR" in said
    assert not (place / ".rlhf").exists()


def test_a_profile_is_obeyed(rlhf: Rlhf, place: Path) -> None:
    profile = {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "ClusterRLHFProfile",
        "metadata": {"name": "default"},
        "spec": {"image": "x@sha256:" + "0" * 64, "limits": {"maxStorage": "1Mi"}},
    }
    (place / "profile.json").write_text(json.dumps(profile))
    code, _, said = rlhf("run", FILE, "--profile", "profile.json")
    assert code == 64
    assert said == "hello: LimitExceeded: storage.size is above the limit of the profile: 1Mi\n"


def test_a_profile_that_breaks_rules(rlhf: Rlhf, place: Path) -> None:
    (place / "profile.yaml").write_text(
        "apiVersion: rlhf.dev/v1alpha1\nkind: ClusterRLHFProfile\nmetadata: {name: default}\nspec: {imag: x}\n"
    )
    code, _, said = rlhf("run", FILE, "--profile", "profile.yaml")
    assert code == 64
    assert "spec.imag" in said


def test_another_working_directory(rlhf: Rlhf, place: Path) -> None:
    assert rlhf("run", FILE, "--workdir", place / "here")[0] == 0
    assert not (place / ".rlhf").exists()
    assert "Succeeded" in rlhf("get", place / "here")[1]
    assert "sft attempt 1" in rlhf("logs", "--workdir", place / "here", "sft")[1]


def test_a_working_directory_that_cannot_be_made(rlhf: Rlhf, place: Path) -> None:
    (place / "file").write_text("")
    code, _, said = rlhf("run", FILE, "--workdir", place / "file" / "job")
    assert code == 74
    assert f"--workdir: '{place}/file/job' cannot be written (Not a directory)" in said


def test_get_lists_and_shows(rlhf: Rlhf) -> None:
    assert "no jobs below .rlhf" in rlhf("get")[1]
    rlhf("run", FILE)
    listed = rlhf("get")[1].splitlines()[1].split()
    assert listed[:3] == ["hello", "Succeeded", "2/2"]
    assert json.loads(rlhf("get", "-o", "json")[1])["items"][0]["metadata"]["name"] == "hello"
    shown: dict[str, Any] = json.loads(rlhf("get", "hello", "-o", "json")[1])
    assert shown["status"]["phase"] == "Succeeded"


@pytest.mark.parametrize("command", ["resume", "cancel", "get", "logs"])
def test_a_job_that_does_not_exist(command: str, rlhf: Rlhf) -> None:
    code, _, said = rlhf(command, "nobody")
    assert code == 64
    assert said == "JOB: 'nobody' is no job here: there are no jobs below .rlhf; start one: rlhf run JOB_FILE\n"


def test_a_name_longer_than_any_file_may_have_names_no_edited_file(rlhf: Rlhf) -> None:
    rlhf("run", FILE)
    assert rlhf("resume", "x" * 300, "--workdir", ".rlhf/hello").code == 0


def test_a_job_must_be_named_when_there_are_two(rlhf: Rlhf) -> None:
    rlhf("run", FILE)
    rlhf("run", edited("name: hello", "name: other"))
    code, _, said = rlhf("resume")
    assert (code, said) == (64, "JOB: must be named: the jobs below .rlhf are hello, other\n")
    assert rlhf("resume", "hello.yaml")[0] == 0


def test_fresh_discards_a_job_of_which_an_object_is_damaged(rlhf: Rlhf, place: Path) -> None:
    rlhf("run", FILE)
    pod = next((place / ".rlhf/hello/state/Pod/default").glob("*.json"))
    pod.write_text("")
    assert rlhf("run", FILE).code == 1
    assert rlhf("run", FILE, "--fresh").code == 0


def test_resume_takes_another_profile(rlhf: Rlhf, place: Path) -> None:
    def profile(storage: str) -> str:
        spec = {"image": "x@sha256:" + "0" * 64, "limits": {"maxStorage": storage}}
        wire = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "ClusterRLHFProfile", "metadata": {"name": "default"}, "spec": spec}
        (place / "profile.json").write_text(json.dumps(wire))
        return "profile.json"

    assert rlhf("run", FILE, "--profile", profile("1Mi")).code == 64
    assert rlhf("resume", "hello").code == 64
    assert rlhf("resume", "hello", "--profile", profile("1Gi")).code == 0
