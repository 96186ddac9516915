"""Rule D1: every format, strictly; problems name file, row, field, value, rule and fix."""

from typing import Any

import pytest

from rlhf_trainer.data.formats import MAX_REPORTED, Example, Malformed, Message, RawRow, canonical_id, parse
from rlhf_trainer.data.rows import Purpose
from rlhf_trainer.errors import DataError

USER, ASSISTANT = Message("user", "q"), Message("assistant", "a")
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def examples(*values: Any, purpose: Purpose = "conversations", declared: str = "auto") -> list[Example]:
    return list(parse((RawRow("chat.jsonl", i, value) for i, value in enumerate(values, start=1)), purpose, declared))


def problem(*values: Any, purpose: Purpose = "conversations", declared: str = "auto") -> str:
    with pytest.raises(DataError) as caught:
        examples(*values, purpose=purpose, declared=declared)
    return caught.value.message


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        pytest.param({"instruction": "q", "output": "a"}, (USER, ASSISTANT), id="instruction"),
        pytest.param(
            {"instruction": "q", "input": "x", "output": "a"}, (Message("user", "q\nx"), ASSISTANT), id="input joins on a new line"
        ),
        pytest.param({"instruction": "q", "input": "", "output": "a"}, (USER, ASSISTANT), id="an empty input adds nothing"),
        pytest.param(
            {"instruction": "q", "input": None, "output": ""}, (USER, Message("assistant", "")), id="an empty answer is an answer"
        ),
        pytest.param({"messages": TURNS}, (USER, ASSISTANT), id="messages"),
        pytest.param(
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            (USER, ASSISTANT),
            id="the names of ShareGPT",
        ),
        pytest.param(
            {"messages": [{"role": "system", "content": "s"}, *TURNS, *TURNS]},
            (Message("system", "s"), USER, ASSISTANT, USER, ASSISTANT),
            id="a system turn and two rounds",
        ),
        pytest.param({"instruction": "q", "output": "a", "score": 3, "licence": None}, (USER, ASSISTANT), id="unknown fields are ignored"),
    ],
)
def test_conversations(row: dict[str, Any], messages: tuple[Message, ...]) -> None:
    assert examples(row)[0].messages == messages


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"prompt": "q", "answer": "7"}, id="prompt"),
        pytest.param({"instruction": "q", "output": "a", "answer": "7"}, id="instruction rows give their prompt"),
        pytest.param({"messages": TURNS, "answer": "7"}, id="a last assistant turn is removed"),
        pytest.param({"messages": TURNS[:1], "answer": "7"}, id="messages that end with the user"),
    ],
)
def test_prompts(row: dict[str, Any]) -> None:
    [example] = examples(row, purpose="prompts")
    assert (example.messages, example.answer) == ((USER,), "7")


@pytest.mark.parametrize(
    ("turns", "prompt"),
    [
        pytest.param([*TURNS, *TURNS], (USER, ASSISTANT, USER), id="two rounds"),
        pytest.param([*TURNS, *TURNS[:1]], (USER, ASSISTANT, USER), id="a conversation that ends with a question is all prompt"),
        pytest.param([*TURNS, *TURNS[1:]], (USER, ASSISTANT), id="one turn is removed, not two"),
    ],
)
@pytest.mark.parametrize("declared", ["messages", "prompts"])
def test_a_prompt_keeps_its_conversation_but_for_an_answer_at_its_end(
    turns: list[dict[str, str]], prompt: tuple[Message, ...], declared: str
) -> None:
    [asked] = examples({"messages": turns}, purpose="prompts", declared=declared)
    [pair] = examples({"messages": turns, "chosen": "a", "rejected": "b"}, purpose="preference")
    assert asked.messages == pair.messages == prompt


@pytest.mark.parametrize("prompt", [{"prompt": "q"}, {"messages": TURNS[:1]}, {"messages": TURNS}])
def test_preferences(prompt: dict[str, Any]) -> None:
    [example] = examples(prompt | {"chosen": "a", "rejected": "b", "margin": 1}, purpose="preference")
    assert (example.messages, example.chosen, example.rejected, example.margin, example.source) == ((USER,), "a", "b", 1.0, "chat")


def test_a_row_id_is_the_given_one_or_the_hash_of_the_row() -> None:
    given, number, hashed = examples(*({"instruction": "q", "output": "a"} | extra for extra in ({"id": "x"}, {"id": 7}, {})))
    assert (given.row_id, number.row_id) == ("x", "7")
    assert hashed.row_id == canonical_id({"output": "a", "instruction": "q"})  # the order of fields does not matter


