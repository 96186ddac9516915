"""Rule D8: one order for the whole gang, windows that do not cross epochs, a cursor without the world size."""

import json
from itertools import chain, zip_longest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.data.order import Cursor, order, rank_share, spread
from rlhf_trainer.errors import ConfigError, DataError

sizes = st.integers(1, 60)


def windows(cursor: Cursor) -> list[tuple[int, list[int]]]:
    found = []
    while (window := cursor.next()) is not None:
        found.append((window[0], window[1].tolist()))
    return found


@given(seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 1000), n=sizes)
def test_an_order_is_a_permutation_and_depends_on_its_arguments_alone(seed: int, epoch: int, n: int) -> None:
    assert sorted(order(seed, epoch, n)) == list(range(n))
    np.testing.assert_array_equal(order(seed, epoch, n), order(seed, epoch, n))


def test_the_order_never_changes_between_versions() -> None:
    # Golden: a resumed run must see the rows that the first attempt would have seen.
    assert order(42, 0, 8).tolist() == [7, 1, 6, 4, 3, 5, 0, 2]


@pytest.mark.rule("D8")
def test_epochs_and_seeds_differ() -> None:
    assert len({tuple(order(seed, epoch, 30)) for seed in (0, 1) for epoch in (0, 1)}) == 4


@given(n=sizes, global_batch=sizes, num_epochs=st.integers(1, 3))
@pytest.mark.rule("D8")
def test_every_epoch_uses_every_row_once_in_windows_of_one_size(n: int, global_batch: int, num_epochs: int) -> None:
    cursor = Cursor(7, n, global_batch, num_epochs)
    found = windows(cursor)
    assert len(found) == num_epochs * cursor.steps_per_epoch
    for epoch in range(num_epochs):
        own = [ids for each, ids in found if each == epoch]
        assert sorted(chain.from_iterable(own)) == list(range(n))
        assert all(len(ids) == global_batch for ids in own[:-1])
    assert cursor.next() is None  # however often it is asked


@given(n=sizes, global_batch=sizes, stop=st.integers(0, 80))
@pytest.mark.rule("D8")
def test_a_restored_cursor_goes_on_where_the_first_one_stopped(n: int, global_batch: int, stop: int) -> None:
    whole = windows(Cursor(3, n, global_batch, 2))
    first = Cursor(3, n, global_batch, 2)
    begun = [first.next() for _ in range(min(stop, len(whole)))]
    second = Cursor(3, n, global_batch, 2)
    second.restore(json.loads(json.dumps(first.state())))
    assert [(epoch, ids.tolist()) for epoch, ids in filter(None, begun)] + windows(second) == whole


def test_a_cursor_without_an_end_never_stops() -> None:
    cursor = Cursor(1, 3, 2, None)
    assert [epoch for epoch, _ in filter(None, (cursor.next() for _ in range(6)))] == [0, 0, 1, 1, 2, 2]


@given(n=sizes, world_size=st.integers(1, 8))
@pytest.mark.rule("D8")
def test_workers_share_a_window_without_loss_or_overlap(n: int, world_size: int) -> None:
    ids = order(1, 0, n)
    shares = [rank_share(ids, rank, world_size) for rank in range(world_size)]
    assert sorted(np.concatenate(shares)) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("seed", 2, id="another seed is another order"),
        pytest.param("numRows", 11, id="another dataset has other rows"),
        pytest.param("globalBatch", 5, id="another batch size has other windows"),
        pytest.param("consumed", 11, id="more rows than there are"),
        pytest.param("epoch", -1, id="an epoch before the first"),
    ],
)
def test_a_state_of_another_run_is_refused(name: str, value: int) -> None:
    state = Cursor(1, 10, 4, 1).state() | {name: value}
    with pytest.raises(ConfigError, match="cursor"):
        Cursor(1, 10, 4, 1).restore(state)


@given(num_rows=sizes, global_batch=st.integers(1, 20), num_windows=st.integers(0, 30))
def test_the_rows_of_so_many_windows_are_known_before(num_rows: int, global_batch: int, num_windows: int) -> None:
    cursor = Cursor(0, num_rows, global_batch, None)
    for _ in range(num_windows):
        cursor.next()
    assert cursor.num_consumed == cursor.rows_in(num_windows)


def test_a_selection_is_spread_over_the_whole_file() -> None:
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 8) == [0, 1, 2]
    assert spread(0, 8) == []


def test_no_rows_is_a_data_error() -> None:
    with pytest.raises(DataError, match="0 rows"):
        Cursor(1, 0, 4, 1)


def test_a_batch_has_at_least_one_row() -> None:
    with pytest.raises(ValueError, match="global_batch is 0"):
        Cursor(1, 4, 0, 1)


@given(
    n=sizes,
    global_batch=sizes,
    attempts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(1, 5)), max_size=8),
)
@pytest.mark.rule("D8", "C6")
def test_kills_and_other_numbers_of_workers_change_neither_rows_nor_their_order(
    n: int, global_batch: int, attempts: list[tuple[int, int, int]]
) -> None:
    """Each attempt takes some steps on some workers; the last steps of it are lost, because no checkpoint had them yet."""
    whole = windows(Cursor(5, n, global_batch, 2))
    kept: list[tuple[int, list[int]]] = []
    state = Cursor(5, n, global_batch, 2).state()
    for num_steps, num_lost, world_size in [*attempts, (10**6, 0, 1)]:
        cursor = Cursor(5, n, global_batch, 2)
        cursor.restore(json.loads(json.dumps(state)))
        seen, states = [], [state]
        while len(seen) < num_steps and (window := cursor.next()) is not None:
            shares = [rank_share(window[1], rank, world_size).tolist() for rank in range(world_size)]
            seen.append((window[0], [row for group in zip_longest(*shares) for row in group if row is not None]))
            states.append(cursor.state())
        num_kept = max(0, len(seen) - num_lost)
        kept, state = kept + seen[:num_kept], states[num_kept]
    assert kept == whole
