"""Parameter counts are exact: the tables of the design, most of them counted by transformers on the meta device."""

import pytest

from rlhf_api.planning import architectures as arch

COUNTS = {
    "gpt2-s": 124_439_808, "gpt2-m": 354_823_168, "gpt2-l": 774_030_080, "gpt2-xl": 1_557_611_200, "gpt2-2b": 2_119_358_464,
    "gpt2-4b": 4_196_936_448, "gpt2-6b": 6_251_450_368, "gpt2-8b": 8_265_248_768, "gpt2-10b": 10_279_047_168, "gpt2-12b": 12_292_845_568,
    "gpt2-15b": 15_917_682_688, "gpt2-18b": 18_334_240_768, "gpt2-20b": 20_555_431_936, "gpt2-24b": 24_582_496_256,
    "gpt2-28b": 28_609_560_576, "gpt2-32b": 32_636_624_896, "gpt2-36b": 36_663_689_216, "gpt2-40b": 40_690_753_536,
    "gpt2-175b": 174_604_259_328,
    "llama-7b": 6_738_415_616, "llama-13b": 13_015_864_320, "llama-30b": 32_528_943_616, "llama-65b": 65_285_660_672,
    "llama-3-8b": 8_030_261_248, "llama-3-70b": 70_553_706_496,
    "qwen2.5-0.5b": 494_032_768, "qwen2.5-1.5b": 1_543_714_304, "qwen2.5-3b": 3_085_938_688, "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664, "qwen2.5-32b": 32_763_876_352, "qwen2.5-72b": 72_706_203_648,
    "opt-125m": 125_239_296, "opt-350m": 331_196_416, "opt-1.3b": 1_315_758_080, "opt-2.7b": 2_651_596_800, "opt-6.7b": 6_658_473_984,
    "opt-13b": 12_853_473_280,
    "gemma-3-270m": 268_098_176, "tiny-llama": 951_424,
}  # fmt: skip


@pytest.mark.parametrize(("name", "count"), COUNTS.items(), ids=COUNTS)
def test_parameters_are_counted_exactly(name: str, count: int) -> None:
    assert arch.KNOWN[name].num_parameters == count


def test_every_known_model_has_a_count_in_this_table() -> None:
    assert set(arch.KNOWN) == set(COUNTS)


@pytest.mark.parametrize(("name", "kib"), [("llama-7b", 512), ("llama-3-8b", 128), ("gpt2-xl", 300)])
def test_kv_cache_per_token_in_bf16(name: str, kib: int) -> None:
    assert arch.KNOWN[name].kv_elements_per_token * 2 == kib * 1024


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("gpt2", "gpt2-s"), ("GPT2-XL", "gpt2-xl"), ("Qwen2.5-7B-Instruct", "qwen2.5-7b"), ("Meta-Llama-3-8B-Instruct", "llama-3-8b"),
        ("llama-7b-hf", "llama-7b"), ("gemma-3-270m-it", "gemma-3-270m"),
    ],
)  # fmt: skip
def test_variants_of_a_name_have_the_same_shape(name: str, known: str) -> None:
    assert arch.named(name) is arch.KNOWN[known]


def test_a_size_takes_the_nearest_shape_and_the_stated_count() -> None:
    shape = arch.shape_of("7B")
    assert (shape.name, shape.num_parameters) == ("llama-7b", 7_000_000_000)


def test_a_source_is_known_by_its_last_segment() -> None:
    assert arch.shape_of_source("hf://org/opt-1.3b", "1B") is arch.KNOWN["opt-1.3b"]


def test_an_oci_source_is_known_without_its_digest() -> None:
    assert arch.shape_of_source("oci://registry.example.com/ml/gpt2-xl@sha256:" + "0" * 64, None) is arch.KNOWN["gpt2-xl"]


def test_an_unknown_source_takes_the_stated_size() -> None:
    shape = arch.shape_of_source("pvc://models/mine", "350M")
    assert shape is not None
    assert shape.num_parameters == 350_000_000


def test_an_unknown_source_without_size_has_no_shape() -> None:
    assert arch.shape_of_source("pvc://models/mine", None) is None


def test_a_text_that_is_no_size_is_refused() -> None:
    with pytest.raises(ValueError, match="'seven' is no model size such as 7B"):
        arch.shape_of("seven")
