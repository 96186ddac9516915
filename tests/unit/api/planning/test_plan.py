"""Plans of stages: the published claims, the choice of a strategy, and what is said when nothing fits."""

import pytest

from rlhf_api.job import RLHFJobSpec
from rlhf_api.planning import DoesNotFit, NotSupported, StagePlan, fitting, memory, notes, plan_stage
from rlhf_api.planning.architectures import KNOWN
from rlhf_api.planning.memory import GIB, Bytes
from tests.support.specs import a_ppo, a_profile, a_reward_model, a_spec, an_sft

GB = 1e9


def part(plan: StagePlan, phase: str, name: str) -> Bytes:
    return next(part.bytes for part in plan.parts[phase] if part.name == name)


def models(plan: StagePlan, phase: str = "update") -> list[Bytes]:
    roles = ("policy state", "critic state", "reference", "reward model")
    return [part.bytes for part in plan.parts[phase] if part.name in roles]


def a_ppo_job(source: str, size: str, topology: dict[str, int], **changes: object) -> RLHFJobSpec:
    """PPO alone, all four models from one source; rows of 512 tokens."""
    lengths: dict[str, object] = {"maxPromptLength": 400, "maxNewTokens": 112, "reward": {"source": {"uri": source}}}
    block = changes.pop("block", {})
    assert isinstance(block, dict)
    return a_spec(source, model={"size": size}, topology=topology, stages=[a_ppo(**lengths, **block)], **changes)


# ---- published claims as plans (figures ± 2 %)


def test_claim_7b_inference_in_4_gb() -> None:
    shape = KNOWN["llama-7b"]
    weights = memory.quantized_weights(shape)
    assert shape.num_linear_parameters == 6_476_005_376
    assert memory.NF4_BYTES[True] * shape.num_linear_parameters / GB == pytest.approx(3.34, rel=0.02)
    assert 2 * shape.num_embedding_parameters / GB == pytest.approx(0.52, rel=0.02)
    assert weights / GB == pytest.approx(3.87, rel=0.02)
    assert weights / GIB == pytest.approx(3.60, rel=0.02)
    assert notes.tokens_that_fit(shape, weights, 4 * GIB) == pytest.approx(818, rel=0.02)
    assert notes.tokens_that_fit(shape, weights, 4 * 10**9) == pytest.approx(256, rel=0.02)


def test_claim_7b_inference_is_a_note_of_the_quantize_plan() -> None:
    spec = a_spec("hf://org/llama-7b", stages=[{"name": "nf4", "type": "Quantize", "quantize": {}}])
    plan = plan_stage(spec, spec.stages[0], a_profile(memory="32Gi"))
    assert "the nf4 model takes 3865.6 MB; 4 GiB hold 818 tokens of KV cache beside it" in plan.notes


def test_claim_gpt2_s_on_one_gpu() -> None:
    block = {"rolloutBatchSize": 1, "minibatchSize": 1, "gradientCheckpointing": False}
    spec = a_ppo_job("pvc://m/gpt2", "125M", {"gpusPerNode": 1}, strategy="gemini-offload", block=block)
    plan = plan_stage(spec, spec.stages[0], a_profile(gpu_gib=4))
    assert sum(model.device for model in models(plan)) / GB == pytest.approx(1.00, rel=0.02)
    assert sum(model.host for model in models(plan)) / GB == pytest.approx(3.0, rel=0.02)
    assert part(plan, "update", "activations").device / GB == pytest.approx(0.226, rel=0.02)
    assert pytest.approx(0.26, rel=0.02) == 512 * 50257 * memory.LOGITS_BYTES_PER_ELEMENT / GB
    assert plan.rollout == "whole"


def a_gpt2_xl_job() -> RLHFJobSpec:
    return a_ppo_job("pvc://m/gpt2-xl", "1.5B", {"gpusPerNode": 4}, strategy="zero2", block={"rolloutBatchSize": 32, "minibatchSize": 32})


def test_claim_gpt2_xl_on_four_gpus_of_40_gb() -> None:
    spec = a_gpt2_xl_job()
    plan = plan_stage(spec, spec.stages[0], a_profile(gpu_gib=40))
    policy, critic, reference, reward = (model.device / GB for model in models(plan))
    assert policy + critic == pytest.approx(17.1, rel=0.02)
    assert reference + reward == pytest.approx(6.2, rel=0.02)
    assert policy + critic + reference + reward == pytest.approx(23.4, rel=0.02)
    assert (plan.micro_batch_size, plan.gradient_checkpointing) == (8, True)


