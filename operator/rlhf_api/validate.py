"""Every problem of a job or profile at once: the path as the user typed it, the value, the rule and the fix.

A wire document flows in, as YAML or the API server gives it; problems flow out, or the parsed model. Types and bounds are checked
first, then the rules of `rules/` on whatever could be read. The API server runs the same rules as CEL with the same words.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import ValidationError

from rlhf_api import names
from rlhf_api.base import ApiModel
from rlhf_api.changes import find_change_problems
from rlhf_api.job import RLHFJob
from rlhf_api.paths import UNSET, Location, as_location, as_text, lookup, walk
from rlhf_api.planning.steps import find_indivisible
from rlhf_api.problems import InvalidDocument, InvalidJob, InvalidProfile, Problem, exit_code_of
from rlhf_api.profile import ClusterRLHFProfile
from rlhf_api.rules.base import Rule
from rlhf_api.salvage import salvage
from rlhf_api.schema_errors import unknown_name, words_for
from rlhf_api.unsupported import find_unsupported

__all__ = [
    "UNSET", "InvalidDocument", "InvalidJob", "InvalidProfile", "Problem", "exit_code_of", "find_change_problems", "find_problems",
    "find_profile_problems", "find_unsupported", "parse_job", "parse_profile", "read_job",
]  # fmt: skip

M = TypeVar("M", bound=ApiModel)
SchemaError = tuple[Location, Mapping[str, Any]]


def find_problems(wire: object) -> list[Problem]:
    """All problems of a job document, in the order of its fields. Never raises, whatever the document holds."""
    job, problems = _examine(RLHFJob, names.KIND_JOB, wire)
    return [*_find_unknown_metadata(wire), *problems, *(_find_unknown_builtins(job) if job is not None else ())]


def read_job(wire: object) -> tuple[RLHFJob | None, list[Problem]]:
    """The job of a document, or all its problems. Never raises, whatever the document holds."""
    job, problems = _examine(RLHFJob, names.KIND_JOB, wire)
    return (None if problems else job), problems


def find_profile_problems(wire: object) -> list[Problem]:
    """All problems of a ClusterRLHFProfile document. Never raises."""
    return [*_find_unknown_metadata(wire), *_examine(ClusterRLHFProfile, names.KIND_PROFILE, wire)[1]]


def parse_job(wire: object) -> RLHFJob:
    """The job of a document.

    Raises:
        InvalidJob: with all its problems.
    """
    job, problems = read_job(wire)
    if job is None:
        raise InvalidJob(problems)
    return job


def parse_profile(wire: object) -> ClusterRLHFProfile:
    """The profile of a document.

    Raises:
        InvalidProfile: with all its problems.
    """
    profile, problems = _examine(ClusterRLHFProfile, names.KIND_PROFILE, wire)
    if problems or profile is None:
        raise InvalidProfile(problems)
    return profile


def _examine(model: type[M], kind: str, wire: object) -> tuple[M | None, list[Problem]]:
    """What could be read of a document, and all its problems."""
    if not isinstance(wire, Mapping):
        return None, [Problem("", wire, f"must be a mapping: apiVersion: {names.API_VERSION}, kind: {kind}, metadata, spec")]
    instance, errors = _read(model, wire)
    found = [*_find_missing_kind(wire, kind), *_find_schema_problems(model, wire, errors)]
    found += [problem for problem in _find_rule_problems(instance, wire) if problem not in found]
    if isinstance(instance, RLHFJob) and not errors:
        batches = list(find_indivisible(instance.spec))
        # A rule has the words of the API server, which cannot count. Where ours say the same with numbers, they stand alone.
        found = [problem for problem in found if not any(_says_more(batch, problem) for batch in batches)] + batches
    return instance, found


def _says_more(ours: Problem, theirs: Problem) -> bool:
    return ours.path == theirs.path and ours.rule.startswith(theirs.rule)


def _find_unknown_metadata(wire: object) -> Iterator[Problem]:
    """Slips of a user. What an API server stored is not asked: a newer one may have fields that nobody knows here."""
    metadata = wire.get("metadata") if isinstance(wire, Mapping) else None
    for name, value in metadata.items() if isinstance(metadata, Mapping) else ():
        if name not in names.METADATA_FIELDS:
            yield Problem(f"metadata.{name}", value, f"is not a field{unknown_name(str(name), names.METADATA_FIELDS)}")


def _find_unknown_builtins(instance: ApiModel) -> Iterator[Problem]:
    """Slips of a user, as above: the trainer of a profile may be newer than this program, and make more."""
    for location, part in walk(instance):
        uri = part.__dict__.get("uri")
        scheme, _, path = uri.partition("://") if isinstance(uri, str) else ("", "", "")
        kind, _, name = path.partition("/")
        if scheme == "builtin" and kind in names.BUILTINS and name not in names.BUILTINS[kind]:
            yield Problem(as_text((*location, "uri")), uri, f"does not exist{unknown_name(name, names.BUILTINS[kind])}")


def _find_missing_kind(wire: Mapping[Any, Any], kind: str) -> Iterator[Problem]:
    for name, value in (("apiVersion", names.API_VERSION), ("kind", kind)):
        if name not in wire:
            yield Problem(name, UNSET, f"is required: write {name}: {value}")


def _read(model: type[M], wire: Mapping[Any, Any]) -> tuple[M, list[SchemaError]]:
    """The parsed document, or what could be read of it and why the rest could not."""
    try:
        return model.from_wire(wire), []
    except ValidationError as error:
        errors = _without_echoes([(_place(details), details) for details in error.errors(include_url=False)])
        return salvage(model, wire, {location for location, _ in errors}), errors


def _without_echoes(errors: list[SchemaError]) -> list[SchemaError]:
    """Without lists that are too short only because pydantic dropped the broken items and counted the rest; each item has its own error."""

    def has_broken_items(location: Location) -> bool:
        return any(len(other) > len(location) and other[: len(location)] == location for other, _ in errors)

    return [(location, details) for location, details in errors if details["type"] != "too_short" or not has_broken_items(location)]


def _place(details: Mapping[str, Any]) -> Location:
    """Where an error is. A key that is a number, which YAML allows, is a name here and not a position in a list."""
    location: Location = details["loc"]
    return (*location[:-1], str(location[-1])) if details["type"] == "invalid_key" else location


def _find_schema_problems(model: type[ApiModel], wire: Mapping[Any, Any], errors: Iterable[SchemaError]) -> Iterator[Problem]:
    for location, details in errors:
        yield Problem(as_text(location), lookup(wire, location), words_for(model, location, details))


def _find_rule_problems(instance: ApiModel, wire: Mapping[Any, Any]) -> Iterator[Problem]:
    for location, part in walk(instance):
        for rule in _rules_for(type(part)):
            for broken in _broken_paths(rule, part):
                place = (*location, *as_location(broken))
                yield Problem(as_text(place), lookup(wire, place, instance), rule.message, rule.exit_code)


@cache
def _rules_for(model: type[ApiModel]) -> tuple[Rule, ...]:
    from rlhf_api.rules import inputs, job, profile, stages  # after the models: the rules name them

    every = (*job.RULES, *stages.RULES, *inputs.RULES, *profile.RULES)
    return tuple(rule for rule in every if issubclass(model, rule.owner))


def _broken_paths(rule: Rule, part: ApiModel) -> list[str]:
    try:
        return list(rule.find(part))
    except AttributeError:  # the rule needs a field that is itself broken, and reported
        return []
