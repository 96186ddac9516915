"""`rlhf validate`, `plan` and `new`."""

import json
from pathlib import Path

import pytest

from rlhf_api.job import RLHFJob
from rlhf_cli.job_files import read_object
from rlhf_cli.new_job import UNTIL
from tests.support.cli import Rlhf

EXAMPLES = Path(__file__).parents[3] / "examples"
HELLO = (EXAMPLES / "hello.yaml").read_text()


def job_with(tmp_path: Path, old: str, new: str) -> Path:
    assert old in HELLO
    (tmp_path / "job.yaml").write_text(HELLO.replace(old, new))
    return tmp_path / "job.yaml"


def test_a_valid_job(rlhf: Rlhf) -> None:
    file = EXAMPLES / "hello.yaml"
    assert rlhf("validate", file) == (0, f"{file}: valid\n", "")


def test_one_problem_a_line(rlhf: Rlhf, tmp_path: Path) -> None:
    file = job_with(tmp_path, "maxSteps: 10, globalBatchSize: 8, maxLength: 128}}", "maxSteps: 0, globalBatchSise: 8, maxLength: 128}}")
    code, printed, said = rlhf("validate", file)
    assert (code, printed) == (64, "")
    assert [line.split(":")[0] for line in said.splitlines()] == ["spec.stages[0].sft.maxSteps", "spec.stages[0].sft.globalBatchSise"]
    assert "globalBatchSize" in said


def test_problems_for_machines(rlhf: Rlhf, tmp_path: Path) -> None:
    code, printed, said = rlhf("validate", "-o", "json", job_with(tmp_path, "maxSteps: 10", "maxSteps: 0"))
    result = json.loads(printed)
    assert (code, said, result["valid"]) == (64, "", False)
    assert {"path": "spec.stages[0].sft.maxSteps", "value": 0, "exitCode": 64}.items() <= result["problems"][0].items()


def test_a_file_that_is_no_yaml_for_machines(rlhf: Rlhf, tmp_path: Path) -> None:
    code, printed, said = rlhf("validate", "-o", "json", job_with(tmp_path, "spec:\n", "spec: [\n"))
    (problem,) = json.loads(printed)["problems"]
    assert (code, problem["exitCode"], json.loads(printed)["valid"]) == (64, 64, False)
    assert problem["rule"] == said.rstrip("\n")


