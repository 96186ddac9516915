"""Strict parsing of a user's rows (rule D1): JSON objects in, `Example`s out, or every problem with its file and row.

`format: auto` decides on the first row and then holds every row to it. Fields that no format knows are ignored: real data carries
scores, dates and licences beside the text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from rlhf_trainer.data.rows import Purpose
from rlhf_trainer.errors import DataError

Format: TypeAlias = Literal["instruction", "alpaca", "messages", "preference", "prompts"]
MAX_REPORTED = 20
ROLES = ("system", "user", "assistant")
_ROLE_SYNONYMS = {"human": "user", "gpt": "assistant"}
_FITTING: Mapping[Purpose, tuple[Format, ...]] = {
    "conversations": ("instruction", "alpaca", "messages"),
    "preference": ("preference",),
    "prompts": ("prompts", "instruction", "alpaca", "messages"),
}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class RawRow:
    """A JSON value and where it stands."""

    file: str
    row: int
    """Counted from 1; the line number of a `.jsonl` file."""
    value: Any


@dataclass(frozen=True, slots=True)
class Example:
    """One parsed row, before rendering."""

    row_id: str
    messages: tuple[Message, ...]
    """The whole conversation; for `preference` and `prompts` the prompt, which does not end with the assistant."""
    chosen: str | None = None
    rejected: str | None = None
    answer: str | None = None
    source: str = ""
    margin: float | None = None
    place: str = ""
    """`file:row`, for messages about it."""


class RowProblem(ValueError):
    """One field of one row is wrong: `field`, the value, the rule and the fix in one sentence."""


def parse(rows: Iterable[RawRow], purpose: Purpose, declared: str = "auto") -> Iterator[Example]:
    """The examples of a dataset, in order.

    Raises:
        DataError: rows are malformed (at most 20 are named), or the format does not serve this purpose.
    """
    problems: list[str] = []
    found: Format | None = None
    for row in rows:
        try:
            found = found or _format_of(row.value, declared, purpose)
            example = _parse_row(row, found, purpose)
        except RowProblem as problem:
            problems.append(f"{row.file}:{row.row}: {problem}")
            if len(problems) > MAX_REPORTED:
                break
            continue
        if not problems:
            yield replace(example, place=f"{row.file}:{row.row}")
    if problems:
        more = [f"and more: only the first {MAX_REPORTED} are shown"] if len(problems) > MAX_REPORTED else []
        raise DataError("\n".join([*problems[:MAX_REPORTED], *more]))


def without_last_answer(turns: Sequence[Message]) -> tuple[Message, ...]:
    """What a model is asked: the conversation without the assistant's turn at its end. Earlier answers belong to the question.

    Not for the prompt of a `preference` or `prompts` row: theirs has lost that turn already.
    """
    return tuple(turns[:-1] if turns and turns[-1].role == "assistant" else turns)


def canonical_id(value: Mapping[str, Any]) -> str:
    """The id of a row that names none: sha256 of its canonical JSON. Equal rows have equal ids."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def detect(value: Any) -> Format:
    """The format of a first row, by its field names.

    Raises:
        RowProblem: no format has these fields.
    """
    fields = set(_object(value))
    if {"chosen", "rejected"} & fields:
        return "preference"
    if {"messages", "conversations"} & fields:
        return "messages"
    if "instruction" in fields:
        return "instruction"
    if "prompt" in fields:
        return "prompts"
    shown = ", ".join(sorted(map(str, fields))) or "none"
    raise RowProblem(
        f"fields {shown}: must be those of one format: instruction {{instruction, output}}, messages {{messages}}, "
        "preference {prompt, chosen, rejected} or prompts {prompt}: rename them"
    )


def _format_of(value: Any, declared: str, purpose: Purpose) -> Format:
    if isinstance(value, Malformed):
        raise RowProblem(value.problem)
    found: Format = detect(value) if declared == "auto" else declared  # type: ignore[assignment]  # the API lists the same names
    if found not in _FITTING[purpose]:
        raise RowProblem(f"format {found!r} must be one of {', '.join(_FITTING[purpose])} for {purpose}: name another dataset")
    return found


@dataclass(frozen=True, slots=True)
class Malformed:
    """Stands for a line that is not JSON, so that it is reported together with the other problems."""

    problem: str


def _parse_row(row: RawRow, row_format: Format, purpose: Purpose) -> Example:
    if isinstance(row.value, Malformed):
        raise RowProblem(row.value.problem)
    value = _object(row.value)
    example = _PARSERS[row_format](value, _row_id(value), row)
    if purpose == "prompts":
        return Example(example.row_id, _question(example.messages), answer=example.answer)
    return example