def test_claim_gpt2_xl_does_not_fit_24_gb() -> None:
    spec = a_gpt2_xl_job()
    with pytest.raises(
        DoesNotFit, match=r"spec.stages\[0\]: 'ppo' needs about 26.0 GiB .* gives 24.0 GiB: try spec.strategy auto"
    ) as refused:
        plan_stage(spec, spec.stages[0], a_profile(gpu_gib=24))
    assert refused.value.nearest is not None
    assert refused.value.nearest.strategy == "zero2-offload"


def test_claim_175b_on_four_nodes_of_eight_gpus() -> None:
    block = {"rolloutBatchSize": 32, "minibatchSize": 32}
    spec = a_ppo_job("pvc://m/gpt2-175b", "175B", {"nodes": 4, "gpusPerNode": 8}, strategy="gemini-offload", block=block)
    plan = plan_stage(spec, spec.stages[0], a_profile(gpu_gib=80, memory="200Gi"))
    trained, frozen = models(plan)[:2], models(plan)[2:]
    assert 8 * sum(model.host for model in trained) / GB == pytest.approx(1222, rel=0.02)
    assert 8 * sum(model.host for model in frozen) / GB == pytest.approx(175, rel=0.02)
    assert plan.host_memory_bytes / GB == pytest.approx(1397, rel=0.02)
    assert part(plan, "rollout", "two gathered layers").device / GB == pytest.approx(7.2, rel=0.02)
    assert memory.checkpoints(KNOWN["gpt2-175b"], 1, 512, memory.Precision.BF16) / GB == pytest.approx(1.2, rel=0.02)
    assert plan.rollout == "streamed"
    assert "s per rollout at 25 GB/s" in plan.notes[0]


# ---- the choice


def test_a_tiny_job_on_one_process_is_plain_and_fits_the_default_profile() -> None:
    spec = a_spec(stages=[an_sft(), a_reward_model(), a_ppo(), {"name": "nf4", "type": "Quantize", "quantize": {}}])
    plans = [plan_stage(spec, stage, a_profile()) for stage in spec.stages]
    assert {plan.strategy for plan in plans} == {"plain"}
    assert all(0 < plan.host_memory_bytes <= 2 * GIB and plan.gpu_memory_bytes == 0 for plan in plans)


def test_two_processes_of_a_tiny_job_take_ddp() -> None:
    spec = a_spec(topology={"gpusPerNode": 0, "processesPerNode": 2})
    plan = plan_stage(spec, spec.stages[0], a_profile())
    assert (plan.strategy, plan.world_size) == ("ddp", 2)
    assert "functional only" in plan.notes[0]


def test_an_explicit_strategy_is_taken() -> None:
    spec = a_spec(topology={"gpusPerNode": 0, "processesPerNode": 2}, strategy="zero2")
    assert plan_stage(spec, spec.stages[0], a_profile()).strategy == "zero2"


@pytest.mark.parametrize(("gpu_gib", "strategy"), [(141, "ddp"), (80, "zero1"), (30, "zero2"), (20, "zero2-offload")])
def test_auto_is_the_simplest_strategy_that_fits(gpu_gib: int, strategy: str) -> None:
    spec = a_spec("hf://org/llama-7b", topology={"nodes": 2, "gpusPerNode": 8})
    assert plan_stage(spec, spec.stages[0], a_profile(gpu_gib=gpu_gib, memory="200Gi")).strategy == strategy


def test_micro_batches_are_as_large_as_fits() -> None:
    spec = a_spec("hf://org/llama-7b", topology={"gpusPerNode": 8}, strategy="zero2")
    small, large = (plan_stage(spec, spec.stages[0], a_profile(gpu_gib=gib)).micro_batch_size for gib in (30, 80))
    assert 1 <= small < large <= 16


def test_gemini_takes_a_worker_s_rows_in_one_micro_batch() -> None:
    spec = a_spec("hf://org/llama-7b", topology={"nodes": 2, "gpusPerNode": 8}, strategy="gemini", stages=[an_sft(globalBatchSize=64)])
    assert plan_stage(spec, spec.stages[0], a_profile(gpu_gib=80)).micro_batch_size == 4


def test_steps_are_those_of_the_job_file() -> None:
    spec = a_spec(stages=[an_sft(maxSteps=10), an_sft("more")])
    assert [plan_stage(spec, stage, a_profile()).total_steps for stage in spec.stages] == [10, None]


def test_a_model_nobody_knows_has_a_plan_without_figures() -> None:
    spec = a_spec("builtin://models/unknown")
    plan = plan_stage(spec, spec.stages[0], a_profile())
    assert (plan.strategy, plan.host_memory_bytes) == ("plain", 0)
    assert plan.notes == (notes.NO_SHAPE,)


