"""Rules D2 to D6: one BOS, masks by offsets, stop ids, what is dropped and what is cut."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from rlhf_trainer.data.builtin import make
from rlhf_trainer.data.builtin.tokenizer import train
from rlhf_trainer.data.formats import Example, Message
from rlhf_trainer.data.rows import ConversationRow, PreferenceRow, PromptRow, Purpose, Row
from rlhf_trainer.data.template import NAMED, Template
from rlhf_trainer.data.tokenize import Dropped, Tokenisation, inside
from rlhf_trainer.data.tokenizer import ModelTokenizer
from rlhf_trainer.errors import DataError

MARKERS = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
CONTENTS = ("7", "", "  7  ", "7 7", "猫", "猫狗 龘", "hello", "a\nb", "é 🙂", "### Assistant:", "question", "[/INST]")


@pytest.fixture(scope="module")
def tokenizer() -> ModelTokenizer:
    """The sample tokenizer with the markers of all templates, and a post-processor that adds a BOS, as Llama's does."""
    rows = make.sft_rows(make.split()[0])
    own: Tokenizer = train(row["instruction"] + row["output"] for row in rows)
    own.add_special_tokens(list(MARKERS))
    own.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return ModelTokenizer(
        tokenizer=own,
        bos_token="<s>",
        eos_token="</s>",
        pad_id=2,
        eos_ids=(2,),
        chat_template=None,
        vocab_size=1024,
        context=None,
        adds_bos=True,
    )


def tokenised(
    tokenizer: ModelTokenizer, template: Template, *examples: Example, purpose: Purpose = "conversations", **settings: object
) -> list[Row | Dropped]:
    return list(Tokenisation(tokenizer, template, **({"max_length": 512} | settings)).rows(examples, purpose))  # type: ignore[arg-type]


def a_chat(*contents: str, row_id: str = "1") -> Example:
    turns = (Message("assistant" if i % 2 else "user", content) for i, content in enumerate(contents))
    return Example(row_id, tuple(turns))


def labelled(tokenizer: ModelTokenizer, row: ConversationRow) -> str:
    return str(tokenizer.tokenizer.decode(row.input_ids[row.loss_mask == 1].tolist(), skip_special_tokens=False))


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.rule("D3")
def test_labels_are_the_answers_and_their_end_tokens_in_fifty_random_chats(tokenizer: ModelTokenizer, name: str) -> None:
    template, rng = tokenizer.template(name), random.Random(name)
    chats = [a_chat(*rng.choices(CONTENTS, k=2 * rng.randint(1, 4)), row_id=str(i)) for i in range(50)]
    for chat, row in zip(chats, tokenised(tokenizer, template, *chats), strict=True):
        assert isinstance(row, ConversationRow)
        answers = [message.content for message in chat.messages if message.role == "assistant"]
        assert labelled(tokenizer, row) == "".join(answer + template.end_of_turn for answer in answers)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.rule("D2")
def test_a_row_has_exactly_one_bos_although_the_tokenizer_would_add_another(tokenizer: ModelTokenizer, name: str) -> None:
    [row] = tokenised(tokenizer, tokenizer.template(name), a_chat("q", "a", "q", "a"))
    assert isinstance(row, ConversationRow)
    assert row.input_ids[0] == row.prompt_ids[0] == 1
    assert (row.input_ids == 1).sum() == (row.prompt_ids == 1).sum() == 1


def test_a_bos_that_the_template_forgets_is_added_and_shifts_no_label(tokenizer: ModelTokenizer) -> None:
    template = Template(NAMED["chatml"].replace("{{ bos_token }}", ""), "<s>", "</s>", MARKERS)
    [row] = tokenised(tokenizer, template, a_chat("q", "seven"))
    assert isinstance(row, ConversationRow)
    assert row.input_ids[:2].tolist() == [1, tokenizer.tokenizer.token_to_id("<|im_start|>")]
    assert labelled(tokenizer, row) == "seven<|im_end|>"


