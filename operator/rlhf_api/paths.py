"""Places in a document: `("spec", "stages", 2, "ppo")` inside, `spec.stages[2].ppo` for the user."""

import re
from collections.abc import Iterator, Mapping

from rlhf_api.base import ApiModel
from rlhf_api.fields import fields_by_alias, nested_fields

Location = tuple[int | str, ...]


class _Unset:
    """The value of a field that is not there."""

    def __repr__(self) -> str:
        return "(unset)"


UNSET = _Unset()


def as_text(location: Location) -> str:
    """The path as a user writes it."""
    text = "".join(f"[{token}]" if isinstance(token, int) else f".{token}" for token in location)
    return text.removeprefix(".")


def as_location(text: str) -> Location:
    """The place that a path names; the reverse of `as_text` for paths of the API."""
    return tuple(int(index) if index else name for index, name in re.findall(r"\[(\d+)\]|([^.\[\]]+)", text))


def lookup(wire: object, location: Location, instance: ApiModel | None = None) -> object:
    """What stands at a place: as typed, else the default that holds there, else `UNSET`."""
    found = wire
    for token in location:
        found = _step(found, token)
    return _default(instance, location) if found is UNSET and instance is not None else found


def _step(found: object, token: int | str) -> object:
    if isinstance(token, int):
        return found[token] if isinstance(found, list | tuple) and token < len(found) else UNSET
    return found.get(token, UNSET) if isinstance(found, Mapping) else UNSET


def _default(instance: ApiModel, location: Location) -> object:
    found: object = instance
    for token in location:
        if isinstance(token, str) and isinstance(found, ApiModel):
            name = fields_by_alias(type(found)).get(token, ("", None))[0]
            found = found.__dict__.get(name, UNSET)
        else:
            found = _step(found, token)
    return UNSET if found is None or isinstance(found, ApiModel) else found


def walk(instance: ApiModel, location: Location = ()) -> Iterator[tuple[Location, ApiModel]]:
    """The instance and everything in it with their places, outside first, in the order of the fields."""
    yield location, instance
    for alias, name, is_list in nested_fields(type(instance)):
        value = instance.__dict__.get(name)
        if value is None:
            continue
        for i, item in enumerate(value) if is_list else ((None, value),):
            if isinstance(item, ApiModel):
                yield from walk(item, (*location, alias) if i is None else (*location, alias, i))