def test_a_chain_of_stages_keeps_the_shape_it_started_from() -> None:
    spec = a_spec("hf://org/gpt2-xl", model={"size": "1.5B"}, stages=[an_sft(), a_reward_model(), a_ppo()])
    assert fitting.shape_of_role(spec, spec.stages[2]) is KNOWN["gpt2-xl"]


def test_bf16_on_a_cpu_generates_from_an_fp32_copy_where_it_fits() -> None:
    spec = a_ppo_job("pvc://m/gemma-3-270m", "270M", {"gpusPerNode": 0}, block={"rolloutBatchSize": 8, "minibatchSize": 8})
    bf16 = spec.model_copy(update={"model": spec.model.model_copy(update={"precision": "bf16"})})
    roomy = plan_stage(bf16, bf16.stages[0], a_profile(memory="16Gi"))
    tight = plan_stage(bf16, bf16.stages[0], a_profile(memory="11Gi"))
    assert part(roomy, "rollout", "fp32 copy for generation").device == 4 * 268_098_176
    assert any("four times slower" in note for note in tight.notes)


# ---- refusals


def test_what_no_strategy_can_do_is_not_supported() -> None:
    spec = a_spec("hf://org/llama-7b", topology={"gpusPerNode": 8}, strategy="gemini", model={"lora": {}})
    with pytest.raises(NotSupported, match=r"^spec\.strategy: 'gemini' cannot train LoRA adapters: try zero2") as refused:
        plan_stage(spec, spec.stages[0], a_profile(gpu_gib=80))
    assert len(refused.value.refusals) == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"strategy": "gemini", "model": {"lora": {}}}, "spec.strategy", id="the strategy of the job"),
        pytest.param({"stages": [{**an_sft(), "strategy": "gemini"}], "model": {"lora": {}}}, "spec.stages[0].strategy", id="of the stage"),
        pytest.param({"model": {"precision": "fp16"}}, "spec.model.precision", id="the model"),
        pytest.param({"topology": {"gpusPerNode": 8, "tensorParallel": 2}}, "spec.topology.tensorParallel", id="the topology"),
    ],
)
def test_a_refusal_names_the_field_that_was_written(changes: dict[str, object], field: str) -> None:
    spec = a_spec("hf://org/llama-7b", **({"topology": {"gpusPerNode": 8}} | changes))
    with pytest.raises(NotSupported) as refused:
        plan_stage(spec, spec.stages[0], a_profile(gpu_gib=80))
    assert [refusal.field for refusal in refused.value.refusals] == [field]


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        pytest.param({"strategy": "gemini"}, "try spec.model.lora {rank: 16} and spec.strategy auto (", id="of the job"),
        pytest.param(
            {"stages": [{**an_sft(), "strategy": "gemini"}]},
            "try spec.model.lora {rank: 16} and spec.stages[0].strategy auto (",
            id="of a stage",
        ),
        pytest.param(
            {"stages": [{**an_sft(), "strategy": "gemini"}, {**an_sft("more"), "strategy": "gemini"}]},
            "try spec.stages[0].topology.nodes 8 and spec.stages[0].strategy auto (",
            id="another stage could not do it",
        ),
    ],
)
def test_what_is_offered_would_be_accepted(changes: dict[str, object], fix: str) -> None:
    spec = a_spec("hf://org/llama-7b", **({"topology": {"gpusPerNode": 1}} | changes))
    with pytest.raises(DoesNotFit) as refused:
        plan_stage(spec, spec.stages[0], a_profile(gpu_gib=24, memory="16Gi"))
    assert fix in refused.value.rule


@pytest.mark.parametrize(
    ("changes", "gpu_gib", "fix"),
    [
        pytest.param({"strategy": "ddp"}, 80, "spec.strategy auto", id="another strategy"),
        pytest.param({"stages": [an_sft(gradientCheckpointing=False)]}, 24, "sft.gradientCheckpointing true", id="checkpointing"),
        pytest.param({"topology": {"gpusPerNode": 1}}, 24, "spec.model.lora {rank: 16}", id="LoRA"),
        pytest.param({}, 12, "spec.model.loadIn4bit true with spec.model.lora", id="QLoRA"),
        pytest.param({"model": {"lora": {}}}, 12, "spec.model.loadIn4bit true (", id="4 bit under LoRA"),
        pytest.param({"stages": [an_sft(maxLength=65536)]}, 16, "sft.maxLength", id="shorter rows"),
    ],
)
def test_what_does_not_fit_names_the_smallest_change_that_does(changes: dict[str, object], gpu_gib: int, fix: str) -> None:
    spec = a_spec(**({"source": "hf://org/llama-7b", "topology": {"gpusPerNode": 8}} | changes))  # type: ignore[arg-type]
    with pytest.raises(DoesNotFit) as refused:
        plan_stage(spec, spec.stages[0], a_profile(gpu_gib=gpu_gib, memory="16Gi"))
    assert fix in refused.value.rule
    assert refused.value.nearest is not None


