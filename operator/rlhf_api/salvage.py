"""Read as much of a broken document as can be read, so that one wrong field does not hide the next problem.

A wire document and the places of its schema errors flow in; out comes an instance of the model in which exactly the broken parts are
missing as attributes. A rule that touches one of them raises AttributeError and is left unanswered: that field has its own problem.
"""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar, cast

from rlhf_api.base import ApiModel
from rlhf_api.fields import nested_model
from rlhf_api.paths import Location

Model = TypeVar("Model", bound=ApiModel)


def salvage(model: type[Model], wire: object, broken: Collection[Location], here: Location = ()) -> Model:
    """The model of a document whose schema errors lie at `broken`. Never raises; what is broken is not there.

    Leaves come as they stand on the wire: checks compare them with `==`, and a text equals its StrEnum.
    """
    if not isinstance(wire, Mapping):
        return _construct(model, {}, model.model_fields)
    values: dict[str, Any] = {}
    unreadable: list[str] = []
    for name, field in model.model_fields.items():
        alias = str(field.alias or name)
        place = (*here, alias)
        if _is_readable(place, alias, wire, broken, is_required=field.is_required()):
            if alias in wire:
                values[name] = _salvage_value(field.annotation, wire[alias], broken, place)
        else:
            unreadable.append(name)
    return _construct(model, values, unreadable)


def _is_readable(place: Location, alias: str, wire: Mapping[str, Any], broken: Collection[Location], *, is_required: bool) -> bool:
    return place not in broken and (alias in wire or not is_required)


def _salvage_value(annotation: Any, value: object, broken: Collection[Location], place: Location) -> Any:
    inner, is_list = nested_model(annotation)
    if value is None:
        return None
    if is_list and isinstance(value, list | tuple):
        return tuple(
            item if inner is None else salvage(inner, item, broken, (*place, i))
            for i, item in enumerate(value)
            if inner is not None or (*place, i) not in broken
        )
    return value if inner is None else salvage(inner, value, broken, place)


def _construct(model: type[Model], values: Mapping[str, Any], unreadable: Collection[str]) -> Model:
    """An unchecked instance with defaults for what is unset, but without attributes for what is unreadable."""
    instance = cast(Model, model.model_construct(**values))
    for name in unreadable:
        instance.__dict__.pop(name, None)
    return instance
