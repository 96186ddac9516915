"""`eventually` returns the first true value, and says what it saw last when there was none."""

import pytest

from tests.support.eventually import eventually


def test_the_first_true_value_comes_back() -> None:
    values = iter([0, "", 3])
    assert eventually(lambda: next(values)) == 3


def test_a_condition_that_never_comes_true_is_named_with_its_last_value() -> None:
    with pytest.raises(AssertionError, match=r"the pod did not come true within 0.05 s; last value: \[\]"):
        eventually(list, deadline_seconds=0.05, what="the pod")
