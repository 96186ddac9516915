"""The formulas of memory, against the figures of the design and against sums done by hand."""

import pytest

from rlhf_api.planning import memory, phases
from rlhf_api.planning.architectures import KNOWN
from rlhf_api.planning.memory import Bytes, Part, Precision
from rlhf_api.planning.phases import Rollout, Workload

BF16, FP32 = Precision.BF16, Precision.FP32
LLAMA = KNOWN["llama-7b"]
GB = 1e9


@pytest.mark.parametrize(
    ("strategy", "device", "host"),
    [
        ("plain", 16, 0), ("ddp", 16, 0), ("zero1", 4 + 12 / 4, 0), ("zero2", 2 + 14 / 4, 0), ("zero2-offload", 2 + 2 / 4, 12 / 4),
        ("gemini", 14 / 4, 0), ("gemini-offload", 0, 14 / 4),
    ],
)  # fmt: skip
def test_bytes_per_parameter_of_a_full_tune_on_four_workers(strategy: str, device: float, host: float) -> None:
    assert memory.training_state(strategy, 1000, BF16, 4) == Bytes(round(device * 1000), round(host * 1000))


def test_fp32_on_one_process_takes_as_much_as_bf16() -> None:
    assert memory.training_state("plain", 1000, FP32, 1) == memory.training_state("plain", 1000, BF16, 1) == Bytes(16000)


def test_a_single_gemini_worker_keeps_its_weights_on_the_device() -> None:
    assert memory.training_state("gemini-offload", 1000, BF16, 1) == Bytes(2000, 12000)


@pytest.mark.parametrize(
    ("strategy", "expected"), [("zero2", Bytes(800)), ("gemini", Bytes(200)), ("gemini-offload", Bytes(0, 200))], ids=str
)
def test_frozen_weights_are_sharded_by_gemini_only(strategy: str, expected: Bytes) -> None:
    assert memory.frozen_weights(strategy, 800, 4) == expected


@pytest.mark.parametrize(
    ("strategy", "shape", "expected"),
    [
        ("plain", "gpt2-s", 0),
        ("ddp", "gpt2-s", 2 * 25_000_000),
        ("zero2", "gpt2-s", 12 * 2**20 * 2 * 2),
        ("gemini", "llama-7b", 2 * 32 * 2**20 * 2 + 2 * 202_383_360),
        ("zero1", "tiny-llama", 2 * 951_424 * 2),
    ],
)
def test_buffers_of_a_strategy(strategy: str, shape: str, expected: int) -> None:
    assert memory.gathered(strategy, KNOWN[shape], BF16) == expected


def test_activations_without_checkpointing_count_every_layer() -> None:
    per_token = 2 * (8 * 4096 + 2 * (4096 + 4096) + 4 * 11008)
    assert memory.activations(LLAMA, 2, 512, BF16, checkpointing=False) == 2 * 512 * 32 * per_token


def test_activations_with_checkpointing_keep_inputs_and_one_layer() -> None:
    per_token = 2 * (8 * 4096 + 2 * (4096 + 4096) + 4 * 11008)
    assert memory.activations(LLAMA, 2, 512, BF16, checkpointing=True) == 2 * 512 * (32 * 2 * 4096 + per_token)


