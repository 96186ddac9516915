"""The benchmark: a whole run of the real stage on the smallest model, its arithmetic, its plan, and how it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf_api.planning.architectures import KNOWN
from rlhf_trainer import bench
from rlhf_trainer.benchmark import figures, gang, options, planning, volume
from rlhf_trainer.benchmark.gang import Gang
from rlhf_trainer.benchmark.options import Options
from rlhf_trainer.benchmark.watch import PeakWatch
from rlhf_trainer.errors import ConfigError, InternalError
from rlhf_trainer.memory import host_peak_bytes

GB = 1e9
SMALL = ["--model", "tiny-llama", "--prompt-tokens", "16", "--total-tokens", "24", "--num-episodes", "2", "--num-rollouts", "1"]
ONE = Gang(device="cpu")


def an_update(step: int, time: float, *, seconds: float = 1.0, answers: int = 4, tokens: float = 8.0) -> dict[str, Any]:
    """A line of `metrics.jsonl`: every phase takes `seconds`."""
    phases = {f"{phase}_seconds": seconds for phase in figures.PHASES}
    return {"step": step, "time": time, "answers_per_second": answers / seconds, "answer_tokens_mean": tokens, **phases}


def planned_on_gpu(*arguments: str, gpu_gib: int = 80) -> tuple[Options, planning.Planned]:
    chosen = options.parse(arguments)
    return chosen, planning.make(chosen, Gang(device="cuda"), gpu_gib * 2**30)


# ---- a whole run


def test_a_run_gives_one_line_of_consistent_figures(tmp_path: Path) -> None:
    """The real stage in a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "rlhf_trainer.bench", *SMALL, "--experience_batch_size", "4", "--train_batch_size=2"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, "--strategy", "naive", "--directory", str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "--strategy naive is plain here" in ended.stderr
    assert list(tmp_path.iterdir()) == [], "the volume is removed"
    (line,) = ended.stdout.splitlines()
    found = json.loads(line)
    assert (found["model"], found["strategy"], found["workers"], found["device"]) == ("tiny-llama", "plain", 1, "cpu")
    assert (found["rollouts"], found["samples"], found["answer_tokens"]) == (1, 4, 4 * 8), "full answers of the second episode"
    assert found["samples_per_second"] * found["seconds"] == pytest.approx(4)
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert all(share >= 0 for share in found["shares"].values())
    assert found["rollout_tokens_per_second"] * found["shares"]["rollout"] * found["seconds"] == pytest.approx(4 * 8)
    assert found["update_tokens_per_second"] * found["shares"]["update"] * found["seconds"] == pytest.approx(4 * 24)
    assert found["update_mfu"] is None, "no peak is known for a CPU"
    plan, memory = found["plan"], found["memory"]
    assert plan["host_error"] == pytest.approx(plan["host_bytes"] / memory["host_rss_bytes"] - 1)
    assert plan["device_bytes"] is None
    assert found["versions"]["torch"].startswith("2.11")
    assert found["optimizers"].keys() == {"policy", "critic"}


# ---- figures


def test_the_clock_starts_with_the_last_rollout_that_is_ignored() -> None:
    lines = [an_update(1, 100.0, seconds=50.0), {"step": 1, "time": 101.0}, an_update(2, 104.0), an_update(3, 108.0, answers=2, tokens=5.0)]
    found = figures.measure(lines, num_ignored=1)
    assert (found.num_rollouts, found.num_samples, found.answer_tokens) == (2, 6, 4 * 8 + 2 * 5)
    assert found.seconds == 8.0
    assert found.phase_seconds == {"rollout": 2.0, "score": 2.0, "update": 2.0}


def test_rounded_stamps_make_no_share_negative() -> None:
    found = figures.measure([an_update(1, 1.0), an_update(2, 3.999)], num_ignored=1)
    assert found.seconds == 3.0


@pytest.mark.parametrize("num_ignored", [0, 2])
def test_nothing_is_said_about_nothing(num_ignored: int) -> None:
    with pytest.raises(InternalError, match="2 rollouts"):
        figures.measure([an_update(1, 1.0), an_update(2, 4.0)], num_ignored)


def test_operations_of_an_update_by_hand() -> None:
    """GPT-2 S, one row of 400 + 112: 12 layers of 12·h² weights for each token and model, the head for answer tokens of the policy."""
    measured = figures.measure([an_update(1, 1.0), an_update(2, 4.0, answers=1, tokens=112.0)], num_ignored=1)
    layers, head = 12 * 12 * 768**2, 50257 * 768
    assert figures.update_flops(options.parse(["--model", "s"]), measured) == 6 * (2 * layers * 512 + head * 112)
    adapters = 12 * 8 * ((768 + 3 * 768) + (768 + 768) + 2 * (768 + 4 * 768))
    with_lora = options.parse(["--model", "s", "--lora-rank", "8"])
    assert figures.update_flops(with_lora, measured) == 4 * (2 * layers * 512 + head * 112) + 6 * 2 * adapters * 512


