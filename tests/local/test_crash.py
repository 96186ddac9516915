"""Killed and stopped jobs end with the weights of an undisturbed one, bit for bit."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.local.conftest import Undisturbed
from tests.support.eventually import eventually
from tests.support.jobs import PPO, REWARD, SFT, STAGE_SECONDS, Rlhf, a_job_file, kill, processes_of

LAUNCHER, WORKER = "rlhf_trainer.launch", "rlhf_trainer.worker"


def training(rlhf: Rlhf, name: str) -> Path:
    """The job file of a job with the training stages of `chain`."""
    return a_job_file(rlhf.directory / f"{name}.json", stages={"sft": SFT, "rm": REWARD, "ppo": PPO})


def stages_of(rlhf: Rlhf, job: str) -> dict[str, dict[str, Any]]:
    status = json.loads(rlhf("get", job, "-o", "json").out)["status"]
    return {stage["name"]: stage for stage in status["stages"]}


def resumed_steps(stage: dict[str, Any]) -> list[int]:
    """The step from which each attempt after the first went on."""
    return [attempt.get("resumedFrom", {}).get("step", 0) for attempt in stage["attempts"][1:]]


@pytest.fixture(scope="module")
def killed(undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rlhf]:
    """`kill -9`: a worker in SFT, a launcher in the reward model, a worker and then `rlhf` itself in PPO."""
    with Rlhf(tmp_path_factory.mktemp("killed")) as rlhf:
        process = rlhf.start("run", training(rlhf, "killed"))
        for stage, step, victim in (("sft", 6, WORKER), ("rm", 6, LAUNCHER), ("ppo", 2, WORKER)):
            rlhf.wait_for_step("killed", stage, step, process)
            kill(*processes_of(rlhf.directory, victim))
        eventually(lambda: len(rlhf.attempts("killed", "ppo")) == 2, STAGE_SECONDS)
        rlhf.wait_for_step("killed", "ppo", 5, process)
        kill(process.pid)
        process.communicate()
        finished = rlhf("resume", "killed")
        assert finished.code == 0, finished.err + finished.out
        yield rlhf


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_killed_processes_change_no_weight(stage: str, killed: Rlhf, undisturbed: Undisturbed) -> None:
    assert killed.weights("killed", stage) == undisturbed.rlhf.weights("chain", stage)


def test_killed_stages_went_on_from_a_checkpoint(killed: Rlhf) -> None:
    stages = stages_of(killed, "killed")
    for stage in ("sft", "rm", "ppo"):
        assert stages[stage]["attempt"] >= 2, f"{stage} was not disturbed"
        assert all(step > 0 for step in resumed_steps(stages[stage])[-1:])
    assert stages["prepare"]["attempt"] == 1


def test_no_process_is_left(killed: Rlhf) -> None:
    assert processes_of(killed.directory, WORKER) == []
    assert processes_of(killed.directory, LAUNCHER) == []


Stopped = tuple[Rlhf, int, str, dict[str, Any]]


@pytest.fixture(scope="module")
def stopped(undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stopped]:
    """`rlhf` killed in SFT and resumed, then Ctrl-C in PPO and resumed. Exit code, words and status after Ctrl-C."""
    with Rlhf(tmp_path_factory.mktemp("stopped")) as rlhf:
        file = training(rlhf, "stopped")
        process = rlhf.start("run", file)
        rlhf.wait_for_step("stopped", "sft", 6, process)
        kill(process.pid)
        process.communicate()
        process = rlhf.start("resume", file)
        rlhf.wait_for_step("stopped", "ppo", 3, process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=STAGE_SECONDS)
        after = stages_of(rlhf, "stopped")
        finished = rlhf("resume", "stopped")
        assert finished.code == 0, finished.err + finished.out
        yield rlhf, process.returncode, said, after


def test_ctrl_c_saves_a_checkpoint_and_says_how_to_go_on(stopped: Stopped) -> None:
    rlhf, code, said, after = stopped
    assert code == 130
    assert after["ppo"]["phase"] == "Suspended"
    found = re.search(r"stopped \(ppo has a checkpoint at step (\d+)\); go on with: rlhf resume stopped", said)
    assert found, said
    step = int(found[1])
    assert step >= 3
    assert resumed_steps(stages_of(rlhf, "stopped")["ppo"]) == [step]


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_stopping_changes_no_weight(stage: str, stopped: Stopped, undisturbed: Undisturbed) -> None:
    assert stopped[0].weights("stopped", stage) == undisturbed.rlhf.weights("chain", stage)
