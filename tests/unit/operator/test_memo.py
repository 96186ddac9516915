"""The same objects get the same answer without asking again; equal ones are asked for, and nothing grows without bound."""

from rlhf_operator.core import memo
from rlhf_operator.core.memo import by_identity


class Thing:
    pass


def test_the_same_objects_are_answered_from_memory() -> None:
    asked: list[object] = []
    answer = by_identity(lambda one, other: (asked.append(one), object())[1])
    one, other = Thing(), Thing()
    assert answer(one, other) is answer(one, other)
    assert answer(other, one) is not answer(one, other)
    assert asked == [one, other]


def test_keyword_arguments_count() -> None:
    answer = by_identity(lambda one, *, other: object())
    one, a, b = Thing(), Thing(), Thing()
    assert answer(one, other=a) is answer(one, other=a)
    assert answer(one, other=a) is not answer(one, other=b)


def test_old_answers_are_forgotten() -> None:
    asked: list[object] = []
    answer = by_identity(asked.append)
    things = [Thing() for _ in range(memo.MAX_ANSWERS + 1)]
    for thing in things:
        answer(thing)
    answer(things[-1])
    assert len(asked) == len(things)
    answer(things[0])
    assert len(asked) == len(things) + 1