@pytest.mark.parametrize(("device", "peak"), [
    ("NVIDIA H200", 989e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-80GB", 312e12),
])  # fmt: skip
def test_mfu_is_of_the_device_and_of_all_workers(device: str, peak: float) -> None:
    chosen, measured = options.parse([]), figures.measure([an_update(1, 1.0), an_update(2, 4.0)], num_ignored=1)
    assert figures.update_mfu(chosen, measured, device, 2) == pytest.approx(figures.update_flops(chosen, measured) / 1.0 / (2 * peak))
    assert figures.update_mfu(chosen, measured, "cpu", 2) is None


def test_on_a_gpu_the_estimate_meets_what_the_device_holds() -> None:
    _, planned = planned_on_gpu("--strategy", "naive")
    need = planned.need
    found = figures.compare(planned, {"device_used_bytes": need.device * 2, "host_rss_bytes": need.host})
    assert (found["device_bytes"], found["device_error"]) == (need.device, -0.5)
    assert (found["host_bytes"], found["host_error"]) == (need.host, 0.0)


def test_peaks_are_not_those_of_the_export() -> None:
    watch = PeakWatch(on_cuda=False)
    watch.beat("saving", 1)
    assert watch.peaks == {}
    watch.beat("training", 1)
    assert watch.peaks["host_rss_bytes"] > 10_000_000


def test_a_system_that_does_not_tell_has_no_peak(tmp_path: Path) -> None:
    assert host_peak_bytes(tmp_path / "status") == 0
    (tmp_path / "status").write_text("VmPeak:\t 9 kB\nVmHWM:\t 7 kB\n")
    assert host_peak_bytes(tmp_path / "status") == 7 * 1024


# ---- plans


def test_the_plan_of_175b_is_the_documented_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Trainer design, section 7: four nodes of eight GPUs. Nothing is written and nothing is loaded for it."""
    command = "--model 175b --strategy colossalai_gemini_cpu --experience_batch_size 1 --train_batch_size 1 --grad-checkpoint"
    assert bench.main([*command.split(), "--plan", "--nodes", "4", "--gpus-per-node", "8"]) == 0
    said = capsys.readouterr()
    assert "--strategy colossalai_gemini_cpu is gemini-offload here" in said.err
    plan = json.loads(said.out)
    host = {name: 8 * sizes[1] / GB for name, sizes in plan["parts"]["rollout"].items()}
    assert plan["parameters"] == 174_604_259_328
    assert host["policy state"] + host["critic state"] == pytest.approx(1222, rel=0.02)
    assert host["reference"] + host["reward model"] == pytest.approx(175, rel=0.02)
    assert plan["host_memory_bytes_per_node"] / GB == pytest.approx(1397, rel=0.02)
    assert plan["parts"]["rollout"]["two gathered layers"][0] / GB == pytest.approx(7.2, rel=0.02)
    assert (plan["rollout"], plan["workers"], plan["micro_batch_size"]) == ("streamed", 32, 1)


def test_a_plan_for_cpus() -> None:
    chosen = options.parse([*SMALL, "--strategy", "naive", "--plan", "--gpus-per-node", "0"])
    found = planning.document(chosen, planning.make(chosen, ONE, 0))
    assert (found["precision"], found["gpu_memory_bytes"], found["micro_batch_size"]) == ("fp32", 0, 8)


def test_other_ranks_do_not_print_the_plan_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    assert bench.main(["--plan", "--strategy", "naive"]) == 0
    assert capsys.readouterr() == ("", "")


def test_activations_are_recomputed_only_where_they_do_not_fit() -> None:
    arguments = ("--model", "l", "--strategy", "gemini")
    assert not planned_on_gpu(*arguments, gpu_gib=80)[1].plan.gradient_checkpointing
    need = planned_on_gpu(*arguments, "--grad-checkpoint")[1].need.device
    assert planned_on_gpu(*arguments, gpu_gib=need // 2**30 + 2)[1].plan.gradient_checkpointing


def test_gemini_runs_without_accumulation() -> None:
    _, planned = planned_on_gpu("--strategy", "gemini", "--train-batch-size", "8")
    assert (planned.plan.micro_batch_size, planned.precision) == (8, "bf16")


@pytest.mark.parametrize(("arguments", "words"), [
    (["--strategy", "3d"], "'3d' is not in this image"),
    (["--strategy", "naive", "--gpus-per-node", "2"], "runs one worker, the topology has 2: try ddp"),
    (["--strategy", "gemini", "--lora-rank", "8"], "cannot train LoRA adapters"),
])  # fmt: skip
def test_what_does_not_exist_is_refused_with_what_does(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([*arguments, "--plan"]) == 69
    assert words in capsys.readouterr().err


def test_a_model_that_the_disk_cannot_hold_is_answered_with_its_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--model", "175b", "--strategy", "naive", "--directory", str(tmp_path)]) == 69
    said = capsys.readouterr()
    assert json.loads(said.out)["model"] == "gpt2-175b"
    assert "GiB of disk" in said.err
    assert list(tmp_path.iterdir()) == []


# ---- arguments


@pytest.mark.parametrize(("alias", "strategy"), options.ALIASES.items())
def test_an_alias_is_one_of_our_strategies(alias: str, strategy: str) -> None:
    assert options.parse(["--strategy", alias]).strategy == strategy
    assert options.alias_notice(["--strategy", alias]) == f"--strategy {alias} is {strategy} here"
    assert options.alias_notice(["--strategy", strategy]) is None


def test_the_defaults_are_those_of_colossalchat() -> None:
    chosen = options.parse([])
    assert (chosen.shape, chosen.num_episodes, chosen.num_rollouts) == (KNOWN["gpt2-s"], 3, 8)
    assert (chosen.prompt_tokens, chosen.new_tokens, volume.NUM_PROMPTS) == (400, 112, 1000)


@pytest.mark.parametrize(("arguments", "words"), [
    (["--model", "7b"], "argument --model: invalid choice: '7b'"),
    (["--train-batch-size", "x"], "argument --train-batch-size: invalid int value: 'x'"),
    (["--no-such"], "--no-such"),
    (["--experience-batch-size", "8", "--train-batch-size", "3"], "--train-batch-size: 3 must divide --experience-batch-size 8: try 2"),
    (["--num-episodes", "1"], "--num-episodes: 1 must be between 2 and 1000 (the first one is not measured)"),
    (["--prompt-tokens", "512"], "--total-tokens: 512 must be above --prompt-tokens 512"),
    (["--total-tokens", "1025"], "--total-tokens: 1025 must be at most 1024, the positions of s"),
    (["--directory", "/nowhere"], "--directory: '/nowhere' must be a directory that exists"),
    (["--nodes", "4"], "--nodes: 4 has a meaning with --plan only"),
    (["--plan", "--gpus-per-node", "-1"], "--gpus-per-node: -1 must be at least 0"),
])  # fmt: skip
def test_a_bad_argument_is_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(arguments) == 64
    assert words in capsys.readouterr().err


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"--lora-rank: -1 .*; --num-rollouts: 0 "):
        options.parse(["--num-rollouts", "0", "--lora-rank", "-1"])


def test_the_gang_is_that_of_torchrun() -> None:
    environment = {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "RANK": "5", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "7"}
    found = gang.of_environment("cuda", environment)
    assert found == Gang(nodes=2, per_node=4, device="cuda", rank=5, local_rank=1, master_address="a", master_port=7)
    assert (found.size, found.is_leader, found.topology) == (8, False, {"nodes": 2, "gpusPerNode": 4})
    assert gang.of_environment("cpu", {}) == ONE
    for name, value, words in (("RANK", "x", "RANK: 'x' must be a number"), ("LOCAL_WORLD_SIZE", "3", "WORLD_SIZE: 8 must be a multiple")):
        with pytest.raises(ConfigError, match=words):
            gang.of_environment("cpu", environment | {name: value})


# ---- models


@pytest.mark.parametrize("model", ["tiny-llama", "s", "opt-125m", "opt-350m"])
def test_the_models_have_the_parameters_that_the_plan_counts(model: str) -> None:
    import torch

    with torch.device("meta"):
        built: Any = volume.build_model(options.MODELS[model], 512)
    assert sum(parameter.numel() for parameter in built.parameters()) == options.MODELS[model].num_parameters
    assert built.config.max_position_embeddings >= 512


def test_prompts_and_disk_grow_with_what_is_asked_for() -> None:
    chosen = options.parse(["--model", "s"])
    n = chosen.shape.num_parameters
    planned = planning.make(chosen, ONE, 0)
    assert volume.disk_bytes(chosen, planned) == (3 * 4 + 24) * n
    assert volume.disk_bytes(replace(chosen, lora_rank=8), planned) == 3 * 4 * n
