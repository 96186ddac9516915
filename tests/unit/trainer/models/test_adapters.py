"""adapters.py: an adapter starts as nothing, trains alone, can be switched off, and leaves merged or as peft's own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_api.job import Lora
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.models import adapters, export, load
from tests.support.training import a_llama, write_model

IDS = torch.tensor([[1, 9, 4, 5], [1, 8, 7, 6]])


@pytest.fixture(scope="module")
def adapted() -> Any:
    hf = a_llama()
    adapters.add_adapter(hf, Lora(rank=4, alpha=8), seed=1)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return hf


def test_a_fresh_adapter_changes_nothing_and_is_all_that_is_trained() -> None:
    hf = a_llama()
    before = hf(IDS).logits
    adapters.add_adapter(hf, Lora(rank=4, alpha=8), seed=1)
    assert torch.equal(hf(IDS).logits, before)
    trained = {name for name, parameter in hf.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in hf.named_parameters() if "lora_" in name}
    assert adapters.has_adapter(hf)
    assert not adapters.has_adapter(a_llama())


def test_the_same_seed_gives_the_same_adapter() -> None:
    def first_matrix(seed: int) -> torch.Tensor:
        hf = a_llama()
        adapters.add_adapter(hf, Lora(rank=4), seed=seed)
        return next(parameter for name, parameter in hf.named_parameters() if "lora_A" in name)

    assert torch.equal(first_matrix(1), first_matrix(1))
    assert not torch.equal(first_matrix(1), first_matrix(2))


@pytest.mark.rule("P9", source="Hu et al. 2021, arXiv:2106.09685")
def test_adapters_off_is_the_base_model_bit_for_bit(adapted: Any) -> None:
    with_adapter = adapted(IDS).logits
    with adapters.adapters_off(adapted):
        assert torch.equal(adapted(IDS).logits, a_llama()(IDS).logits)
    assert torch.equal(adapted(IDS).logits, with_adapter)
    assert not torch.equal(with_adapter, a_llama()(IDS).logits)


@pytest.mark.rule("O2", source="Hu et al. 2021, arXiv:2106.09685, section 4.1")
def test_merged_weights_give_the_same_logits_in_a_model_without_adapters(adapted: Any, tmp_path: Path) -> None:
    tied = export.tied_names(adapted)
    export.write_weights(tmp_path, ((name, tensor) for name, tensor in adapters.merged_tensors(adapted) if name not in tied))
    export.write_config(tmp_path, adapted, torch.float32)
    merged = load.load_model(tmp_path, torch.float32)
    assert dict(merged.named_parameters()).keys() == dict(a_llama().named_parameters()).keys()
    torch.testing.assert_close(merged(IDS).logits, adapted(IDS).logits, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks by the old name
@pytest.mark.rule("O2", source="peft: from_pretrained")
def test_peft_reads_the_adapter_files(adapted: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    adapters.write_adapter(adapted, tmp_path)
    reloaded = PeftModel.from_pretrained(a_llama(), tmp_path)
    torch.testing.assert_close(reloaded(IDS).logits, adapted(IDS).logits, atol=1e-6, rtol=0)


def test_a_score_head_is_trained_with_its_adapter_and_is_scaled_on_its_way_out(tmp_path: Path) -> None:
    hf = load.load_score_model(write_model(a_llama(), tmp_path), torch.float32)
    adapters.add_adapter(hf, Lora(rank=4), seed=1, task_type="SEQ_CLS")
    assert hf.score.weight.requires_grad
    assert not hasattr(hf.score, "lora_A")
    saved = dict(adapters.adapter_tensors(hf, head_scale=2.0))
    torch.testing.assert_close(saved["base_model.model.score.weight"], 2 * hf.score.weight.detach())


def test_a_target_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"spec\.model\.lora\.targetModules: \['nonsense'\]") as error:
        adapters.add_adapter(a_llama(), Lora(target_modules=("nonsense",)), seed=0)
    assert "q_proj" in (error.value.hint or "")
