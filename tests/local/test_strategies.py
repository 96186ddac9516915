"""Every strategy on two gloo workers: same numbers as one plain worker, exact resume, no weight changed by NaN (rules T1 to T8, C5, C6).

One pair of processes trains with all of them (`tests/support/strategy_worker.py`): importing Colossal-AI takes longer than all steps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
FP32 = ["ddp fp32", "zero1 fp32", "zero2 fp32", "zero2-offload fp32"]
BF16 = ["ddp bf16", "zero1 bf16", "zero2 bf16", "zero2-offload bf16", "gemini bf16", "gemini-offload bf16"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("pair")
    common = os.environ | {"WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.support.strategy_worker", str(directory)]
    pair = [
        subprocess.Popen(command, cwd=REPOSITORY, env=common | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=400)[1] for process in pair]
    finally:
        for process in pair:
            process.kill()
    assert [process.returncode for process in pair] == [0, 0], errors
    first, second = (json.loads((directory / f"seen-{rank}.json").read_text()) for rank in (0, 1))
    return {**first, "second": second}


@pytest.mark.parametrize("case", FP32 + BF16)
@pytest.mark.rule("F1", "T4", "T6")
def test_losses_and_gradient_norms_are_those_of_one_worker(seen: dict[str, Any], case: str) -> None:
    """Uneven rows, two micro-batches, a clip below every norm: a mean of means, a missing average or a missing clip shows at once."""
    precision = case.split()[1]
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    for mine, plain in zip(seen[case]["trajectory"], seen[f"plain {precision}"], strict=True):
        assert mine == pytest.approx(plain, rel=tolerance)


@pytest.mark.parametrize("case", FP32 + BF16)
@pytest.mark.rule("T1", "T2", "C5")
def test_resume_is_exact(seen: dict[str, Any], case: str) -> None:
    assert seen[case]["resumes"]


@pytest.mark.parametrize("case", BF16)
@pytest.mark.mutant("T1", of="masters rebuilt from bf16 weights")
def test_resume_check_catches_masters_rebuilt_from_weights(seen: dict[str, Any], case: str) -> None:
    """Mutant of rule T1: what `booster.save_model` and `load_model` would do."""
    assert not seen[case]["mutant_resumes"]


@pytest.mark.parametrize("case", FP32 + BF16)
@pytest.mark.rule("C6")
def test_one_plain_worker_goes_on_where_two_stopped(seen: dict[str, Any], case: str) -> None:
    assert seen[case]["shrunk"] < (1e-5 if case.endswith("fp32") else 2e-2)


@pytest.mark.parametrize("case", FP32 + BF16)
@pytest.mark.rule("P19")
def test_a_nan_of_one_worker_changes_no_weight_on_any(seen: dict[str, Any], case: str) -> None:
    assert seen[case]["skipped"]


@pytest.mark.parametrize("case", FP32 + BF16)
@pytest.mark.rule("G6")
def test_export_and_rollout_weights_are_the_whole_model(seen: dict[str, Any], case: str) -> None:
    assert seen[case]["names"]
    assert seen[case]["rollout"]


@pytest.mark.parametrize("case", FP32 + BF16)
@pytest.mark.rule("T9")
def test_buffers_keep_their_precision(seen: dict[str, Any], case: str) -> None:
    """The frequencies of rotary positions are such: rounded, row 1000 of a policy would not be that of its own reference."""
    assert seen[case]["buffers"]


@pytest.mark.parametrize("case", [case for case in BF16 if not case.startswith("ddp")])
@pytest.mark.mutant("T9", of="buffers cast with the weights")
def test_buffer_check_catches_what_the_plugins_do(seen: dict[str, Any], case: str) -> None:
    assert not seen[case]["mutant_buffers"]


@pytest.mark.parametrize("case", FP32 + BF16)
def test_size_of_a_checkpoint_is_known_before(seen: dict[str, Any], case: str) -> None:
    assert seen[case]["state_bytes"]


@pytest.mark.parametrize("case", ["gemini bf16", "gemini-offload bf16"])
@pytest.mark.rule("T3")
def test_gemini_refuses_a_second_micro_batch(seen: dict[str, Any], case: str) -> None:
    """Rule T3: its accumulation gives other numbers than the full batch."""
    assert seen[case]["refuses"]


@pytest.mark.rule("L4")
def test_a_stop_request_to_one_worker_stops_both_at_one_step(seen: dict[str, Any]) -> None:
    assert seen["preempted"]["stopped_at"] == seen["second"]["preempted"]["stopped_at"] == 3


@pytest.mark.rule("C6")
def test_the_next_attempt_goes_on_from_there_with_the_same_losses(seen: dict[str, Any]) -> None:
    resumed = seen["preempted"]
    assert (resumed["found"], resumed["position"]) == (True, 3)
    whole = [loss for loss, _ in seen["zero2 fp32"]["trajectory"]]
    assert resumed["losses"] == whole[3:]  # same world size: exact
    assert resumed["alone"]["losses"] == pytest.approx(whole[3:], rel=1e-5)  # one plain worker reads the same checkpoint


@pytest.mark.rule("H1", "H2")
@pytest.mark.mutant("H2", of="CUDA hidden")
def test_the_host_accelerator_comes_without_cuda_only(seen: dict[str, Any]) -> None:
    assert seen["accelerators"]["with CUDA"] != "HostAccelerator"
    assert seen["accelerators"]["without"] == "HostAccelerator"