def test_logits_are_a_chunk_and_never_more_than_the_positions() -> None:
    assert memory.logits(LLAMA, 10**6) == (64 * 2**20 // (4 * 32000)) * 32000 * 10
    assert memory.logits(LLAMA, 3) == 3 * 32000 * 10


def test_an_adapter_on_all_linear_layers_of_7b() -> None:
    assert memory.adapter_parameters(LLAMA, 16) == 39_976_960


@pytest.mark.parametrize("name", ["gpt2-s", "opt-125m"])
def test_an_adapter_on_named_modules_is_smaller(name: str) -> None:
    module = {"gpt2-s": "c_attn", "opt-125m": "q_proj"}[name]
    one = memory.adapter_parameters(KNOWN[name], 8, [module])
    assert 0 < one < memory.adapter_parameters(KNOWN[name], 8)


def test_gpt2_has_two_modules_of_one_name() -> None:
    assert memory.adapter_parameters(KNOWN["gpt2-s"], 1, ["c_proj"]) == 12 * (768 + 768 + 3072 + 768)


def test_nf4_with_and_without_double_quantization() -> None:
    small = KNOWN["tiny-llama"]
    linear, rest = small.num_linear_parameters, small.num_parameters - small.num_linear_parameters
    assert memory.quantized_weights(small) == round(0.515869140625 * linear) + 2 * rest
    assert memory.quantized_weights(small, double_quant=False) == round(0.5625 * linear) + 2 * rest


@pytest.mark.parametrize(("method", "measured_mb"), [("nf4", 386), ("int8", 436)])
def test_quantized_gemma_has_the_measured_size(method: str, measured_mb: int) -> None:
    assert memory.quantized_weights(KNOWN["gemma-3-270m"], method) / 1e6 == pytest.approx(measured_mb, rel=0.02)


@pytest.mark.parametrize(("text", "expected"), [("64Gi", 64 * 2**30), ("512Mi", 2**29), ("1Ti", 2**40)])
def test_quantities(text: str, expected: int) -> None:
    assert memory.bytes_of_quantity(text) == expected


def a_workload(**changes: object) -> Workload:
    defaults: dict[str, object] = {
        "shape": LLAMA, "strategy": "plain", "num_workers": 1, "on_gpu": True, "precision": BF16, "num_tokens": 512, "micro_batch_size": 1,
        "checkpointing": True,
    }  # fmt: skip
    return Workload(**(defaults | changes))  # type: ignore[arg-type]


def a_rollout(**changes: object) -> Rollout:
    defaults: dict[str, object] = {"score_shape": LLAMA, "num_rows": 8, "batch_size": 8}
    return Rollout(**(defaults | changes))  # type: ignore[arg-type]


def parts(phase: tuple[Part, ...]) -> dict[str, Bytes]:
    return {part.name: part.bytes for part in phase}


def test_an_optimizer_step_copies_bf16_gradients_to_fp32() -> None:
    step = parts(phases.supervised(a_workload(), rows_in_forward=1)["step"])
    assert step["fp32 gradients"].device == 4 * LLAMA.num_parameters


@pytest.mark.parametrize(
    "changes", [{"precision": FP32}, {"strategy": "zero2", "num_workers": 2}, {"num_adapter_parameters": 1000}], ids=str
)
def test_no_gradients_are_copied_where_they_are_fp32_or_sharded(changes: dict[str, object]) -> None:
    assert parts(phases.supervised(a_workload(**changes), rows_in_forward=1)["step"])["fp32 gradients"].device == 0


STATES = {"process", "KV cache", "logits", "rollout buffer", "activations", "model buffers", "critic buffers", "gathered weights"}


def resident_gb(work: Workload, rollout: Rollout) -> float:
    """What the models themselves take on the device: no batch, no process."""
    return sum(part.bytes.device for part in phases.ppo(work, rollout)["rollout"] if part.name not in STATES) / GB


def test_full_ppo_of_7b_holds_four_copies() -> None:
    assert resident_gb(a_workload(), a_rollout()) == pytest.approx(243, rel=0.02)


def test_one_backbone_ppo_of_7b_holds_one_copy_and_three_adapters() -> None:
    work = a_workload(num_adapter_parameters=memory.adapter_parameters(LLAMA, 16))
    assert resident_gb(work, a_rollout(one_backbone=True)) == pytest.approx(15.4, rel=0.02)


def test_lora_ppo_needs_no_reference() -> None:
    work = a_workload(num_adapter_parameters=memory.adapter_parameters(LLAMA, 16))
    assert "reference" not in parts(phases.ppo(work, a_rollout())["update"])


def test_qlora_quantizes_what_stands_below_an_adapter() -> None:
    update = parts(phases.ppo(a_workload(num_adapter_parameters=1000, in_4bit=True), a_rollout())["update"])
    assert update["policy base"].device == update["critic base"].device == memory.quantized_weights(LLAMA)
    assert update["reward model"].device == 2 * LLAMA.num_parameters


@pytest.mark.parametrize(("adapter", "trainable"), [(None, LLAMA.num_parameters), (1000, 1000)])
def test_an_averaged_policy_lies_in_host_memory(adapter: int | None, trainable: int) -> None:
    update = parts(phases.ppo(a_workload(num_adapter_parameters=adapter), a_rollout(has_average=True))["update"])
    assert update["averaged policy"] == Bytes(host=4 * trainable)


def test_a_reward_model_forwards_two_rows_for_each_pair() -> None:
    one = parts(phases.supervised(a_workload(), rows_in_forward=1)["training"])["activations"].device
    assert parts(phases.supervised(a_workload(), rows_in_forward=2)["training"])["activations"].device == 2 * one


def test_gemini_gathers_the_policy_for_a_rollout() -> None:
    gathered = parts(phases.ppo(a_workload(strategy="gemini", num_workers=4), a_rollout())["rollout"])["gathered weights"]
    assert gathered.device == 2 * LLAMA.num_parameters


def test_a_streamed_rollout_holds_two_layers_instead() -> None:
    work = a_workload(strategy="gemini-offload", num_workers=4)
    streamed = parts(phases.ppo(work, a_rollout(is_streamed=True))["rollout"])
    assert "gathered weights" not in streamed
    assert streamed["two gathered layers"].device == 2 * 2 * LLAMA.num_layer_parameters


def test_generation_from_bf16_on_a_cpu_has_an_fp32_copy() -> None:
    copy = parts(phases.ppo(a_workload(on_gpu=False), a_rollout(has_fp32_copy=True))["rollout"])["fp32 copy for generation"]
    assert copy.device == 4 * LLAMA.num_parameters


def test_nccl_is_counted_with_several_workers_only() -> None:
    alone = memory.fixed("zero2", 1, on_gpu=True).device
    assert memory.fixed("zero2", 2, on_gpu=True).device - alone == memory.NCCL_BYTES


def test_a_cpu_process_with_the_booster_takes_more() -> None:
    assert memory.fixed("ddp", 2, on_gpu=False).device > memory.fixed("plain", 1, on_gpu=False).device
