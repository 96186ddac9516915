"""The whole chain through `rlhf run`, in real processes: from raw data to a published 4-bit model that answers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local.conftest import Undisturbed
from tests.support.jobs import PPO, REWARD, SFT, Rlhf, a_job_file

pytestmark = pytest.mark.timeout(1800)  # the first test pays for the whole chain


def test_every_stage_succeeds(undisturbed: Undisturbed) -> None:
    stages = undisturbed.result["job"]["status"]["stages"]
    assert [(stage["name"], stage["phase"]) for stage in stages] == [
        (name, "Succeeded") for name in ("prepare", "sft", "rm", "ppo", "nf4", "publish")
    ]
    assert (undisturbed.result["phase"], undisturbed.result["exitCode"]) == ("Succeeded", 0)
    assert all(stage["output"]["digest"].startswith("sha256:") for stage in stages)


def test_progress_went_to_standard_error(undisturbed: Undisturbed) -> None:
    for stage in ("prepare", "sft", "rm", "ppo", "nf4", "publish"):
        assert any(line.split()[:2] == [stage, "Succeeded"] for line in undisturbed.said.splitlines())


def test_held_out_prompts_were_measured(undisturbed: Undisturbed) -> None:
    scores = {score["model"]: score for score in undisturbed.result["scores"]}
    assert list(scores) == ["base", "sft (SFT)", "ppo (PPO)", "nf4 (Quantize)"]
    assert all(0 <= score["exactMatch"] <= 1 and score["exactMatchZh"] is not None for score in scores.values())
    assert scores["ppo (PPO)"]["rewardMean"] is not None
    assert scores["base"]["exactMatch"] <= 0.02


def test_the_artifact_is_where_the_result_says(undisturbed: Undisturbed) -> None:
    (artifact,) = undisturbed.result["artifacts"]
    assert Path(artifact["directory"]) == undisturbed.artifact
    names = {path.name for path in undisturbed.artifact.iterdir()}
    assert {"config.json", "tokenizer.json", "README.md", "manifest.json", "curves.png"} <= names
    assert any(name.endswith(".safetensors") for name in names)


def test_chat_answers_in_both_languages(undisturbed: Undisturbed) -> None:
    finished = undisturbed.rlhf("chat", undisturbed.artifact, "-m", "What is 3 plus 4?", "-m", "3加4等于多少?", "--max-new-tokens", 8)
    assert finished.code == 0, finished.err
    assert len(finished.out.splitlines()) >= 2


def test_a_finished_job_can_be_looked_at(undisturbed: Undisturbed) -> None:
    rlhf = undisturbed.rlhf
    assert "chain" in rlhf("get").out
    assert "sft/r1" in rlhf("get", "chain").out
    assert json.loads(rlhf("get", "chain", "-o", "json").out)["status"]["phase"] == "Succeeded"
    assert rlhf("logs", "chain", "sft").out
    drawn = rlhf("plot", rlhf.workdir("chain"), "--to", rlhf.directory / "curves.png")
    assert (drawn.code, drawn.out) == (0, f"wrote {rlhf.directory}/curves.png (sft, rm, ppo)\n")


def test_a_finished_job_is_neither_repeated_nor_overwritten(undisturbed: Undisturbed) -> None:
    again = undisturbed.rlhf("run", undisturbed.file, "--claim", f"models={undisturbed.artifact.parent}")
    assert again.code == 64
    assert "rlhf resume chain" in again.err
    assert "--fresh" in again.err
    resumed = undisturbed.rlhf("resume", "chain", "-o", "json")
    assert resumed.code == 0, resumed.err
    assert [stage["attempt"] for stage in resumed.result["job"]["status"]["stages"]] == [1] * 6


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rlhf]:
    """The training stages of `chain` in two processes."""
    with Rlhf(tmp_path_factory.mktemp("zero2")) as rlhf:
        file = a_job_file(
            rlhf.directory / "zero.json",
            stages={"sft": SFT, "rm": REWARD, "ppo": PPO},
            topology={"gpusPerNode": 0, "processesPerNode": 2},
            strategy="zero2",
        )
        finished = rlhf("run", file)
        assert finished.code == 0, finished.err + finished.out
        yield rlhf


@pytest.mark.parametrize("stage", ["sft", "rm"])
@pytest.mark.rule("C6", "F1")
def test_two_processes_learn_what_one_learns(stage: str, undisturbed: Undisturbed, two_processes: Rlhf) -> None:
    one = [line["loss"] for line in undisturbed.rlhf.lines("chain", stage) if "loss" in line]
    two = [line["loss"] for line in two_processes.lines("zero", stage) if "loss" in line]
    assert len(one) == len(two)
    assert two[-1] == pytest.approx(one[-1], rel=0.01)


def test_two_processes_ran_colossalai(two_processes: Rlhf) -> None:
    stages = json.loads(two_processes("get", "zero", "-o", "json").out)["status"]["stages"]
    assert [(stage["plan"]["strategy"], stage["plan"]["worldSize"]) for stage in stages[1:]] == [("zero2", 2)] * 3