@pytest.mark.parametrize("name", NAMED)
def test_a_prompt_ends_where_the_last_answer_begins(tokenizer: ModelTokenizer, name: str) -> None:
    [row] = tokenised(tokenizer, tokenizer.template(name), a_chat("q", "first", "q", "second"))
    assert isinstance(row, ConversationRow)
    assert row.input_ids[: len(row.prompt_ids)].tolist() == row.prompt_ids.tolist()
    rest = tokenizer.tokenizer.decode(row.input_ids[len(row.prompt_ids) :].tolist(), skip_special_tokens=False)
    assert rest.startswith("second")


@pytest.mark.parametrize("purpose", ["prompts", "preference"])
def test_the_whole_history_is_the_prompt(tokenizer: ModelTokenizer, purpose: Purpose) -> None:
    template = tokenizer.template("chatml")
    history = replace(a_chat("one", "two", "three"), chosen="good", rejected="bad")
    [row] = tokenised(tokenizer, template, history, purpose=purpose)
    assert not isinstance(row, Dropped)
    text = tokenizer.tokenizer.decode(row.prompt_ids.tolist(), skip_special_tokens=False)
    assert text == template.render(history.messages, add_generation_prompt=True)
    if isinstance(row, PreferenceRow):
        assert row.chosen_ids[: len(row.prompt_ids)].tolist() == row.prompt_ids.tolist()


def test_a_conversation_that_ends_with_a_question_learns_its_answer_and_is_asked_the_question(tokenizer: ModelTokenizer) -> None:
    [row] = tokenised(tokenizer, tokenizer.template("chatml"), a_chat("q", "seven", "and then?"))
    assert isinstance(row, ConversationRow)
    assert labelled(tokenizer, row) == "seven<|im_end|>"
    assert "and then?" in tokenizer.tokenizer.decode(row.prompt_ids.tolist(), skip_special_tokens=False)


def test_loss_on_all_learns_the_questions_too(tokenizer: ModelTokenizer) -> None:
    [row] = tokenised(tokenizer, tokenizer.template("plain"), a_chat("q", "a"), loss_on="all")
    assert isinstance(row, ConversationRow)
    assert row.loss_mask.all()


@pytest.mark.rule("D3", "D5")
def test_an_eos_inside_a_question_has_no_label_and_ends_nothing(tokenizer: ModelTokenizer) -> None:
    [row] = tokenised(tokenizer, tokenizer.template("chatml"), a_chat("a </s> b", "seven"))
    assert isinstance(row, ConversationRow)
    assert labelled(tokenizer, row) == "seven<|im_end|>"
    assert 2 in row.input_ids


@pytest.mark.rule("D6")
def test_too_long_rows_are_dropped_with_their_length(tokenizer: ModelTokenizer) -> None:
    short, long = a_chat("q", "a"), a_chat("q", "7" * 100, row_id="2")
    first, second = tokenised(tokenizer, tokenizer.template("plain"), short, long, max_length=60)
    assert isinstance(first, ConversationRow)
    assert isinstance(second, Dropped)
    assert (second.reason, second.num_tokens > 100) == ("tooLong", True)


@pytest.mark.rule("D6")
def test_a_cut_answer_has_no_end_token(tokenizer: ModelTokenizer) -> None:
    [row] = tokenised(tokenizer, tokenizer.template("plain"), a_chat("q", "7" * 100), max_length=60, overlong="truncate")
    assert isinstance(row, ConversationRow)
    assert len(row.input_ids) == 60
    assert set(labelled(tokenizer, row)) == {"7"}


def test_a_row_whose_answer_is_cut_away_is_dropped(tokenizer: ModelTokenizer) -> None:
    [row] = tokenised(tokenizer, tokenizer.template("plain"), a_chat("7" * 100, "a"), max_length=60, overlong="truncate")
    assert isinstance(row, Dropped)
    assert row.reason == "tooLong"


def test_a_conversation_without_an_answer_is_dropped(tokenizer: ModelTokenizer) -> None:
    [row] = tokenised(tokenizer, tokenizer.template("plain"), a_chat("q"))
    assert row == Dropped("noAnswer", row.num_tokens if isinstance(row, Dropped) else -1)


def a_pair(chosen: str, rejected: str, prompt: str = "q") -> Example:
    return Example("1", (Message("user", prompt),), chosen, rejected, source="web")


