"""A YAML writer for plain documents: block style, keys in the order given, the same bytes every time.

Written here because the contract imports pydantic and the standard library only, and because a diff of `crds/` is read by people.
"""

import json
import re
from collections.abc import Iterator, Mapping

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*(?: [A-Za-z0-9_./-]+)*\Z")
_RESERVED = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def dump(*documents: Mapping[str, object]) -> str:
    """The documents as YAML, divided by `---`. Both YAML 1.1 and 1.2 readers see the same values."""
    return "---\n".join("\n".join(_block(document, 0)) + "\n" for document in documents)


def _block(value: object, indent: int) -> Iterator[str]:
    pad = " " * indent
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _entry(f"{pad}{_scalar(str(key))}:", item, indent + 2)
    elif isinstance(value, list | tuple):
        for item in value:
            first, *rest = _block(item, indent + 2) if _is_block(item) else (f"{pad}  {_inline(item)}",)
            yield f"{pad}- {first[indent + 2 :]}"
            yield from rest


def _entry(key: str, item: object, indent: int) -> Iterator[str]:
    if not _is_block(item):
        yield f"{key} {_inline(item)}"
        return
    yield key
    # Items of a list stand below their key without indentation, as kubectl prints them.
    yield from _block(item, indent - 2 if isinstance(item, list | tuple) else indent)


def _is_block(value: object) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value)


def _inline(value: object) -> str:
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_scalar(item) for item in value)}]"
    return _scalar(value)


def _scalar(value: object) -> str:
    if isinstance(value, str) and _PLAIN.match(value) and value.lower() not in _RESERVED:
        return str(value)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)  # every JSON scalar is YAML
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    return character if character.isprintable() else f"\\U{ord(character):08x}"
