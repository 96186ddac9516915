"""Rules R1, R2 (check A4): the score is read at the last real token, whatever stands around it. Oracle: transformers."""

import copy

import pytest
import torch

from rlhf_trainer.models.heads import ScoreModel, last_token, new_head
from rlhf_trainer.rollout.generate import position_ids
from tests.oracle.models import VOCAB, tiny
from tests.oracle.support import close, must_fail

LENGTHS = [3, 9, 5, 1]
EOS = 7
"""Also the padding id here, and inside the texts: what breaks `ids == pad`."""


def score_model(name="llama"):
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(tiny(name).config)
    config.num_labels, config.pad_token_id = 1, None
    torch.manual_seed(1)
    model = ScoreModel(AutoModelForSequenceClassification.from_config(config).eval())
    new_head(model.hf, seed=0)
    return model


def texts():
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randint(11, VOCAB, (n,), generator=generator) for n in LENGTHS]
    rows[1][4] = rows[1][8] = EOS  # a conversation has an end token inside, and at its end
    return rows


def scores(model, rows, side, width, read):
    ids, mask = torch.full((len(rows), width), EOS), torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, place], mask[i, place] = row, 1
    return read(model(ids, mask, position_ids(mask)), mask, ids)


def by_mask(values, mask, ids):
    return last_token(values, mask)


def by_pad_id(values, mask, ids):
    """HF's own rule: the last token is the one before the first padding id."""
    is_pad = (ids == EOS).int()
    last = torch.where(is_pad.any(1), is_pad.argmax(1) - 1, ids.shape[1] - 1) % ids.shape[1]
    return values[torch.arange(len(ids)), last]


def last_column(values, mask, ids):
    return values[:, -1]


@torch.no_grad()
def check_padding_invariance(read):
    for name in ("llama", "gpt2"):
        model = score_model(name)
        alone = torch.cat([model.hf(input_ids=row[None]).logits[:, 0] for row in texts()])
        for side, width in (("right", 9), ("left", 9), ("right", 14), ("left", 14)):
            close(scores(model, texts(), side, width, read), alone, 1e-5)
        close(scores(model, texts()[2:3], "right", 5, read), alone[2:3], 1e-5)


@pytest.mark.rule("R1", source="transformers: ForSequenceClassification, one row alone")
def test_neither_padding_nor_batch_mates_change_a_score():
    check_padding_invariance(by_mask)


@pytest.mark.parametrize("mutant", [by_pad_id, last_column])
@pytest.mark.mutant("R1")
def test_the_padding_check_catches(mutant):
    must_fail(check_padding_invariance, mutant)


@pytest.mark.rule("R2", "O3", source="transformers: AutoModelForSequenceClassification")
def test_the_head_is_where_transformers_looks_for_it(tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = score_model()
    assert model.hf.score.bias is None
    model.hf.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1).eval()
    row = texts()[0][None]
    with torch.no_grad():
        close(again(input_ids=row).logits[:, 0], model(row, torch.ones_like(row), position_ids(torch.ones_like(row)))[:, -1], 1e-6)


@pytest.mark.rule("R2", source="Stiennon et al. 2020, arXiv:2009.01325, appendix B.1")
def test_a_fresh_head_has_the_deviation_of_stiennon():
    model = score_model()
    model.hf.score.weight = torch.nn.Parameter(torch.empty(1, 40_000))
    new_head(model.hf, seed=3)
    assert abs(float(model.hf.score.weight.detach().std()) * 40_001**0.5 - 1) < 0.02
