"""A conversation in the terminal, with a model that repeats what it hears."""

import io
from collections.abc import Callable

from rich.console import Console

from rlhf_cli.conversation import Message, talk


class Echo:
    def __init__(self) -> None:
        self.heard: list[list[str]] = []

    def reply(self, messages: list[Message], *, max_new_tokens: int, temperature: float) -> str:
        self.heard.append([message["content"] for message in messages])
        return f"[{messages[-1]['content']}]"


def questions(*texts: str) -> Callable[[], str]:
    left = iter(texts)

    def read() -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return read


def conversation(*texts: str) -> tuple[Echo, str]:
    model, screen = Echo(), io.StringIO()
    talk(model, questions(*texts), Console(file=screen, width=80), temperature=0, max_new_tokens=8)
    return model, screen.getvalue()


def test_the_model_hears_the_whole_conversation() -> None:
    model, screen = conversation("What is 3 plus 4?", " 红色 ")
    assert model.heard == [["What is 3 plus 4?"], ["What is 3 plus 4?", "[What is 3 plus 4?]", "红色"]]
    assert screen == "model> [What is 3 plus 4?]\nmodel> [红色]\n\n"


def test_an_empty_line_ends_it() -> None:
    model, _ = conversation("hello", "", "never asked")
    assert len(model.heard) == 1
