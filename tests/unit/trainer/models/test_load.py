"""load.py and export.py: what was written is what is loaded; what cannot be loaded says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

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


def test_fp16_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="fp16"):
        load.torch_dtype("fp16")
