"""Means over a mask: what counts, what divides, and what must not be there."""

import pytest
import torch

from rlhf_trainer.rl import masks

X = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
MASK = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("aggregate", "num_global", "wanted"),
    [
        pytest.param("token", None, 7 / 3, id="all tokens weigh the same"),
        pytest.param("sequence", None, (1.5 + 4) / 2, id="all rows weigh the same, empty ones do not count"),
        pytest.param("token", 14, 0.5, id="the tokens of the global minibatch divide"),
        pytest.param("sequence", torch.tensor(11), 0.5, id="the rows of the global minibatch divide"),
    ],
)
def test_mean(aggregate, num_global, wanted):
    assert float(masks.mean(X, MASK, aggregate, num_global)) == pytest.approx(wanted)


@pytest.mark.parametrize("aggregate", ["token", "sequence"])
def test_nothing_counted_is_zero_and_not_nan(aggregate):
    assert masks.mean(X, torch.zeros_like(MASK), aggregate, None) == 0


def test_an_unknown_aggregate_is_refused():
    with pytest.raises(ValueError, match="'row' must be 'token' or 'sequence'"):
        masks.mean(X, MASK, "row", None)


@pytest.mark.parametrize(
    ("before", "after"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)]
)
@pytest.mark.rule("P20")
def test_arithmetic_is_fp32_at_least(before, after):
    assert masks.in_fp32(torch.ones(1, dtype=before)).dtype == after


def test_masked_forgets_what_padding_holds():
    x = torch.tensor([[1.0, float("nan")], [float("inf"), 2.0]])
    assert masks.masked(x, torch.tensor([[1, 0], [0, 1]])).tolist() == [[1, 0], [0, 2]]


def test_different_shapes_are_named():
    with pytest.raises(ValueError, match=r"'a': \(2, 3\), 'b': \(3, 2\)"):
        masks.check_same_shape(a=torch.zeros(2, 3), b=torch.zeros(3, 2))
