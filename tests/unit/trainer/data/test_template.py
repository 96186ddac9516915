"""Chat templates: rendered as transformers renders them, refused where a model could not learn to stop."""

import pytest

from rlhf_trainer.data.formats import Message
from rlhf_trainer.data.template import NAMED, Template
from rlhf_trainer.errors import ConfigError, DataError

SPECIALS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
SYSTEM, USER, ASSISTANT = Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello")


def a_template(source: str) -> Template:
    return Template(source, "<s>", "</s>", SPECIALS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("chatml", "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n", id="chatml"),
        pytest.param("llama2", "<s>[INST] Hi [/INST]Hello</s>", id="llama2"),
        pytest.param(
            "llama3",
            "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>",
            id="llama3",
        ),
        pytest.param("plain", "<s>### User:\nHi\n### Assistant:\nHello</s>\n", id="plain"),
    ],
)
def test_named_templates(name: str, text: str) -> None:
    template = a_template(NAMED[name])
    assert template.render([USER, ASSISTANT]) == text
    assert text.startswith(template.render([USER], add_generation_prompt=True) + "Hello")


@pytest.mark.parametrize("name", NAMED)
def test_a_system_turn_comes_before_the_question(name: str) -> None:
    text = a_template(NAMED[name]).render([SYSTEM, USER, ASSISTANT])
    assert 0 < text.index("Be kind.") < text.index("Hi") < text.index("Hello")


@pytest.mark.parametrize("name", NAMED)
def test_spans_cover_the_answers_up_to_the_end_token(name: str) -> None:
    template = a_template(NAMED[name])
    text, spans = template.spans([USER, ASSISTANT, Message("user", "Hello"), Message("assistant", "")])
    assert [text[start:end] for start, end in spans] == [f"Hello{template.end_of_turn}", template.end_of_turn]


def test_the_generation_marks_of_newer_templates_are_read_over() -> None:
    source = NAMED["plain"].replace("message['content'] }}", "'' }}{% generation %}{{ message['content'] }}{% endgeneration %}")
    assert a_template(source).render([USER, ASSISTANT]) == a_template(NAMED["plain"]).render([USER, ASSISTANT])


def test_a_template_without_an_end_token_is_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError, match=r"writes '\\n' after an answer, must write a special token.*try plain"):
        _ = a_template("{% for message in messages %}{{ message['content'] }}\n{% endfor %}").end_of_turn


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    source = "{% for message in messages %}{{ message['content'] if loop.last else '…' }}</s>{% endfor %}"
    with pytest.raises(DataError, match="writes earlier turns differently"):
        a_template(source).spans([USER, ASSISTANT, USER, ASSISTANT])


def test_a_template_with_a_syntax_error_names_its_line() -> None:
    with pytest.raises(ConfigError, match="line 2 of the model's template"):
        a_template("ok\n{% for %}").render([USER])


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("{{ ''.__class__.__mro__[1].__subclasses__() }}", id="a walk to the subclasses of object"),
        pytest.param("{{ messages.append(1) }}", id="a change of the input"),
    ],
)
def test_a_template_stays_in_its_sandbox(source: str) -> None:
    with pytest.raises(DataError):
        a_template(source).render([USER])


def test_dates_in_a_template_are_fixed_and_json_is_not_escaped() -> None:
    assert (
        a_template("{{ strftime_now('%Y-%m-%d') }} {{ messages[0].content | tojson }}").render([Message("user", "猫<")])
        == '2025-01-01 "猫<"'
    )
