"""quantized.py: formats weigh and err what their definitions say (rules O5, O6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_trainer.models import load, quantized
from tests.support.training import a_llama, write_model


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    model = a_llama(hidden_size=128, intermediate_size=256, num_hidden_layers=1, initializer_range=0.02)
    return model, write_model(model, tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("method", "double_quant", "error"),
    [("nf4", True, 0.092), ("nf4", False, 0.092), ("int8", False, 0.0078)],
    ids=["nf4 with double quantization", "nf4", "int8"],
)
@pytest.mark.rule("O5", "O6", source="Dettmers et al. 2023, arXiv:2305.14314; bitsandbytes")
def test_size_and_error_follow_the_format(
    original: tuple[Any, Path], method: str, double_quant: bool, error: float, tmp_path: Path
) -> None:
    model, source = original
    config = quantized.quantization_config(method, double_quant=double_quant)
    found = quantized.load_quantized(source, config)
    found.save_pretrained(tmp_path)
    reloaded = load.load_model(tmp_path, torch.bfloat16)
    expected = quantized.expected_bytes(reloaded, method, double_quant=double_quant)
    assert quantized.stored_bytes(tmp_path) == pytest.approx(expected, rel=0.02)
    assert quantized.error_of(model, reloaded) == pytest.approx(error, rel=0.15)
    before, after = quantized.stored_tensors(found), quantized.stored_tensors(reloaded)
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_the_head_and_the_embedding_are_not_quantized(original: tuple[Any, Path]) -> None:
    found = quantized.load_quantized(original[1], quantized.quantization_config("nf4", double_quant=True))
    names = {name for name, _ in quantized.quantized_layers(found)}
    assert len(names) == 7  # four attention and three MLP matrices of one layer
    assert not any("lm_head" in name or "embed" in name for name in names)
