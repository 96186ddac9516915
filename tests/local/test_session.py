"""`rlhf run` without the terminal: one job in one directory, through failures, interruptions and kills. Pods are real, the trainer is not."""

import copy
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf_api.outcome import ExitCode
from rlhf_operator.local.discard import discard
from rlhf_operator.local.machine import Machine
from rlhf_operator.local.processes import LocalRuntime
from rlhf_operator.local.session import Busy, LocalSession, NoSuchJob, Refused
from rlhf_operator.local.workdir import Workdir
from rlhf_operator.shell.crash import POINTS
from rlhf_operator.shell.kube import Object, Throttled, Unavailable
from tests.support.backend import TINY_POD
from tests.support.eventually import eventually
from tests.support.rig import HELLO

JOB: dict[str, Any] = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": {"name": "chat"}, "spec": HELLO}
MACHINE = Machine(free_memory_bytes=16 * 2**30)
HANG = {"hang": True}


def a_job(**spec: Any) -> dict[str, Any]:
    return {**copy.deepcopy(JOB), "spec": {**copy.deepcopy(HELLO), **spec}}


def a_profile(memory: str) -> dict[str, Any]:
    """The spec of a profile that gives a process this much memory."""
    return {"image": "local", "allowUnpinnedImage": True, "resources": {"perProcess": {"memory": memory}}}


class Desk:
    """A directory with a table of what the pods do."""

    def __init__(self, path: Path) -> None:
        self.workdir, self.table = path / "work", path / "table.json"
        self.plays()

    def plays(self, **actions: Any) -> None:
        """What the pods of a stage (or, with `sft_r2`, of an attempt) do from now on."""
        self.table.write_text(json.dumps({key.replace("_", "/"): action for key, action in actions.items()}), encoding="utf-8")

    def session(self, **options: Any) -> LocalSession:
        """A new process would open it like this."""
        runtime = LocalRuntime((sys.executable, "-S", str(TINY_POD), str(self.table)))
        return LocalSession.open(self.workdir, runtime=runtime, machine=MACHINE, **options)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield Desk(tmp_path)
    assert _pods_of(tmp_path) == [], "a process outlived its test"


def phases(job: Object) -> dict[str, str]:
    return {stage["name"]: stage["phase"] for stage in job["status"]["stages"]}


def when(condition: Callable[[Object], bool]) -> tuple[Callable[[Object], None], Callable[[], bool]]:
    """`on_change` and `should_stop` of a run that is interrupted once the condition holds."""
    seen = threading.Event()

    def on_change(job: Object) -> None:
        if "status" in job and condition(job):
            seen.set()

    return on_change, seen.is_set


def test_a_job_runs_to_its_end(desk: Desk) -> None:
    session = desk.session()
    session.submit(JOB)
    changes: list[Object] = []
    job = session.run(changes.append)
    assert phases(job) == {"prepare": "Succeeded", "sft": "Succeeded", "rm": "Succeeded", "ppo": "Succeeded"}
    assert session.exit_code() == 0
    assert session.job() == job
    assert [event["reason"] for event in session.events()][-1] == "Complete"
    assert [change["metadata"]["resourceVersion"] for change in changes] == sorted(
        {change["metadata"]["resourceVersion"] for change in changes}, key=int
    )
    assert (session.logs_dir("sft", 1) / "pod-0.log").exists()
    assert session.directory("sft", 1) == desk.workdir / "volume" / job["metadata"]["uid"] / "stages" / "sft" / "r1"


@pytest.mark.parametrize(("code", "exit_code"), [(65, 65), (77, 77), (3, 3)])
def test_the_exit_code_is_that_of_the_outcome(desk: Desk, code: int, exit_code: int) -> None:
    desk.plays(sft={"exit": code})
    session = desk.session()
    session.submit(a_job(runPolicy={"maxAttempts": 1}))
    job = session.run(lambda job: None)
    assert job["status"]["phase"] == "Failed"
    assert session.exit_code() == exit_code


def test_a_failure_is_retried_at_once(desk: Desk) -> None:
    desk.plays(**{"sft_r1": {"exit": 1}})
    session = desk.session()
    session.submit(JOB)
    job = session.run(lambda job: None)
    assert [attempt["outcome"] for attempt in job["status"]["stages"][1]["attempts"]] == ["AppError", "Succeeded"]
    assert session.exit_code() == 0


