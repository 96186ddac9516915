"""From YAML nodes to plain values, as kubectl has them; what kubectl would read in another way is a slip, named with line and field.

kubectl reads YAML 1.1 and hands JSON to the API server. So `on` is a boolean there and text in YAML 1.2, `012` is ten there and twelve
here, and `1e6` becomes an integer on the way. Following either reading silently would give one file two meanings.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from rlhf_api.paths import Location, as_text

BOOLEANS_OF_YAML_1_1: Final = frozenset({"y", "n", "yes", "no", "on", "off"})
"""In lower case; kubectl also takes `Yes` and `YES`."""
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+\Z")
_LARGEST_WHOLE = 2**53
"""Up to here a float tells neighbouring integers apart."""
_LONGEST_SHOWN = 40

_TAG: Final = "tag:yaml.org,2002:"
_TEXT_TAGS = frozenset(_TAG + name for name in ("str", "timestamp", "value", "merge"))


class Slips(Exception):
    """What must be written in another way: `line:column: field: what and how`, all at once."""

    def __init__(self, slips: list[str]) -> None:
        super().__init__("\n".join(slips))
        self.slips = slips


class PlainValues(SafeConstructor):
    """The safe constructor, without what JSON does not have: dates are text, as for kubectl; sets and bytes are unknown tags."""

    def construct_document(self, node: Node) -> Any:
        """The value of a document.

        Raises:
            Slips: it would mean something else to kubectl.
        """
        if slips := list(_find_slips(node, (), {})):
            raise Slips(slips)
        return super().construct_document(node)

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """The value of a node. One that its tag does not allow, be it written (`!!int x`) or guessed (`0x_`), is an error with a line."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, IndexError) as error:
            kind = str(node.tag).rpartition(":")[2]
            raise ConstructorError(None, None, f"{_shown(node)} is not a valid {kind}", node.start_mark) from error

    def construct_yaml_float(self, node: Node) -> float:
        """A number; a whole one is an integer, which it is for the API server too."""
        value = super().construct_yaml_float(node)
        return int(value) if value.is_integer() and abs(value) < _LARGEST_WHOLE else float(value)


for _name in ("timestamp", "value"):
    PlainValues.add_constructor(_TAG + _name, SafeConstructor.construct_yaml_str)
PlainValues.add_constructor(_TAG + "float", PlainValues.construct_yaml_float)
for _name in ("binary", "set", "omap", "pairs"):
    PlainValues.add_constructor(_TAG + _name, SafeConstructor.construct_undefined)


def _find_slips(node: Node, location: Location, is_done: dict[int, bool]) -> Iterator[str]:
    """The slips at and below a node. What aliases repeat is looked at once; `is_done` is False for the nodes around this one."""
    if id(node) in is_done:
        if not is_done[id(node)]:
            yield f"{_place(node)}: {as_text(location)}: an anchor contains itself: write out what it means"
        return
    is_done[id(node)] = False
    if isinstance(node, MappingNode):
        for key, value in node.value:
            yield from _slips_of_key(key, location)
            yield from _find_slips(value, (*location, str(key.value)), is_done)
    elif isinstance(node, SequenceNode):
        for i, item in enumerate(node.value):
            yield from _find_slips(item, (*location, i), is_done)
    elif fix := _fix_of(node):
        yield f"{_place(node)}: {as_text(location) or 'document'}: {_shown(node)} {fix}"
    is_done[id(node)] = True


def _slips_of_key(key: Node, location: Location) -> Iterator[str]:
    where = f"{as_text(location)}: " if location else ""
    if not isinstance(key, ScalarNode) or key.tag not in _TEXT_TAGS:
        comma = "" if key.tag != f"{_TAG}int" else ", or write a decimal point if it belongs to a number"
        yield f"{_place(key)}: {where}the key {_shown(key)} must be text: quote it{comma}"
    elif fix := _fix_of(key):
        yield f"{_place(key)}: {where}the key {_shown(key)} {fix}"


def _fix_of(node: Node) -> str:
    """What is wrong with a scalar without quotes; empty when kubectl reads it as we do."""
    if not isinstance(node, ScalarNode) or node.style is not None:
        return ""
    if node.value.lower() in BOOLEANS_OF_YAML_1_1:
        return "is a boolean for kubectl: quote it, or write true or false"
    if _LEADING_ZERO.match(node.value):
        return f"begins with 0, which kubectl reads in base 8: write {node.value.lstrip('+-0_') or '0'}, or quote it if it is text"
    return ""


def _place(node: Node) -> str:
    return f"{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _shown(node: Node) -> str:
    if not isinstance(node, ScalarNode):
        return "that is a list or a map"
    return node.value if len(node.value) <= _LONGEST_SHOWN else f"{node.value[:_LONGEST_SHOWN]}…"
