"""load.py and export.py: what was written is what is loaded; what cannot be loaded says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_trainer.errors import InputError, UnsupportedError
from rlhf_trainer.models import export, load
from tests.support.training import a_llama, write_model

IDS = torch.tensor([[1, 9, 4, 5]])


def test_a_model_survives_the_way_to_disk_and_back(tmp_path: Path) -> None:
    model = a_llama()
    assert torch.equal(load.load_model(write_model(model, tmp_path), torch.float32)(IDS).logits, model(IDS).logits)


def test_weights_in_many_shards_are_found_through_the_index(tmp_path: Path) -> None:
    model = a_llama()
    write_model(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    tied = export.tied_names(model)
    export.write_weights(tmp_path, ((n, t) for n, t in model.state_dict().items() if n not in tied), max_shard_bytes=4000)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    assert torch.equal(load.load_model(tmp_path, torch.float32)(IDS).logits, model(IDS).logits)


def test_a_score_head_keeps_its_digits_in_a_bf16_model(tmp_path: Path) -> None:
    write_model(a_llama(), tmp_path)
    scored = load.load_score_model(tmp_path, torch.float32)
    head = torch.full_like(scored.score.weight, 1 / 3)
    scored.score.weight.data = head
    export.write_weights(tmp_path / "score", scored.state_dict().items())
    export.write_config(tmp_path / "score", scored, torch.bfloat16)
    again = load.load_score_model(tmp_path / "score", torch.bfloat16)
    assert torch.equal(again.score.weight, head)
    assert again.model.embed_tokens.weight.dtype == torch.bfloat16


def test_the_tokenizer_is_copied_byte_for_byte(tmp_path: Path) -> None:
    source = write_model(a_llama(), tmp_path / "source")
    export.copy_tokenizer(source, tmp_path / "copy")
    assert (tmp_path / "copy" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert load.load_tokenizer(tmp_path / "copy").chat_template


def test_the_template_of_the_job_replaces_the_models_own(tmp_path: Path) -> None:
    source = write_model(a_llama(), tmp_path / "source")
    export.copy_tokenizer(source, tmp_path / "copy", "{{ messages[0].content }} as plain text")
    tokenizer = load.load_tokenizer(tmp_path / "copy")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi as plain text"


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a readable model configuration"):
        load.load_model(tmp_path, torch.float32)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokenizer"):
        load.load_tokenizer(tmp_path / "nowhere")


def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    write_model(a_llama(), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="not a model that transformers can load"):
        load.load_model(tmp_path, torch.float32)


def test_capped_logits_are_refused_because_chunked_heads_would_ignore_the_cap(tmp_path: Path) -> None:
    write_model(a_llama(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"final_logit_softcapping": 30.0}))
    with pytest.raises(UnsupportedError, match="final_logit_softcapping"):
        load.load_model(tmp_path, torch.float32)


SMALL = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2
}  # fmt: skip


def a_model_of(kind: str, directory: Path, **more: object) -> Path:
    """A tiny model of another family, with random weights."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SMALL | {"pad_token_id": 0} | more)))
    model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        pytest.param("granite", {"logits_scaling": 8.0}, id="Granite divides"),
        pytest.param("cohere", {"logit_scale": 0.0625}, id="Cohere multiplies"),
    ],
)
def test_scaled_logits_are_refused_because_our_heads_know_no_factor(kind: str, scale: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="scales its logits"):
        load.load_model(a_model_of(kind, tmp_path, **scale), torch.float32)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        pytest.param("granite", {"logits_scaling": 1.0}, id="Granite with a factor of 1"),
        pytest.param("gpt2", {}, id="GPT-2"),
        pytest.param("opt", {"word_embed_proj_dim": 8, "ffn_dim": 32}, id="OPT with a narrow head"),
        pytest.param("qwen2", {}, id="Qwen 2"),
        pytest.param("mistral", {}, id="Mistral"),
        pytest.param("gemma3_text", {"num_key_value_heads": 1, "head_dim": 8}, id="Gemma 3"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_other_families_load_and_answer_as_before(kind: str, more: dict[str, object], dtype: torch.dtype, tmp_path: Path) -> None:
    directory = a_model_of(kind, tmp_path, **more)
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    assert torch.equal(load.load_model(directory, dtype)(IDS).logits, plain(IDS).logits)


def test_weights_that_were_cut_off_are_named(tmp_path: Path) -> None:
    write_model(a_llama(), tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a model that transformers can load"):
        load.load_model(tmp_path, torch.float32)


def test_fp16_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="fp16"):
        load.torch_dtype("fp16")
