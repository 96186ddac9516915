"""Faults that tests inject: errors of the API server by verb and kind.

`MemoryApi` asks before and after each call. Nothing here does anything unless a test says so.
"""

from dataclasses import dataclass, field

from rlhf_operator.shell.kube import ApiError


@dataclass(slots=True)
class _Rule:
    verb: str
    kind: str
    error: ApiError
    nth: int
    every: bool
    applied: bool
    seen: int = 0

    def fires(self, verb: str, kind: str, applied: bool) -> bool:
        if self.applied != applied or self.verb not in (verb, "*") or self.kind not in (kind, "*"):
            return False
        self.seen += 1
        return self.every or self.seen == self.nth


@dataclass(slots=True)
class Faults:
    """What goes wrong next. Rules are independent; the first that fires wins."""

    _rules: list[_Rule] = field(default_factory=list)
    frozen: bool = False
    """While true every call times out, as when the API server is away."""

    def fail(self, verb: str, kind: str, error: ApiError, *, nth: int = 1, every: bool = False, applied: bool = False) -> None:
        """Let the `nth` (or every) call of (verb, kind) fail; "*" is any. `applied`: it takes effect and only the answer is lost."""
        self._rules.append(_Rule(verb, kind, error, nth, every, applied))

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._rules.clear()
        self.frozen = False

    def check(self, verb: str, kind: str, *, applied: bool = False) -> None:
        """Raise what was planned for this call, if anything was."""
        for rule in self._rules:
            if rule.fires(verb, kind, applied):
                raise rule.error
