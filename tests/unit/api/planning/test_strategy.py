"""What each strategy can do: the capability table of the design, cell by cell, and the words of a refusal."""

import pytest

from rlhf_api.planning import strategy as s
from rlhf_api.planning.strategy import CAPABILITIES, Features, candidates, find_unsupported, supports

TWO = {"world_size": 2}
TABLE = {
    # feature: plain, ddp, zero1, zero2, zero2-offload, gemini, gemini-offload
    "several workers": (Features(**TWO), "- yes yes yes yes yes yes"),
    "LoRA": (Features(lora=True), "yes yes yes yes yes no no"),
    "QLoRA": (Features(lora=True, load_in_4bit=True), "yes yes no no no no no"),
    "gradient accumulation": (Features(num_micro_batches=2), "yes yes yes yes yes no no"),
}
CELLS = [
    pytest.param(name, features, cell == "yes", id=f"{name} with {name_of}")
    for name_of, (features, row) in TABLE.items()
    for name, cell in zip(CAPABILITIES, row.split(), strict=True)
    if cell != "-"
]


@pytest.mark.parametrize(("strategy", "features", "is_supported"), CELLS)
def test_capability(strategy: str, features: Features, is_supported: bool) -> None:
    assert supports(strategy, features) is is_supported


def test_plain_runs_one_worker() -> None:
    [refusal] = find_unsupported(s.PLAIN, Features(world_size=2))
    assert (refusal.field, refusal.rule) == ("strategy", "runs one worker, the topology has 2: try ddp")


@pytest.mark.parametrize("name", [s.GEMINI, s.GEMINI_OFFLOAD])
def test_one_backbone_and_whole_weights_are_not_gemini(name: str) -> None:
    assert not CAPABILITIES[name].one_backbone
    assert CAPABILITIES[name].gathers_for_rollout


@pytest.mark.parametrize(
    ("strategy", "features", "field", "fix"),
    [
        pytest.param("zero2", Features(precision="fp16"), "model.precision", "try bf16", id="fp16"),
        pytest.param("auto", Features(precision="fp16"), "model.precision", "try bf16", id="fp16 with auto"),
        pytest.param("zero2", Features(tensor_parallel=2), "topology.tensorParallel", "try 1", id="tensor parallel"),
        pytest.param("zero2", Features(pipeline_parallel=4), "topology.pipelineParallel", "try 1", id="pipeline parallel"),
        pytest.param("3d", Features(), "strategy", "try zero2", id="3d"),
        pytest.param("gemini", Features(lora=True), "strategy", "try zero2, or remove model.lora", id="gemini with LoRA"),
        pytest.param("gemini-offload", Features(lora=True), "strategy", "try zero2-offload", id="gemini-offload with LoRA"),
        pytest.param("zero1", Features(lora=True, load_in_4bit=True), "model.loadIn4bit", "try strategy ddp", id="QLoRA sharded"),
        pytest.param("gemini", Features(precision="fp32"), "model.precision", "try bf16, or strategy zero2", id="gemini in fp32"),
        pytest.param("gemini", Features(num_micro_batches=4), "strategy", "one micro-batch per worker", id="gemini accumulating"),
    ],
)
def test_a_refusal_names_the_field_and_the_smallest_change(strategy: str, features: Features, field: str, fix: str) -> None:
    [refusal] = find_unsupported(strategy, features)
    assert refusal.field == field
    assert fix in refusal.rule


def test_all_refusals_come_at_once() -> None:
    features = Features(world_size=2, lora=True, load_in_4bit=True, precision="fp16", num_micro_batches=2)
    assert len(find_unsupported("gemini", features)) == 4


def test_ddp_with_one_worker_is_plain() -> None:
    assert candidates("ddp", Features(world_size=1)) == ["plain"]
    assert candidates("ddp", Features(world_size=2)) == ["ddp"]


def test_auto_goes_from_the_simplest_to_the_most_frugal() -> None:
    assert candidates("auto", Features(world_size=4)) == ["ddp", "zero1", "zero2", "zero2-offload", "gemini", "gemini-offload"]
    assert candidates("auto", Features(world_size=1))[0] == "plain"


def test_auto_leaves_out_what_cannot_train_adapters() -> None:
    assert candidates("auto", Features(world_size=4, lora=True)) == ["ddp", "zero1", "zero2", "zero2-offload"]


def test_auto_leaves_out_what_cannot_compute_in_fp32() -> None:
    assert "gemini" not in candidates("auto", Features(world_size=4, precision="fp32"))


def test_nothing_remains_of_an_unsupported_request() -> None:
    assert candidates("gemini", Features(lora=True)) == []
