"""Arguments of the generator. What it generates is proven in tests/oracle/test_generate.py."""

import pytest
import torch
from torch import nn

from rlhf_trainer.rollout.generate import GenerateConfig, generate, left_padded, position_ids

IDS = torch.tensor([[5, 6, 0, 0], [7, 0, 0, 0], [1, 2, 3, 4]])
MASK = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
CONFIG = GenerateConfig(max_new_tokens=4, stop_ids=(1,), pad_id=0)


def test_positions_count_from_the_first_token():
    assert position_ids(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]


def test_rows_move_to_the_right_end():
    ids, mask = left_padded(IDS[:2], MASK[:2])
    assert (ids.tolist(), mask.tolist()) == ([[5, 6], [0, 7]], [[1, 1], [0, 1]])


def test_left_padding_keeps_the_order_of_tokens():
    ids, mask = left_padded(IDS, MASK)
    assert ids[2].tolist() == [1, 2, 3, 4]
    assert mask.sum(dim=1).tolist() == [2, 1, 4]


@pytest.mark.parametrize(
    ("ids", "mask", "seeds", "message"),
    [
        pytest.param(IDS, MASK[:2], range(3), "must be", id="mask of another shape"),
        pytest.param(IDS, torch.zeros_like(MASK), range(3), "no token", id="an empty prompt"),
        pytest.param(IDS, MASK, None, "one seed a row", id="sampling without seeds"),
        pytest.param(IDS, MASK, range(2), "3 rows", id="too few seeds"),
    ],
)
def test_wrong_arguments_are_refused(ids, mask, seeds, message):
    with pytest.raises(ValueError, match=message):
        generate(nn.Identity(), ids, mask, CONFIG, seeds)
