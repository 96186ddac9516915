"""Settings of generation and what truncation keeps. Distributions are tested in tests/oracle/test_generate.py."""

import pytest
import torch

from rlhf_trainer.errors import ConfigError
from rlhf_trainer.rollout.sampling import GenerateConfig, choose, invert, truncate


def config(**changes):
    return GenerateConfig(**{"max_new_tokens": 4, "stop_ids": (1,), "pad_id": 0} | changes)


@pytest.mark.rule("P8")
def test_an_empty_stop_list_is_a_config_error():
    with pytest.raises(ConfigError, match="stop_ids"):
        config(stop_ids=())


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_new_tokens", 0), ("temperature", 0.0), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.5), ("max_rows", 0), ("context", 0)],
)
def test_a_wrong_setting_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name}: {value!r} must be"):
        config(**{name: value})


LOGITS = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        pytest.param(0, 1.0, [0, 1, 2, 3], id="off: all"),
        pytest.param(2, 1.0, [0, 1], id="the two likeliest"),
        pytest.param(9, 1.0, [0, 1, 2, 3], id="more than there are"),
        pytest.param(0, 0.5, [0, 1], id="0.4 is not enough, 0.7 is"),
        pytest.param(0, 0.01, [0], id="the likeliest always stays"),
        pytest.param(2, 0.5, [0], id="top-p after top-k: 0.4 of 0.7 is enough"),
    ],
)
def test_truncate(top_k, top_p, kept):
    found = truncate(LOGITS.unsqueeze(0), top_k, top_p)[0]
    assert torch.isfinite(found).nonzero().flatten().tolist() == kept


def test_ties_at_the_last_place_stay():
    assert torch.isfinite(truncate(torch.tensor([[1.0, 2.0, 2.0, 0.0]]), 1, 1.0)).sum() == 2


def test_inversion_never_meets_an_impossible_token():
    probs = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]])
    numbers = torch.tensor([0.0, 0.4999, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert [int(invert(probs, numbers[i : i + 1])) for i in range(4)] == [1, 1, 3, 3]


def test_greedy_takes_the_likeliest_and_says_how_likely():
    tokens, log_probs = choose(LOGITS.unsqueeze(0), None, config(greedy=True))
    assert (tokens.tolist(), log_probs.exp().tolist()) == ([0], [pytest.approx(0.4)])
