"""How much is generated at once, and how far: numbers from the configurations of real architectures."""

from typing import Any

import pytest
import torch

from rlhf_trainer.rollout import limits


def a_config(kind: str, **settings: Any) -> Any:
    import transformers

    return getattr(transformers, kind)(**settings)


LLAMA = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "hidden_size": 32}


@pytest.mark.parametrize(
    ("num_bytes", "num_rows"),
    [
        pytest.param(256 * 20 * 5, 5, id="exactly five rows"),
        pytest.param(256 * 20 * 6 - 1, 5, id="one byte short of six"),
        pytest.param(1, 1, id="one row has nothing to wait for"),
    ],
)
@pytest.mark.rule("G8")
def test_rows_that_do_not_fit_the_cache_wait(num_bytes: int, num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 layers x 2 heads x 8 numbers x (keys, values) x 4 bytes = 256 bytes a token, 20 tokens a row."""
    monkeypatch.setattr(limits, "CACHE_BYTES", num_bytes)
    assert limits.rows_that_fit(a_config("LlamaConfig", **LLAMA), 20) == num_rows


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        pytest.param("GPT2Config", {"n_layer": 2, "n_head": 2, "n_embd": 16}, id="heads of its own names"),
        pytest.param("Gemma3Config", {"text_config": LLAMA}, id="text beside images"),
    ],
)
def test_every_architecture_is_counted_alike(kind: str, settings: dict[str, Any]) -> None:
    config, same = a_config(kind, **settings), a_config("LlamaConfig", **LLAMA)
    assert limits.rows_that_fit(config, 20) == limits.rows_that_fit(same, 20)


@pytest.mark.parametrize(
    ("kind", "settings", "context"),
    [
        pytest.param("GPT2Config", {"n_positions": 64}, 64, id="GPT-2"),
        pytest.param("OPTConfig", {"max_position_embeddings": 64}, 64, id="OPT"),
        pytest.param("Gemma3Config", {"text_config": {"max_position_embeddings": 64}}, 64, id="text beside images"),
        pytest.param("BloomConfig", {}, None, id="no positions, no limit"),
    ],
)
def test_the_context_of_a_model(kind: str, settings: dict[str, Any], context: int | None) -> None:
    assert limits.context_of(a_config(kind, **settings)) == context


@pytest.mark.parametrize(
    ("dtype", "device", "num_bytes"),
    [
        pytest.param(torch.bfloat16, "cuda", 2, id="half precision on a GPU"),
        pytest.param(torch.float32, "cuda", 4, id="fp32 on a GPU"),
        pytest.param(torch.bfloat16, "cpu", 4, id="bf16 generates in fp32 on a CPU"),
    ],
)
def test_the_bytes_of_a_cached_number(dtype: torch.dtype, device: str, num_bytes: int) -> None:
    assert limits.bytes_per_number(dtype, torch.device(device)) == num_bytes
