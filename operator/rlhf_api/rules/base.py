"""A rule: where it holds, its CEL, its words, and the Python that finds the values that break it."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from rlhf_api.base import ApiModel
from rlhf_api.outcome import ExitCode

Owner = TypeVar("Owner", bound=ApiModel)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the rule tables. It holds at every place where the type `owner` appears."""

    owner: type[ApiModel]
    at: str
    """Wire name of the field that carries the CEL rule (`self` is its value then); empty when `self` is the whole owner."""
    cel: str
    """Empty where the schema itself says it: `x-kubernetes-list-map-keys` for names that must differ."""
    message: str
    find: Callable[[Any], Iterable[str]]
    """Paths, below the owner and as on the wire, of the values that break the rule. Empty text means the owner itself."""
    exit_code: ExitCode = ExitCode.CONFIG


def rule(owner: type[Owner], blame: str, cel: str, message: str, holds: Callable[[Owner], bool], *, at: str = "") -> Rule:
    """A rule about an object: `blame` is the path of the field that a user would change.

    With `at`, its CEL stands at that field and `self` is the field's value: it does not run where the field is absent, and it is cheaper,
    because each access to a field costs as much as its object has fields.
    """
    return Rule(owner, at, cel, message, lambda value: () if holds(value) else (blame,))


def field_rule(owner: type[Owner], field: str, cel: str, message: str, holds: Callable[[Owner], bool]) -> Rule:
    """A rule about one field: its CEL stands at the field."""
    return Rule(owner, field, cel, message, lambda value: () if holds(value) else (field,))


def item_rule(owner: type[Owner], field: str, cel: str, message: str, find: Callable[[Owner], Iterator[str]]) -> Rule:
    """A rule about a list field whose CEL stands at the list; `find` names the items."""
    return Rule(owner, field, cel, message, find)


def unique_rule(owner: type[Owner], field: str, message: str, items: Callable[[Owner], Iterable[object]]) -> Rule:
    """A rule that items of a list differ in their `name`: the second of two is to blame."""

    def find(value: Owner) -> Iterator[str]:
        seen: set[object] = set()
        for i, item in enumerate(items(value)):
            name = getattr(item, "name", None)  # None: the item is broken, which is a problem of its own
            if name is not None and name in seen:
                yield f"{field}[{i}].name"
            seen.add(name)

    return Rule(owner, field, "", message, find)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    # RE2's `$` is the end of the text; Python's would also match before a last newline.
    return re.compile(pattern.replace("$", r"\Z"))


def matches(text: str, pattern: str) -> bool:
    """CEL's `matches`: the pattern is found anywhere unless it is anchored."""
    return _compiled(pattern).search(text) is not None


def implies(condition: bool, conclusion: bool) -> bool:
    """False only when the condition is met and the conclusion is not. Both are evaluated: neither may depend on the other."""
    return conclusion or not condition