@pytest.mark.parametrize(
    ("row", "message"),
    [
        pytest.param({"messages": []}, 'messages: [] must be a list of at least one {"role", "content"}', id="an empty list"),
        pytest.param({"messages": ["hi"]}, 'messages[0]: \'hi\' must be an object {"role", "content"}', id="a turn that is text"),
        pytest.param(
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0].role: 'tool' must be one of system, user, assistant (or human, gpt): rename it",
            id="an unknown role",
        ),
        pytest.param({"messages": [{"role": "user"}]}, "messages[0].content: missing: add it", id="a turn without content"),
        pytest.param(
            {"messages": [{"role": "user", "content": 5}]},
            "messages[0].content: 5 must be text: put it in quotes",
            id="content that is a number",
        ),
        pytest.param({"instruction": "q"}, "output: missing: add it", id="a missing field"),
        pytest.param({"instruction": "q", "output": ["a"]}, "output: ['a'] must be text: put it in quotes", id="answers in a list"),
        pytest.param({"instruction": " ", "output": "a"}, "instruction: ' ' must not be empty: remove the row", id="an empty question"),
        pytest.param({"instruction": "q", "output": "a", "id": 1.5}, "id: 1.5 must be text or a whole number", id="a fraction as id"),
        pytest.param({"instruction": "q", "output": "\ud800"}, "output: has half a surrogate pair at character 0", id="broken Unicode"),
        pytest.param(["q", "a"], "['q', 'a'] must be a JSON object", id="a row that is a list"),
        pytest.param({"text": "x"}, "fields text: must be those of one format", id="fields of no format"),
        pytest.param(Malformed("'{' must be one JSON object"), "'{' must be one JSON object", id="a line that is not JSON"),
    ],
)
@pytest.mark.rule("D1")
def test_a_malformed_row_is_named(row: Any, message: str) -> None:
    assert problem(row).startswith(f"chat.jsonl:1: {message}")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        pytest.param({"prompt": "q", "chosen": "a"}, "rejected: missing", id="only one answer"),
        pytest.param(
            {"prompt": "q", "chosen": "a", "rejected": "b", "margin": "1"}, "margin: '1' must be a number", id="a margin in quotes"
        ),
        pytest.param(
            {"prompt": "q", "chosen": "a", "rejected": "b", "margin": True}, "margin: True must be a number", id="a margin of true"
        ),
        pytest.param({"prompt": ["q"], "chosen": "a", "rejected": "b"}, "prompt: ['q'] must be text", id="a prompt that is a list"),
        pytest.param({"chosen": "a", "rejected": "b"}, "messages: missing: add it, or prompt", id="no prompt"),
        pytest.param(
            {"messages": TURNS[1:], "chosen": "a", "rejected": "b"}, "messages: must have a turn before", id="nothing but an answer"
        ),
    ],
)
@pytest.mark.rule("D1")
def test_a_malformed_pair_is_named(row: Any, message: str) -> None:
    assert message in problem(row, purpose="preference")


def test_a_prompt_of_nothing_but_an_answer_is_refused() -> None:
    assert "must have a turn before the assistant's" in problem({"messages": TURNS[1:]}, purpose="prompts")


def test_the_first_row_decides_for_all() -> None:
    assert problem({"instruction": "q", "output": "a"}, {"messages": TURNS}).startswith("chat.jsonl:2: instruction: missing")


def test_a_declared_format_is_not_guessed() -> None:
    assert "messages: missing" in problem({"instruction": "q", "output": "a"}, declared="messages")


@pytest.mark.parametrize(
    ("row", "purpose"),
    [
        pytest.param({"prompt": "q", "chosen": "a", "rejected": "b"}, "conversations", id="pairs for SFT"),
        pytest.param({"instruction": "q", "output": "a"}, "preference", id="instructions for a reward model"),
        pytest.param({"prompt": "q", "chosen": "a", "rejected": "b"}, "prompts", id="pairs for PPO"),
    ],
)
def test_a_format_must_serve_the_purpose(row: Any, purpose: Purpose) -> None:
    assert f"for {purpose}: name another dataset" in problem(row, purpose=purpose)


def test_at_most_twenty_problems_are_shown() -> None:
    lines = problem(*[{"instruction": 1, "output": "a"}] * 40).splitlines()
    assert len(lines) == MAX_REPORTED + 1
    assert lines[-1] == "and more: only the first 20 are shown"


def test_all_problems_are_found_in_one_pass() -> None:
    good = {"instruction": "q", "output": "a"}
    lines = problem(good, good | {"output": 1}, good, good | {"instruction": 2}).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["chat.jsonl:2", "chat.jsonl:4"]