def no_constant(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


@pytest.mark.parametrize(("value", "shown"), [(".nan", "nan"), ("-.inf", "-inf"), ("[.nan]", "[nan]"), ("[1]", [1])])
def test_values_that_json_does_not_have(value: str, shown: object, rlhf: Rlhf, tmp_path: Path) -> None:
    _, printed, _ = rlhf("validate", "-o", "json", job_with(tmp_path, "maxSteps: 10", f"maxSteps: {value}"))
    assert json.loads(printed, parse_constant=no_constant)["problems"][0]["value"] == shown


def test_a_field_that_is_missing_for_machines(rlhf: Rlhf, tmp_path: Path) -> None:
    _, printed, _ = rlhf("validate", "-o", "json", job_with(tmp_path, "gpusPerNode: 0", "nodes: 1"))
    assert json.loads(printed)["problems"][0]["value"] == "(unset)"


def test_an_unsupported_combination_exits_69(rlhf: Rlhf, tmp_path: Path) -> None:
    code, _, said = rlhf("validate", job_with(tmp_path, 'tiny-llama"}}', 'tiny-llama"}, lora: {rank: 4}}\n  strategy: gemini'))
    assert code == 69
    assert "spec" in said


def test_what_cannot_run_yet_is_valid_and_named(rlhf: Rlhf, tmp_path: Path) -> None:
    file = job_with(tmp_path, "gpusPerNode: 0}", "gpusPerNode: 2}\n  strategy: 3d")
    code, printed, _ = rlhf("validate", file)
    assert code == 0
    assert "cannot run yet: spec.strategy: '3d'" in printed
    assert json.loads(rlhf("validate", "-o", "json", file)[1])["unsupported"]


def test_a_syntax_error_names_the_line(rlhf: Rlhf, tmp_path: Path) -> None:
    code, _, said = rlhf("validate", job_with(tmp_path, "spec:\n", "spec:\n\tx: 1\n"))
    assert code == 64
    assert "job.yaml:8:1: a tab cannot indent YAML: use spaces" in said


@pytest.mark.parametrize("until", UNTIL)
@pytest.mark.parametrize("wishes", [(), ("--gpus", 8, "--nodes", 2, "--size", "7B", "--model", "pvc://models/base", "--lora")])
def test_a_new_job_is_valid(until: str, wishes: tuple[object, ...], rlhf: Rlhf, tmp_path: Path) -> None:
    file = tmp_path / "my-chat.yaml"
    code, printed, said = rlhf("new", "my-chat", "--until", until, "--file", file, *wishes)
    assert (code, said) == (0, "")
    assert f"rlhf plan {file}" in printed
    assert rlhf("validate", file)[0] == 0
    assert file.read_text().count("- name: ") == UNTIL.index(until) + 1


def test_a_new_job_of_the_tiny_model_learns_as_the_demo_does(rlhf: Rlhf, tmp_path: Path) -> None:
    """Its defaults were those of a pretrained model: one epoch at 2e-5, after which random weights still answer "atatat"."""
    file = tmp_path / "new.yaml"
    assert rlhf("new", "tiny-chat", "--file", file)[0] == 0
    ours, demo = (RLHFJob.from_wire(read_object(path)).spec.stages for path in (file, EXAMPLES / "tiny-chat.yaml"))
    assert [(stage.sft, stage.reward_model, stage.ppo) for stage in ours] == [(stage.sft, stage.reward_model, stage.ppo) for stage in demo]


@pytest.mark.parametrize(
    ("wishes", "options"),
    [
        pytest.param((), " --claim models=DIR", id="it publishes"),
        pytest.param(("--until", "sft"), "", id="it neither reads nor publishes"),
        pytest.param(("--model", "pvc://base/7b", "--size", "7B"), " --claim base=DIR --claim models=DIR", id="its model lies on a claim"),
        pytest.param(("--model", "pvc://models/7b", "--size", "7B"), " --claim models=DIR", id="one claim for both"),
    ],
)
def test_the_commands_for_a_new_job_work_as_printed(wishes: tuple[str, ...], options: str, rlhf: Rlhf, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    assert rlhf("new", "a", "--file", file, *wishes).out.endswith(f"then: rlhf run {file}{options}\n")
    assert f"rlhf run FILE{options} " in file.read_text()


def test_a_new_job_on_standard_output(rlhf: Rlhf) -> None:
    code, printed, _ = rlhf("new", "my-chat", "--file", "-")
    assert code == 0
    assert printed.startswith("# my-chat: from a base model to a published 4-bit chat model.\n")


@pytest.mark.parametrize("name", ["on", "y", "no", "null", "true"])
def test_a_name_that_yaml_takes_for_something_else(name: str, rlhf: Rlhf, tmp_path: Path) -> None:
    assert rlhf("new", name, "--file", tmp_path / "job.yaml")[0] == 0
    assert rlhf("validate", tmp_path / "job.yaml")[0] == 0


def test_an_hf_model_needs_its_commit(rlhf: Rlhf) -> None:
    wishes = ("new", "my-chat", "--model", "hf://org/base", "--size", "7B", "--file", "-")
    code, _, said = rlhf(*wishes)
    assert code == 64
    assert "spec.model.source.revision" in said
    assert rlhf(*wishes, "--revision", "0" * 40)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("My_Chat",), "metadata.name", id="a name that Kubernetes refuses"),
        pytest.param(("a", "--until", "dpo"), "--until: 'dpo' must be one of sft, rm, ppo, nf4, publish", id="an unknown stage"),
        pytest.param(("a", "--size", "7b"), "spec.model.size", id="a size that nobody can read"),
    ],
)
def test_wishes_that_are_refused(arguments: tuple[str, ...], message: str, rlhf: Rlhf) -> None:
    code, printed, said = rlhf("new", *arguments, "--file", "-")
    assert (code, printed) == (64, "")
    assert message in said


def test_a_file_is_not_overwritten(rlhf: Rlhf, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("mine")
    code, _, said = rlhf("new", "a", "--file", file)
    assert (code, file.read_text()) == (64, "mine")
    assert "exists; it is not overwritten" in said


def test_a_directory_that_is_missing(rlhf: Rlhf, tmp_path: Path) -> None:
    code, _, said = rlhf("new", "a", "--file", tmp_path / "nowhere" / "a.yaml")
    assert code == 74
    assert "No such file or directory" in said
