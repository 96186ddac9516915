"""Rule D7 on lengths: nothing lost, nothing too long, little padding."""

import random
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.data.packing import micro_batches, pack, padding_waste

lengths = st.lists(st.integers(1, 40), max_size=80)


@given(lengths=lengths, max_length=st.integers(40, 100))
@pytest.mark.rule("D7", source="Johnson 1973, first-fit decreasing")
def test_every_row_is_in_one_bin_that_holds_it(lengths: list[int], max_length: int) -> None:
    bins = pack(lengths, max_length)
    assert sorted(chain.from_iterable(bins)) == list(range(len(lengths)))
    assert all(0 < sum(lengths[row] for row in members) <= max_length for members in bins)


@given(lengths=lengths, max_length=st.integers(40, 100))
def test_at_most_one_bin_is_less_than_half_full(lengths: list[int], max_length: int) -> None:
    loads = [sum(lengths[row] for row in members) for members in pack(lengths, max_length)]
    assert sum(2 * load <= max_length for load in loads) <= 1  # two such bins would have been one


def test_the_example_of_the_docstring() -> None:
    assert pack([5, 3, 4, 2], 7) == [[0, 3], [2, 1]]
    assert micro_batches([5, 1, 4, 2], 2) == [[0, 2], [3, 1]]


def test_a_row_longer_than_a_bin_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="row 1 has 9 tokens, a bin holds 8"):
        pack([3, 9], 8)


@pytest.mark.rule("D7")
def test_waste_stays_below_a_twentieth_on_a_window_of_short_rows() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(10, 300) for _ in range(256)]
    assert padding_waste(lengths, pack(lengths, 1024), 1024) < 0.05


@given(lengths=lengths, max_rows=st.integers(1, 9), max_tokens=st.one_of(st.none(), st.integers(1, 120)))
def test_micro_batches_keep_their_limits(lengths: list[int], max_rows: int, max_tokens: int | None) -> None:
    batches = micro_batches(lengths, max_rows, max_tokens)
    assert sorted(chain.from_iterable(batches)) == list(range(len(lengths)))
    for members in batches:
        assert len(members) <= max_rows
        positions = len(members) * max(lengths[row] for row in members)
        assert max_tokens is None or positions <= max_tokens or len(members) == 1


def test_sorting_by_length_wastes_less_than_the_given_order() -> None:
    lengths = [5, 50] * 8
    given_order = [[2 * i, 2 * i + 1] for i in range(8)]
    assert padding_waste(lengths, micro_batches(lengths, 2)) == 0.0
    assert padding_waste(lengths, given_order) == pytest.approx(0.45)


def test_nothing_wastes_nothing() -> None:
    assert pack([], 8) == []
    assert micro_batches([], 8) == []
    assert padding_waste([], [], 8) == 0.0
