"""`python -m rlhf_api.crd.manual`: every field of a job and of a profile as Markdown, for readers without a cluster (docs/fields.md).

The same models give `kubectl explain` its words. A type that stands in several places is described once, where it first appears.
"""

from collections.abc import Iterator

from pydantic.fields import FieldInfo

from rlhf_api import names
from rlhf_api.base import ApiModel
from rlhf_api.crd.schema import RULES, default_words
from rlhf_api.fields import alias_of, fields_by_alias, leaf_schema, nested_fields, nested_model, range_words, type_words
from rlhf_api.job import ObjectMeta, RLHFJobSpec
from rlhf_api.profile import ProfileSpec

_HEAD = """\
# Every field
Generated from operator/rlhf_api by `make golden`: change the models there. On a cluster: `kubectl explain rlhfjob.spec --recursive`.
"""


def manual() -> str:
    """The text of docs/fields.md."""
    name = type_words(leaf_schema(ObjectMeta, alias_of(ObjectMeta, "name")))
    job = f"\n## {names.KIND_JOB}\n`apiVersion: {names.API_VERSION}`, `kind: {names.KIND_JOB}`, `metadata.name`: {name}.\n"
    profile = f"\n## {names.KIND_PROFILE}\n`apiVersion: {names.API_VERSION}`, `kind: {names.KIND_PROFILE}`, `metadata.name`.\n"
    parts = [_HEAD, job, *_sections(RLHFJobSpec), profile, *_sections(ProfileSpec)]
    return "".join(parts)


def _sections(spec: type[ApiModel]) -> Iterator[str]:
    places: dict[type[ApiModel], list[str]] = {}
    for path, model in _walk(spec, "spec"):
        places.setdefault(model, []).append(path)
    for model, paths in places.items():
        yield "\n".join((f"\n### {_title(model)}", _intro(model, paths), "", *_table(model), *_rules(model), ""))


def _walk(model: type[ApiModel], path: str) -> Iterator[tuple[str, type[ApiModel]]]:
    yield path, model
    for alias, name, is_list in nested_fields(model):
        inner = nested_model(model.model_fields[name].annotation)[0]
        assert inner is not None
        yield from _walk(inner, f"{path}.{alias}[]" if is_list else f"{path}.{alias}")


def _title(model: type[ApiModel]) -> str:
    return "spec" if model is RLHFJobSpec else "spec of a profile" if model is ProfileSpec else model.__name__


def _intro(model: type[ApiModel], paths: list[str]) -> str:
    meaning = (model.__doc__ or "").strip().partition("\n")[0]
    return meaning if paths == ["spec"] else f"{meaning} At {', '.join(f'`{path}`' for path in paths)}."


def _table(model: type[ApiModel]) -> Iterator[str]:
    yield "| field | type, range | default | meaning |"
    yield "|---|---|---|---|"
    for alias, (_, field) in fields_by_alias(model).items():
        cells = (f"`{alias}`", _type(model, alias, field), default_words(field), field.description or "")
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _type(model: type[ApiModel], alias: str, field: FieldInfo) -> str:
    inner, is_list = nested_model(field.annotation)
    leaf = leaf_schema(model, alias)
    if inner is None:
        return type_words(leaf)
    title = _title(inner)
    link = f"[{title}](#{title.lower()})"
    return f"list of {link}, {range_words(leaf)}" if is_list else link


def _rules(model: type[ApiModel]) -> Iterator[str]:
    rules = [rule.message for rule in RULES if issubclass(model, rule.owner) and rule.cel]  # without CEL: names differ, which is no news
    if rules:
        yield ""
        yield from (f"- {message}" for message in rules)


if __name__ == "__main__":
    print(manual(), end="")