def test_an_interruption_suspends_and_resume_goes_on(desk: Desk) -> None:
    desk.plays(sft=HANG)
    session = desk.session()
    session.submit(JOB)
    job = session.run(*when(lambda job: phases(job)["sft"] == "Running"))
    assert job["status"]["phase"] == "Suspended"
    assert session.exit_code() == 130
    desk.plays()
    resumed = desk.session()
    resumed.resume()
    job = resumed.run(lambda job: None)
    assert job["status"]["stages"][1]["attempt"] == 2
    assert (resumed.exit_code(), job["status"]["phase"]) == (0, "Succeeded")
    assert session.job()["status"]["stages"][1]["attempts"][0]["outcome"] == "Cancelled"


def test_a_second_interruption_does_not_wait_for_a_checkpoint(desk: Desk) -> None:
    desk.plays(sft={**HANG, "deaf": True})
    session = desk.session()
    session.submit(JOB)

    def on_change(job: Object) -> None:
        if "status" in job and phases(job).get("sft") == "Running":
            session.abort()

    assert session.run(on_change)["status"]["phase"] == "Suspended"
    assert session.exit_code() == 130


def test_another_process_can_cancel_what_runs_here(desk: Desk) -> None:
    desk.plays(sft=HANG)
    session = desk.session()
    session.submit(JOB)
    told = threading.Event()

    def cancel() -> None:
        told.wait(30)
        other = desk.session()
        assert other.is_running()
        with pytest.raises(Busy, match=r"process \d+ drives this job"):
            other.run(lambda job: None)
        other.suspend()

    thread = threading.Thread(target=cancel)
    thread.start()
    job = session.run(lambda job: told.set() if "status" in job and phases(job)["sft"] == "Running" else None)
    thread.join()
    assert job["status"]["phase"] == "Suspended"
    assert session.exit_code() == 1
    assert not session.is_running()


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.local.test_session import Desk, JOB
desk = Desk.__new__(Desk)
desk.workdir, desk.table = Path({workdir!r}), Path({table!r})
session = desk.session()
session.submit(JOB)
session.run(lambda job: None)
"""


def start_driver(desk: Desk, **environment: str) -> subprocess.Popen[bytes]:
    """`rlhf run` in a process of its own, which a test may kill."""
    root = str(Path(__file__).parents[2])
    program = DRIVER.format(root=root, workdir=str(desk.workdir), table=str(desk.table))
    return subprocess.Popen([sys.executable, "-c", program], env={**os.environ, **environment}, cwd=desk.workdir.parent)


def test_after_kill_9_of_rlhf_its_pods_are_ended_and_the_job_resumes(desk: Desk) -> None:
    desk.plays(sft={**HANG, "child": True})
    driver = start_driver(desk)
    eventually(lambda: desk.session().is_running() and _phase(desk, "sft") == "Running", 60, "the stage runs")
    eventually(lambda: len(_pods_of(desk.workdir)) == 2, 30, "the pod has a child")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert len(_pods_of(desk.workdir)) == 2
    desk.plays()
    session = desk.session()
    job = session.run(lambda job: None)
    attempts = job["status"]["stages"][1]["attempts"]
    assert [(attempt["outcome"], attempt["budget"]) for attempt in attempts] == [("Disrupted", "Disruption"), ("Succeeded", "None")]
    assert session.exit_code() == 0


def test_cancelling_a_job_that_nobody_drives_ends_its_pods(desk: Desk) -> None:
    desk.plays(sft=HANG)
    driver = start_driver(desk)
    eventually(lambda: desk.session().is_running() and _phase(desk, "sft") == "Running", 60, "the stage runs")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    session = desk.session()
    session.suspend()
    assert session.job()["status"]["phase"] == "Suspended"
    assert _pods_of(desk.workdir) == []


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_any_point_loses_nothing(desk: Desk, point: str) -> None:
    driver = start_driver(desk, RLHF_CRASH_POINT=point)
    assert driver.wait(60) == -signal.SIGKILL
    session = desk.session()
    job = session.run(lambda job: None)
    assert job["status"]["phase"] == "Succeeded"
    assert [stage["attempt"] for stage in job["status"]["stages"]] == [1, 1, 1, 1]


class TestRefusals:
    def test_all_problems_are_told_before_anything_is_written(self, desk: Desk) -> None:
        with pytest.raises(Refused) as refused:
            desk.session().submit(a_job(topology={"gpusPerNode": -1}, seed=-1))
        assert [problem.path for problem in refused.value.problems] == ["spec.topology.gpusPerNode", "spec.seed"]
        assert refused.value.exit_code == ExitCode.CONFIG
        assert not desk.workdir.exists()

    def test_what_this_version_cannot_do_is_69(self, desk: Desk) -> None:
        model = {"size": "7B", "source": {"uri": "hf://org/base", "revision": "0" * 40}}
        with pytest.raises(Refused) as refused:
            desk.session().submit(a_job(model=model))
        assert refused.value.exit_code == ExitCode.UNSUPPORTED

    def test_a_claim_without_a_directory_names_the_option(self, desk: Desk, tmp_path: Path) -> None:
        job = a_job(model={"size": "1M", "source": {"uri": "pvc://models/base"}})
        with pytest.raises(Refused, match="add --claim models=DIR"):
            desk.session().submit(job)
        with pytest.raises(Refused, match="is no directory"):
            desk.session(claims={"models": tmp_path / "missing"}).submit(job)
        (tmp_path / "models").mkdir()
        desk.session(claims={"models": tmp_path / "models"}).submit(job)
        assert desk.session().run(lambda job: None)["status"]["phase"] == "Succeeded"

    def test_an_existing_claim_is_the_volume(self, desk: Desk, tmp_path: Path) -> None:
        job = a_job(storage={"existingClaim": "data"})
        with pytest.raises(Refused, match="add --claim data=DIR"):
            desk.session().submit(job)
        (tmp_path / "data").mkdir()
        session = desk.session(claims={"data": tmp_path / "data"})
        session.submit(job)
        session.run(lambda job: None)
        assert session.exit_code() == 0
        assert session.root().parent == tmp_path / "data"

    def test_a_profile_that_refuses_ends_the_run(self, desk: Desk) -> None:
        session = desk.session(profile=a_profile("1Mi"))
        session.submit(JOB)
        job = session.run(lambda job: None)
        assert job["status"]["phase"] == "Pending"
        assert job["status"]["reason"] == "DoesNotFit"
        assert session.exit_code() == 64

    def test_a_profile_holds_until_another_is_given(self, desk: Desk) -> None:
        session = desk.session(profile=a_profile("1Mi"))
        session.submit(JOB)
        assert session.run(lambda job: None)["status"]["reason"] == "DoesNotFit"
        assert desk.session().run(lambda job: None)["status"]["reason"] == "DoesNotFit"
        assert desk.session(profile=a_profile("16Gi")).run(lambda job: None)["status"]["phase"] == "Succeeded"
        assert Workdir(desk.workdir).read_profile() == a_profile("16Gi")

    def test_a_profile_given_to_submit_holds_after_a_kill(self, desk: Desk) -> None:
        desk.session(profile=a_profile("1Mi")).submit(JOB)
        assert desk.session().run(lambda job: None)["status"]["reason"] == "DoesNotFit"

    def test_a_profile_is_discarded_with_its_job(self, desk: Desk) -> None:
        session = desk.session(profile=a_profile("1Mi"))
        session.submit(JOB)
        session.run(lambda job: None)
        fresh = desk.session()
        discard(Workdir(desk.workdir), LocalRuntime())
        fresh.submit(JOB)
        assert fresh.run(lambda job: None)["status"]["phase"] == "Succeeded"

    def test_a_profile_may_be_a_whole_object(self, desk: Desk) -> None:
        metadata = {"name": "mine"}
        profile = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "ClusterRLHFProfile", "metadata": metadata, "spec": a_profile("16Gi")}
        session = desk.session(profile=profile)
        session.submit(JOB)
        session.run(lambda job: None)
        assert session.exit_code() == 0

    def test_a_directory_holds_one_job(self, desk: Desk) -> None:
        session = desk.session()
        first = session.submit(JOB)
        assert session.submit(JOB)["metadata"]["uid"] == first["metadata"]["uid"]
        with pytest.raises(FileExistsError, match="holds another job"):
            session.submit(a_job(seed=1))

    def test_an_empty_directory_holds_none(self, desk: Desk) -> None:
        with pytest.raises(NoSuchJob, match="no job here"):
            desk.session().job()
        assert desk.session().events() == []


class TestChanges:
    def test_a_failed_stage_runs_again_after_an_edit(self, desk: Desk) -> None:
        desk.plays(**{"rm_r1": {"exit": 65}})
        session = desk.session()
        session.submit(JOB)
        session.run(lambda job: None)
        assert session.exit_code() == 65
        edited = copy.deepcopy(JOB)
        edited["spec"]["stages"][1]["rewardModel"]["learningRate"] = 1e-5
        edited["spec"]["rerun"] = {"fromStage": "rm", "token": "2"}
        session.replace_spec(edited)
        job = session.run(lambda job: None)
        assert [stage["attempt"] for stage in job["status"]["stages"]] == [1, 1, 2, 1]
        assert session.exit_code() == 0
        session.rerun("ppo", "3")
        job = session.run(lambda job: None)
        assert [stage["attempt"] for stage in job["status"]["stages"]] == [1, 1, 2, 2]

    def test_a_claim_that_an_edit_brings_in_needs_a_directory_and_is_remembered(self, desk: Desk, tmp_path: Path) -> None:
        desk.plays(**{"sft_r1": {"exit": 65}})
        session = desk.session()
        session.submit(JOB)
        session.run(lambda job: None)
        edited = copy.deepcopy(JOB)
        edited["spec"]["stages"][0]["sft"]["dataset"]["uri"] = "pvc://data/rows.jsonl"
        edited["spec"]["rerun"] = {"fromStage": "sft", "token": "2"}
        before = session.job()
        with pytest.raises(Refused, match="names claim data, which is no directory yet: add --claim data=DIR"):
            session.replace_spec(edited)
        assert session.job() == before
        (tmp_path / "data").mkdir()
        session = desk.session(claims={"data": tmp_path / "data"})
        session.replace_spec(edited)
        session.run(lambda job: None)
        assert session.exit_code() == 0
        later = desk.session()
        later.rerun("sft", "3")
        later.run(lambda job: None)
        assert (later.exit_code(), later.job()["status"]["stages"][1]["attempt"]) == (0, 3)

    def test_a_claim_whose_directory_is_gone_keeps_pods_from_starting(self, desk: Desk, tmp_path: Path) -> None:
        (tmp_path / "models").mkdir()
        session = desk.session(claims={"models": tmp_path / "models"})
        session.submit(a_job(model={"size": "1M", "source": {"uri": "pvc://models/base"}}))
        (tmp_path / "models").rmdir()
        with pytest.raises(Refused, match="is no directory, but claim models stands for it: create it first"):
            session.run(lambda job: None)
        session.suspend()  # that needs no claim
        assert session.job()["status"]["phase"] == "Suspended"
        session.resume()
        (tmp_path / "models").mkdir()
        assert session.run(lambda job: None)["status"]["phase"] == "Succeeded"
        (tmp_path / "models").rmdir()
        assert session.run(lambda job: None)["status"]["phase"] == "Succeeded"

    def test_what_may_not_change_is_refused(self, desk: Desk) -> None:
        session = desk.session()
        session.submit(JOB)
        with pytest.raises(Refused, match=r"spec\.seed is immutable"):
            session.replace_spec(a_job(seed=1))
        with pytest.raises(Refused, match="rerun"):
            session.rerun("no-such-stage", "1")

    def test_a_job_that_is_over_is_at_rest(self, desk: Desk) -> None:
        session = desk.session()
        session.submit(JOB)
        session.run(lambda job: None)
        before = session.job()
        assert session.run(lambda job: None) == before


def test_a_queue_admits_at_once_here(desk: Desk) -> None:
    session = desk.session()
    session.submit(a_job(queueName="team-a"))
    session.run(lambda job: None)
    assert session.exit_code() == 0


def test_a_gang_meets_at_one_port(desk: Desk) -> None:
    session = desk.session()
    stages = copy.deepcopy(HELLO["stages"][:1])
    session.submit(a_job(topology={"nodes": 2, "gpusPerNode": 0}, stages=stages))
    session.run(lambda job: None)
    logs = sorted(path.name for path in session.logs_dir("sft", 1).iterdir())
    assert (session.exit_code(), logs) == (0, ["pod-0.log", "pod-1.log"])


def test_errors_of_the_api_delay_and_change_nothing(desk: Desk) -> None:
    session = desk.session()
    session.submit(JOB)
    session.faults.fail("list", "Job", Unavailable("connection lost"), nth=2)
    session.faults.fail("create", "Job", Unavailable("timeout, but applied"), nth=1, applied=True)
    session.faults.fail("apply_status", "RLHFJob", Throttled("slow down", retry_after_seconds=0.05), nth=3)
    job = session.run(lambda job: None)
    assert [stage["attempt"] for stage in job["status"]["stages"]] == [1, 1, 1, 1]
    assert session.exit_code() == 0


def _phase(desk: Desk, stage: str) -> str:
    try:
        return phases(desk.session().job()).get(stage, "")
    except (NoSuchJob, KeyError):
        return ""


def _pods_of(directory: Path) -> list[int]:
    """Living pod processes whose files are below a directory, and their children."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
            where = os.readlink(entry / "cwd")
        except OSError:
            continue
        if b"RLHF_POD_UID=" in environment and Path(where).is_relative_to(directory):
            found.append(int(entry.name))
    return found
