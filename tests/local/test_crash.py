"""A job that is killed and stopped in every stage ends with the weights of an undisturbed one, bit for bit.

Here with the real `rlhf`, launchers and workers, at one moment each. `make chaos` tries many moments, with workers that start in a second.
"""

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.local.conftest import Undisturbed
from tests.support.eventually import eventually
from tests.support.jobs import PPO, REWARD, SFT, STAGE_SECONDS, Rlhf, a_job_file, kill, processes_of

LAUNCHER, WORKER = "rlhf_trainer.launch", "rlhf_trainer.worker"
STAGES = ["sft", "rm", "ppo"]
pytestmark = pytest.mark.timeout(1800)  # the first test pays for the whole story


@dataclass(frozen=True, slots=True)
class Disturbed:
    """A finished job, and how it had answered to Ctrl-C."""

    rlhf: Rlhf
    code: int
    said: str
    stopped: dict[str, dict[str, Any]]


def stages_of(rlhf: Rlhf, job: str) -> dict[str, dict[str, Any]]:
    status = json.loads(rlhf("get", job, "-o", "json").out)["status"]
    return {stage["name"]: stage for stage in status["stages"]}


def resumed_steps(stage: dict[str, Any]) -> list[int]:
    """The step from which each attempt after the first went on."""
    return [attempt.get("resumedFrom", {}).get("step", 0) for attempt in stage["attempts"][1:]]


@pytest.fixture(scope="module")
def disturbed(undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disturbed]:
    """`kill -9` of a worker in SFT, of a launcher and then of `rlhf` itself in the reward model, of a worker in PPO; then Ctrl-C."""
    with Rlhf(tmp_path_factory.mktemp("disturbed")) as rlhf:
        file = a_job_file(rlhf.directory / "job.json", stages={"sft": SFT, "rm": REWARD, "ppo": PPO})
        process = rlhf.start("run", file)
        for stage, step, victim in (("sft", 9, WORKER), ("rm", 5, LAUNCHER)):  # the save of step 8 waits for that of step 4
            rlhf.wait_for_step("job", stage, step, process)
            kill(*processes_of(rlhf.directory, victim))
        eventually(lambda: len(rlhf.attempts("job", "rm")) == 2, STAGE_SECONDS)
        rlhf.wait_for_step("job", "rm", 9, process)
        kill(process.pid)
        process.communicate()
        process = rlhf.start("resume", file)
        rlhf.wait_for_step("job", "ppo", 2, process)
        kill(*processes_of(rlhf.directory, WORKER))
        eventually(lambda: len(rlhf.attempts("job", "ppo")) == 2, STAGE_SECONDS)
        rlhf.wait_for_step("job", "ppo", 3, process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=STAGE_SECONDS)
        stopped = stages_of(rlhf, "job")
        finished = rlhf("resume", "job")
        assert finished.code == 0, finished.err + finished.out
        yield Disturbed(rlhf, process.returncode, said, stopped)


@pytest.mark.rule("C5")
@pytest.mark.parametrize("stage", STAGES)
def test_kills_and_stops_change_no_weight(stage: str, disturbed: Disturbed, undisturbed: Undisturbed) -> None:
    assert disturbed.rlhf.weights("job", stage) == undisturbed.rlhf.weights("chain", stage)


@pytest.mark.rule("C4")
def test_killed_stages_went_on_from_a_checkpoint(disturbed: Disturbed) -> None:
    stages = stages_of(disturbed.rlhf, "job")
    for stage in STAGES:
        assert stages[stage]["attempt"] >= 2, f"{stage} was not disturbed"
        assert all(step > 0 for step in resumed_steps(stages[stage])[-1:])
    assert stages["prepare"]["attempt"] == 1


@pytest.mark.rule("C7")
def test_ctrl_c_saves_a_checkpoint_and_says_how_to_go_on(disturbed: Disturbed) -> None:
    assert disturbed.code == 130
    assert disturbed.stopped["ppo"]["phase"] == "Suspended"
    found = re.search(r"stopped \(ppo has a checkpoint at step (\d+)\); go on with: rlhf resume job", disturbed.said)
    assert found, disturbed.said
    step = int(found[1])
    assert step >= 3
    assert resumed_steps(stages_of(disturbed.rlhf, "job")["ppo"])[-1] == step


def test_no_process_is_left(disturbed: Disturbed) -> None:
    assert processes_of(disturbed.rlhf.directory, WORKER) == []
    assert processes_of(disturbed.rlhf.directory, LAUNCHER) == []
