"""Job files: YAML (or JSON) text in, the plain values that `rlhf_api.validate` judges out.

A file means here what it means to kubectl. Numbers follow YAML 1.2 (`2e-5` is one) and a whole one is an integer (`1e6`, `8.0`); dates are
text. What kubectl reads in another way (`yes`, `012`: `yaml_values.py`), and what YAML can say and an RLHFJob cannot hold (a second
document, a repeated key, a key that is no text), is refused with file and line, never repaired.
"""

import sys
import warnings
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from rlhf_api.outcome import ExitCode
from rlhf_cli.errors import CommandError
from rlhf_cli.yaml_values import PlainValues, Slips

MAX_BYTES = 1 << 20
"""No API server stores a larger object (etcd's limit is 1.5 MiB). A data file given by mistake is not parsed as YAML."""


def read_object(file: Path, what: str = "job file") -> dict[str, Any]:
    """The one object in `file`; `-` is standard input.

    Raises:
        CommandError: 64, when the file cannot be read or holds anything but one YAML mapping with text keys.
    """
    name = "standard input" if str(file) == "-" else str(file)
    return parse_text(name, _read(file, name, what), what)


def parse_text(name: str, text: str, what: str = "job file") -> dict[str, Any]:
    """The one object in `text`; messages call it `name`.

    Raises:
        CommandError: 64, when it holds anything but one YAML mapping with text keys.
    """
    try:
        documents = [document for document in _parse(name, text) if document is not None]
    except RecursionError as error:
        raise CommandError(ExitCode.CONFIG, f"{name}: is nested too deeply") from error
    if len(documents) != 1:
        found = f"{len(documents)} documents" if documents else "nothing"
        raise CommandError(ExitCode.CONFIG, f"{name}: holds {found}; a {what} is exactly one object: give one file to each")
    if not isinstance(documents[0], dict):
        kind = "a list" if isinstance(documents[0], list) else type(documents[0]).__name__
        raise CommandError(ExitCode.CONFIG, f"{name}: holds {kind}; a {what} is a mapping that starts with apiVersion and kind")
    return cast(dict[str, Any], documents[0])


def _read(file: Path, name: str, what: str) -> str:
    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1) if str(file) == "-" else _first_bytes(file)
    except OSError as error:
        raise CommandError(
            ExitCode.CONFIG, f"{name}: cannot be read ({error.strerror}): name the {what}, or - for standard input"
        ) from error
    if len(data) > MAX_BYTES:
        raise CommandError(ExitCode.CONFIG, f"{name}: is larger than {MAX_BYTES} bytes; a {what} is small: is this a data file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(ExitCode.CONFIG, f"{name}: byte {error.start} is not UTF-8; save the {what} as UTF-8 text") from error


def _first_bytes(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _parse(name: str, text: str) -> list[object]:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = PlainValues
    try:
        with warnings.catch_warnings(action="ignore"):  # an anchor may be set again, as far as YAML goes
            return list(yaml.load_all(text))
    except Slips as error:
        raise CommandError(ExitCode.CONFIG, *(f"{name}:{slip}" for slip in error.slips)) from error
    except MarkedYAMLError as error:
        raise CommandError(ExitCode.CONFIG, _explain(name, error)) from error
    except YAMLError as error:
        raise CommandError(ExitCode.CONFIG, f"{name}: {str(error).splitlines()[0]}") from error


def _explain(name: str, error: MarkedYAMLError) -> str:
    """`file:line:column: what`, one line. The hint fits the two mistakes that people make: tabs and a missing quote."""
    mark = error.problem_mark or error.context_mark
    place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    problem = error.problem or error.context or "is not YAML"
    if "\\t" in problem or "\t" in problem:
        return f"{place}: a tab cannot indent YAML: use spaces"
    if "duplicate key" in problem:
        return f"{place}: {problem.split(' with value')[0]}; each key may stand once: remove one of them"
    context = f" ({error.context})" if error.context and error.problem else ""
    return f"{place}: {problem}{context}; check indentation, brackets and quotes near this line"