def test_both_answers_of_a_pair_follow_the_same_prompt(tokenizer: ModelTokenizer) -> None:
    template = tokenizer.template("chatml")
    [row] = tokenised(tokenizer, template, a_pair("good", "bad"), purpose="preference")
    assert isinstance(row, PreferenceRow)
    for ids, answer in ((row.chosen_ids, "good"), (row.rejected_ids, "bad")):
        assert ids[: len(row.prompt_ids)].tolist() == row.prompt_ids.tolist()
        rest = tokenizer.tokenizer.decode(ids[len(row.prompt_ids) :].tolist(), skip_special_tokens=False)
        assert rest == f"{answer}<|im_end|>\n"
    assert row.source == "web"


@pytest.mark.parametrize(
    ("pair", "overlong", "reason"),
    [
        pytest.param(a_pair("7" * 100, "a"), "drop", "tooLong", id="one long answer drops the pair"),
        pytest.param(a_pair("7" * 100, "7" * 101), "truncate", "tooLong", id="answers that are equal once cut prefer nothing"),
        pytest.param(a_pair("a", "b", "7" * 100), "truncate", "tooLong", id="a prompt that leaves no room for an answer"),
        pytest.param(a_pair("a", "a"), "drop", "equalAnswers", id="answers that are equal prefer nothing"),
    ],
)
@pytest.mark.rule("R7", "D6")
def test_pairs_that_cannot_be_used_are_dropped(tokenizer: ModelTokenizer, pair: Example, overlong: str, reason: str) -> None:
    [row] = tokenised(tokenizer, tokenizer.template("plain"), pair, purpose="preference", max_length=60, overlong=overlong)
    assert isinstance(row, Dropped)
    assert row.reason == reason


@pytest.mark.rule("R7")
def test_a_pair_that_the_template_makes_equal_is_dropped(tokenizer: ModelTokenizer) -> None:
    stripping = Template(NAMED["plain"].replace("message['content']", "message['content'] | trim"), "<s>", "</s>", ("<s>", "</s>"))
    [row] = tokenised(tokenizer, stripping, a_pair("a", " a "), purpose="preference")
    assert isinstance(row, Dropped)
    assert row.reason == "equalAnswers"


def test_a_long_pair_is_cut_where_that_is_asked_for(tokenizer: ModelTokenizer) -> None:
    [row] = tokenised(
        tokenizer, tokenizer.template("plain"), a_pair("7" * 100, "8" * 100), purpose="preference", max_length=60, overlong="truncate"
    )
    assert isinstance(row, PreferenceRow)
    assert (len(row.chosen_ids), len(row.rejected_ids)) == (60, 60)


def test_prompts_are_never_cut(tokenizer: ModelTokenizer) -> None:
    short = Example("1", (Message("user", "3加4是几?"),), answer="7")
    long = Example("2", (Message("user", "7" * 100),))
    first, second = tokenised(tokenizer, tokenizer.template("plain"), short, long, purpose="prompts", max_length=60, overlong="truncate")
    assert isinstance(first, PromptRow)
    assert (first.answer, first.language) == ("7", "zh")
    assert isinstance(second, Dropped)


def test_a_conversation_that_the_template_refuses_names_its_row(tokenizer: ModelTokenizer) -> None:
    strict = Template(
        "{% if messages[0]['role'] != 'user' %}{{ raise_exception('must start with user') }}{% endif %}" + NAMED["plain"],
        "<s>",
        "</s>",
        ("</s>",),
    )
    system = Example("1", (Message("system", "s"), Message("user", "q"), Message("assistant", "a")), place="chat.jsonl:9")
    for purpose in ("conversations", "prompts"):
        with pytest.raises(DataError, match=r"^chat\.jsonl:9: roles system, user.*must start with user"):
            tokenised(tokenizer, strict, system, purpose=purpose)


def test_a_token_belongs_to_the_span_of_its_first_character() -> None:
    assert inside(np.array([0, 3, 7, 9]), [(3, 8)]).tolist() == [0, 1, 1, 0]
    assert inside(np.array([0, 3]), []).tolist() == [0, 0]


@pytest.mark.rule("D4")
def test_stop_ids_are_the_end_of_a_turn_and_the_eos(tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    assert tokenizer.stop_ids(tokenizer.template("plain")) == (2,)
    assert tokenizer.stop_ids(tokenizer.template("chatml")) == (2, tokenizer.tokenizer.token_to_id("<|im_end|>"))