def _instruction(value: Mapping[str, Any], row_id: str, row: RawRow) -> Example:
    extra = _text(value, "input", default="")
    instruction = _filled(value, "instruction") + (f"\n{extra}" if extra else "")
    turns = (Message("user", instruction), Message("assistant", _text(value, "output")))
    return Example(row_id, turns, answer=_answer(value))


def _messages(value: Mapping[str, Any], row_id: str, row: RawRow) -> Example:
    return Example(row_id, _turns(value), answer=_answer(value))


def _prompt(value: Mapping[str, Any], row_id: str, row: RawRow) -> Example:
    return Example(row_id, _asked_turns(value), answer=_answer(value))


def _preference(value: Mapping[str, Any], row_id: str, row: RawRow) -> Example:
    chosen, rejected = _text(value, "chosen"), _text(value, "rejected")
    margin = value.get("margin")
    if margin is not None and (isinstance(margin, bool) or not isinstance(margin, int | float)):
        raise RowProblem(f"margin: {_shown(margin)} must be a number: remove it or write 0.5")
    stem = row.file.rsplit("/", 1)[-1].split(".", 1)[0]
    source = _text(value, "source", default=stem)
    prompt = _question(_asked_turns(value))
    return Example(row_id, prompt, chosen, rejected, _answer(value), source, None if margin is None else float(margin))


_PARSERS: Mapping[Format, Callable[[Mapping[str, Any], str, RawRow], Example]] = {
    "instruction": _instruction,
    "alpaca": _instruction,
    "messages": _messages,
    "preference": _preference,
    "prompts": _prompt,
}


def _asked_turns(value: Mapping[str, Any]) -> tuple[Message, ...]:
    """`prompt` as text, or `messages` as they are."""
    if "prompt" in value and isinstance(value["prompt"], str):
        return (Message("user", _filled(value, "prompt")),)
    if "prompt" in value:
        raise RowProblem(f"prompt: {_shown(value['prompt'])} must be text: write a conversation as messages")
    return _turns(value)


def _question(turns: Sequence[Message]) -> tuple[Message, ...]:
    question = without_last_answer(turns)
    if not question:
        raise RowProblem("messages: must have a turn before the assistant's: add the user's question")
    return question


def _turns(value: Mapping[str, Any]) -> tuple[Message, ...]:
    name = "messages" if "messages" in value else "conversations"
    if name not in value:
        raise RowProblem("messages: missing: add it, or prompt")
    turns = value[name]
    if not isinstance(turns, list) or not turns:
        raise RowProblem(f'{name}: {_shown(turns)} must be a list of at least one {{"role", "content"}}')
    return tuple(_turn(f"{name}[{i}]", turn) for i, turn in enumerate(turns))


def _turn(path: str, turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise RowProblem(f'{path}: {_shown(turn)} must be an object {{"role", "content"}}')
    role = _first_of(path, turn, "role", "from")
    content = _first_of(path, turn, "content", "value")
    known = _ROLE_SYNONYMS.get(role, role)
    if known not in ROLES:
        raise RowProblem(f"{path}.role: {_shown(role)} must be one of {', '.join(ROLES)} (or human, gpt): rename it")
    return Message(known, content)


def _first_of(path: str, turn: Mapping[str, Any], name: str, synonym: str) -> str:
    chosen = name if name in turn else synonym
    if chosen not in turn:
        raise RowProblem(f"{path}.{name}: missing: add it")
    return _checked(f"{path}.{chosen}", turn[chosen])


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RowProblem(f"{_shown(value)} must be a JSON object: one row is one {{…}}")
    return value


def _row_id(value: Mapping[str, Any]) -> str:
    given = value.get("id")
    if given is None:
        return canonical_id(value)
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise RowProblem(f"id: {_shown(given)} must be text or a whole number: remove it or rename it")
    return str(given)


def _answer(value: Mapping[str, Any]) -> str | None:
    return None if value.get("answer") is None else _text(value, "answer")


def _filled(value: Mapping[str, Any], name: str) -> str:
    text = _text(value, name)
    if not text.strip():
        raise RowProblem(f"{name}: {_shown(text)} must not be empty: remove the row")
    return text


def _text(value: Mapping[str, Any], name: str, default: str | None = None) -> str:
    if value.get(name) is None and default is not None:
        return default
    if name not in value:
        raise RowProblem(f"{name}: missing: add it")
    return _checked(name, value[name])


def _checked(path: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RowProblem(f"{path}: {_shown(value)} must be text: put it in quotes")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowProblem(f"{path}: has half a surrogate pair at character {error.start}: write the character itself") from error
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
