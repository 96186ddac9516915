"""heads.py: scores go by the mask, heads start as designed, dropout is really off."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from rlhf_trainer.models import heads
from rlhf_trainer.models.heads import LanguageModel, ScoreModel, last_token, packed_masks
from rlhf_trainer.rollout.generate import position_ids
from tests.support.training import a_llama


def a_score_model(hidden_size: int = 16, seed: int = 0) -> ScoreModel:
    from transformers.models.llama.modeling_llama import LlamaForSequenceClassification

    config = a_llama(hidden_size=hidden_size, num_labels=1).config
    torch.manual_seed(seed)
    hf = LlamaForSequenceClassification(config).eval()
    heads.new_head(hf, seed)
    return ScoreModel(hf)


@pytest.mark.parametrize(
    ("mask", "columns"),
    [
        pytest.param([[1, 1, 0], [1, 1, 1]], [1, 2], id="padding on the right"),
        pytest.param([[0, 1, 1], [0, 0, 1]], [2, 2], id="padding on the left"),
        pytest.param([[0, 1, 0]], [1], id="padding on both sides"),
    ],
)
def test_the_last_token_is_found_by_the_mask(mask: list[list[int]], columns: list[int]) -> None:
    values = torch.arange(3.0).expand(len(mask), 3)
    assert last_token(values, torch.tensor(mask)).tolist() == columns


@pytest.mark.parametrize("pad_id", [0, 2, 7], ids=["pad token", "end token as padding", "a real token as padding"])
@pytest.mark.rule("R1")
def test_a_score_does_not_depend_on_padding_side_or_batch_mates(pad_id: int) -> None:
    module = a_score_model()
    alone = torch.tensor([[1, 9, 2, 5, 2]])  # the end token inside the text is no end
    expected = score(module, alone, torch.ones_like(alone))
    pads = torch.full((1, 3), pad_id)
    on_left = score(module, torch.cat([pads, alone], 1), torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]]))
    on_right = score(module, torch.cat([alone, pads], 1), torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]]))
    torch.testing.assert_close(torch.cat([on_left, on_right]), expected.repeat(2), atol=1e-5, rtol=0)


def score(module: ScoreModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return last_token(module(ids, mask, position_ids(mask)), mask)


@pytest.mark.rule("R2", source="Stiennon et al. 2020, arXiv:2009.01325, appendix B.1")
def test_a_new_head_has_the_published_deviation_and_comes_from_the_seed() -> None:
    first, again, other = (a_score_model(1024, seed).hf.score.weight.detach() for seed in (3, 3, 4))
    assert float(first.std()) == pytest.approx(1 / math.sqrt(1025), rel=0.1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_mean_is_subtracted_from_every_score() -> None:
    module = a_score_model()
    ids = torch.tensor([[1, 4, 5]])
    before = module(ids, torch.ones_like(ids), torch.arange(3)[None])
    module.mean = 1.5
    torch.testing.assert_close(module(ids, torch.ones_like(ids), torch.arange(3)[None]), before - 1.5)


def test_a_language_model_gives_hidden_states_from_which_the_head_makes_the_known_logits() -> None:
    hf = a_llama()
    ids = torch.tensor([[1, 9, 4, 5]])
    found = LanguageModel(hf)(ids, torch.ones_like(ids), torch.arange(4)[None], lambda hidden, head: head(hidden))
    torch.testing.assert_close(found, hf(ids).logits)


@pytest.mark.rule("R4", "P6")
def test_without_dropout_two_forwards_in_training_mode_are_equal() -> None:
    hf = a_llama(attention_dropout=0.5).train()
    ids = torch.tensor([[1, 9, 4, 5]])
    assert not torch.equal(hf(ids).logits, hf(ids).logits)
    heads.without_dropout(hf)
    assert torch.equal(hf(ids).logits, hf(ids).logits)


def test_checkpointed_activations_change_no_gradient() -> None:
    gradients = []
    for is_checkpointed in (False, True):
        hf = a_llama().train()
        if is_checkpointed:
            heads.checkpoint_activations(hf)
        ids = torch.tensor([[1, 9, 4, 5]])
        LanguageModel(hf)(ids, torch.ones_like(ids), torch.arange(4)[None], lambda hidden, head: head(hidden).square().mean()).backward()
        gradients.append(hf.model.layers[0].mlp.up_proj.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        pytest.param({}, {"full"}, id="no window"),
        pytest.param({"sliding_window": 2}, {"narrow"}, id="every layer slides, as in Mistral"),
        pytest.param({"sliding_window": 2, "layer_types": ["full_attention"]}, {"full"}, id="a window that no layer uses"),
        pytest.param(
            {"sliding_window": 2, "layer_types": ["full_attention", "sliding_attention"]}, {"full", "narrow"}, id="some layers slide"
        ),
    ],
)
def test_the_mask_of_packed_rows_is_narrowed_where_layers_slide(config: dict[str, object], kinds: set[str]) -> None:
    full = torch.ones(3, 3, dtype=torch.bool).tril()[None, None]
    narrow = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1]], dtype=torch.bool)[None, None]
    found = packed_masks(SimpleNamespace(**config), full)
    masks = list(found.values()) if isinstance(found, dict) else [found]
    assert {"full" if torch.equal(mask, full) else "narrow" for mask in masks} == kinds
    assert all(torch.equal(mask, full) or torch.equal(mask, narrow) for mask in masks)
