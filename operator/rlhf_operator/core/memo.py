"""Remember what a pure function answered for the same objects: one decision asks the same question many times, and so does the next round.

Specs and profiles are frozen and are read once, so being the same object stands for being equal. Hashing them would cost more than most
answers; their identity costs nothing.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
MAX_ANSWERS = 4096
"""Of each function: about a thousand jobs that are between two rounds. Fewer, and a burst computes everything twice."""


def by_identity(function: Callable[P, T]) -> Callable[P, T]:
    """The function, which answers from memory when it is called with the very same objects again. Exceptions are not remembered."""
    answers: OrderedDict[tuple[object, ...], tuple[tuple[object, ...], T]] = OrderedDict()

    @functools.wraps(function)
    def remembered(*args: P.args, **kwargs: P.kwargs) -> T:
        key = (*map(id, args), *((name, id(value)) for name, value in kwargs.items()))
        if key in answers:
            return answers[key][1]
        answer = function(*args, **kwargs)
        answers[key] = ((args, kwargs), answer)  # the arguments are kept, so their ids stay theirs
        if len(answers) > MAX_ANSWERS:
            answers.popitem(last=False)
        return answer

    return remembered
