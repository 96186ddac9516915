"""Places in a document, as text and back, and the words for what a field may hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_api.fields import range_words, type_words
from rlhf_api.job import RLHFJob
from rlhf_api.paths import UNSET, as_location, as_text, lookup
from tests.support.manifests import hello_rlhf


@given(st.lists(st.integers(0, 99) | st.from_regex(r"[a-zA-Z]\w*", fullmatch=True), min_size=1))
def test_a_path_names_its_place(tokens: list[int | str]) -> None:
    assert as_location(as_text(tuple(tokens))) == tuple(tokens)


def test_paths_read_as_users_write_them() -> None:
    assert as_text(("spec", "stages", 2, "ppo", "clip")) == "spec.stages[2].ppo.clip"
    assert as_location("spec.stages[2].ppo.clip") == ("spec", "stages", 2, "ppo", "clip")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("spec.stages[2].ppo.steps", 3),
        ("spec.stages[2].ppo.clip", 0.2),
        ("spec.stages[2].ppo.kl.target", UNSET),
        ("spec.stages[9].ppo", UNSET),
        ("spec.queueName.x", UNSET),
        ("spec.checkpoint", UNSET),
    ],
)
def test_lookup_finds_what_is_typed_or_its_default(path: str, expected: object) -> None:
    wire = hello_rlhf()
    assert lookup(wire, as_location(path), RLHFJob.from_wire(wire)) == expected


def test_lookup_without_defaults() -> None:
    assert lookup(hello_rlhf(), as_location("spec.stages[2].ppo.clip")) is UNSET


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 100}, "an integer, 1 to 100"),
        ({"type": "integer", "minimum": 1}, "an integer, at least 1"),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 10.5}, "a number, above 0, up to 10.5"),
        ({"type": "number", "minimum": 0, "maximum": 1, "exclusiveMaximum": True}, "a number, 0 to below 1"),
        ({"type": "string", "maxLength": 63}, "text, at most 63 characters"),
        ({"type": "string", "enum": ["a", "b"]}, "one of a, b"),
        ({"type": "array", "maxItems": 9}, "a list, at most 9 items"),
        ({"type": "object", "maxProperties": 16}, "a map, at most 16 entries"),
        ({"type": "boolean"}, "true or false"),
    ],
)
def test_words_for_bounds(schema: dict[str, object], words: str) -> None:
    assert type_words(schema) == words


def test_no_bounds_no_words() -> None:
    assert range_words({"type": "boolean"}) == ""