def test_more_nodes_are_offered_within_the_limits_of_the_profile() -> None:
    spec = a_spec("hf://org/llama-65b", topology={"nodes": 1, "gpusPerNode": 8}, model={"lora": {}, "loadIn4bit": True})
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"lora": None, "load_in_4bit": False})})
    words = [change.words for change in fitting_changes(spec)]
    assert "spec.stages[0].topology.nodes 2" in words
    assert "spec.stages[0].topology.nodes 16" not in words


def fitting_changes(spec: RLHFJobSpec) -> list[object]:
    from rlhf_api.planning.alternatives import changes

    return list(changes(spec, spec.stages[0], a_profile(gpu_gib=80)))


def test_when_no_change_helps_the_message_says_so() -> None:
    spec = a_spec("hf://org/llama-65b", topology={"gpusPerNode": 1})
    with pytest.raises(DoesNotFit, match="no single change fits, take a smaller model") as refused:
        plan_stage(spec, spec.stages[0], a_profile(gpu_gib=16))
    assert refused.value.nearest is None


def test_a_cpu_job_is_measured_against_the_memory_of_a_process() -> None:
    spec = a_spec("hf://org/gemma-3-270m", stages=[an_sft(maxLength=128, globalBatchSize=8)])
    with pytest.raises(DoesNotFit, match=r"of memory for each process .*, the profile gives 2.0 GiB: try spec.model.lora"):
        plan_stage(spec, spec.stages[0], a_profile())


def test_a_gpu_job_on_a_cpu_profile_does_not_fit() -> None:
    spec = a_spec(topology={"gpusPerNode": 1})
    message = (
        r"^spec\.topology\.gpusPerNode: 1 cannot be: the profile has no GPUs \(spec\.gpu\): set gpusPerNode 0 or name another profile$"
    )
    with pytest.raises(DoesNotFit, match=message):
        plan_stage(spec, spec.stages[0], a_profile())


def test_a_publish_stage_has_nothing_to_estimate() -> None:
    publish = {"name": "out", "type": "Publish", "publish": {"destination": {"uri": "pvc://models/out"}}}
    spec = a_spec(stages=[an_sft(), publish])
    assert plan_stage(spec, spec.stages[1], a_profile()) == StagePlan(strategy="plain", world_size=1)


def test_auto_offers_a_single_cpu_process_nothing_that_cannot_save_memory() -> None:
    spec = a_spec()
    assert {plan.strategy for plan in fitting.options(spec, spec.stages[0])} == {"plain"}


def test_auto_offers_a_single_gpu_what_the_host_can_hold() -> None:
    spec = a_spec(topology={"gpusPerNode": 1})
    assert {plan.strategy for plan in fitting.options(spec, spec.stages[0])} == {"plain", "zero2-offload", "gemini-offload"}


@pytest.mark.parametrize(
    ("stage", "note"),
    [
        pytest.param(
            an_sft(),
            "Prepare will refuse rows of 2048 tokens: the context of gpt2-s has 1024; lower maxLength",
            id="the default length of a row",
        ),
        pytest.param(
            a_ppo(reward={"source": {"uri": "pvc://m/gpt2"}}),
            "Prepare will refuse rows of 1536 tokens: the context of gpt2-s has 1024; lower maxPromptLength or maxNewTokens",
            id="prompt and answer",
        ),
    ],
)
def test_rows_beyond_the_context_of_a_known_model_are_a_note(stage: dict[str, object], note: str) -> None:
    spec = a_spec("pvc://m/gpt2", stages=[stage])
    assert note in plan_stage(spec, spec.stages[0], a_profile(memory="16Gi")).notes


@pytest.mark.parametrize(
    ("source", "block"),
    [
        pytest.param("pvc://m/gpt2", {"maxLength": 1024}, id="a row as long as the context"),
        pytest.param("pvc://m/own-model", {}, id="a model of a stated size"),
    ],
)
def test_rows_that_may_fit_are_no_note(source: str, block: dict[str, object]) -> None:
    spec = a_spec(source, model={"size": "125M"}, stages=[an_sft(**block)])
    assert not any("Prepare will refuse" in note for note in plan_stage(spec, spec.stages[0], a_profile(memory="16Gi")).notes)
