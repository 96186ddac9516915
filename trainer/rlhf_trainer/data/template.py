"""Conversations as text: Hugging Face chat templates, rendered as transformers renders them, but without importing it.

`Template.render` gives the text and `Template.spans` where the assistant speaks in it, end-of-turn token included (rules D2, D3). Spans
come from rendering the conversation turn by turn, never from searching for an answer, which may occur twice or be empty.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rlhf_trainer.data.formats import Message
from rlhf_trainer.errors import ConfigError, DataError

# `bos_token` is empty where the tokenizer has none, and is written once: Meta's llama2 repeats it for each turn. No space stands
# before an answer: it would melt into the answer's first token.
NAMED = {
    "chatml": (
        "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
        "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
        "{{ bos_token }}{% for message in turns %}{% if message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
        "{% else %}{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "plain": (
        "{{ bos_token }}{% for message in messages %}{{ '### ' + message['role'] | capitalize + ':\n' + message['content'] }}"
        "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
    ),
}
"""Templates that come with the package: `spec.model.chatTemplate`."""

Span = tuple[int, int]


@dataclass(frozen=True)
class Template:
    """One chat template with the special tokens that it may write."""

    source: str
    """Jinja, as in `tokenizer_config.json`."""
    bos_token: str = ""
    eos_token: str = ""
    special_tokens: tuple[str, ...] = field(default=(), repr=False)
    """All special tokens of the tokenizer: the first of them after an answer is the end of the turn."""

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The conversation as text; with `add_generation_prompt` it ends where the assistant begins to speak.

        Raises:
            DataError: the template refuses this conversation (roles that do not alternate, a system turn it has no place for).
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text: str = self._compiled.render(
                messages=turns, add_generation_prompt=add_generation_prompt, bos_token=self.bos_token, eos_token=self.eos_token
            )
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            problem = f"roles {roles}: the chat template refuses them ({error}): reorder the turns or choose another template"
            raise DataError(problem) from error
        return text

    def spans(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """The text, and the character range of every assistant turn from its first character to the end of its end-of-turn token.

        Raises:
            DataError: the template refuses the conversation, or writes earlier turns differently once later ones follow.
        """
        text = self.render(messages)
        found: list[Span] = []
        for i, message in enumerate(messages):
            if message.role == "assistant":
                start = len(self._prefix(text, messages[:i], add_generation_prompt=True))
                stop = len(self._prefix(text, messages[: i + 1], add_generation_prompt=False))
                end = text.rfind(self.end_of_turn, start, stop)  # after it: white space between turns
                found.append((start, stop if end < 0 else end + len(self.end_of_turn)))
        return text, found

    @cached_property
    def end_of_turn(self) -> str:
        """The special token that ends an assistant's turn, read off a probe conversation.

        Raises:
            ConfigError: the template writes none, so a model could never learn to stop.
        """
        before = self.render([_ASK], add_generation_prompt=True)
        after = self.render([_ASK, _REPLY])[len(before) :].removeprefix(_REPLY.content)
        places = {token: after.find(token) for token in self.special_tokens if token and token in after}
        if not places:
            raise ConfigError(
                f"spec.model.chatTemplate: writes {after!r} after an answer, must write a special token of the tokenizer: try plain",
                hint="embeddings are never resized, so a token that the tokenizer does not have cannot be added",
            )
        return min(places, key=lambda token: (places[token], -len(token)))

    def _prefix(self, text: str, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        prefix = self.render(messages, add_generation_prompt=add_generation_prompt)
        if not text.startswith(prefix):
            raise DataError("the chat template writes earlier turns differently once later ones follow: use chatTemplate chatml or plain")
        return prefix

    @cached_property
    def _compiled(self) -> Any:
        try:
            return _environment().from_string(self.source)
        except TemplateSyntaxError as error:
            raise ConfigError(f"spec.model.chatTemplate: line {error.lineno} of the model's template: {error.message}") from error


_ASK, _REPLY = Message("user", "question"), Message("assistant", "reply")


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, which some templates put around answers: rendered as what is inside."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers makes it: templates are input, so they run in a sandbox."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _fixed_date
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _fixed_date(form: str) -> str:
    """Some templates print today's date. A fixed one, or the same data would tokenise differently tomorrow."""
    return datetime(2025, 1, 1).strftime(form)
