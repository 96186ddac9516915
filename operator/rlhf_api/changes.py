"""Which changes of a job are refused: immutable fields, and changes at the wrong time."""

from collections.abc import Iterator

from rlhf_api.fields import fields_by_alias
from rlhf_api.job import RLHFJob
from rlhf_api.paths import as_location, lookup
from rlhf_api.problems import Problem
from rlhf_api.rules.changes import CHANGE_RULES, IMMUTABLE_FIELDS, immutable_message


def find_change_problems(old: RLHFJob, new: RLHFJob) -> list[Problem]:
    """All problems of replacing `old`, whose status counts, by `new`. Both are valid in themselves."""
    return [*_find_changed_immutables(old, new), *_find_untimely_changes(old, new)]


def _find_changed_immutables(old: RLHFJob, new: RLHFJob) -> Iterator[Problem]:
    fields = fields_by_alias(type(new.spec))
    for alias in IMMUTABLE_FIELDS:
        name = fields[alias][0]
        if getattr(old.spec, name) != getattr(new.spec, name):
            yield Problem(f"spec.{alias}", _value(new, f"spec.{alias}"), immutable_message(alias))


def _find_untimely_changes(old: RLHFJob, new: RLHFJob) -> Iterator[Problem]:
    for rule in CHANGE_RULES:
        for path in rule.find(old, new):
            yield Problem(path, _value(new, path), rule.message)


def _value(job: RLHFJob, path: str) -> object:
    return lookup(job.to_wire(), as_location(path))
