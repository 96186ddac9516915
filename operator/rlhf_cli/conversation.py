"""Talking to a model in a terminal: questions from the user in, answers printed. The model itself is `rlhf_trainer.chat`."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from rich.console import Console

from rlhf_cli.errors import CommandError

Message = dict[str, str]


class Model(Protocol):
    """What a conversation needs of `rlhf_trainer.chat.Chat`."""

    def reply(self, messages: list[Message], *, max_new_tokens: int, temperature: float) -> str: ...


def answer_all(directory: Path, questions: list[str], *, temperature: float, max_new_tokens: int) -> None:
    """Ask the questions as one conversation and print the answers, nothing else: made for pipes."""
    model = _load(directory)
    history: list[Message] = []
    for question in questions:
        print(_ask(model, history, question, temperature, max_new_tokens), flush=True)


def converse(directory: Path, *, temperature: float, max_new_tokens: int) -> None:
    """Read questions until an empty line or the end of the input."""
    console = Console()
    with console.status(f"loading {directory}"):
        model = _load(directory)
    talk(model, lambda: console.input("[bold]you>[/bold] "), console, temperature=temperature, max_new_tokens=max_new_tokens)


def talk(model: Model, read: Callable[[], str], console: Console, *, temperature: float, max_new_tokens: int) -> None:
    """The conversation: `read` gives one question a call and raises EOFError at the end."""
    history: list[Message] = []
    while True:
        try:
            question = read().strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if not question:
            return
        console.print(f"model> {_ask(model, history, question, temperature, max_new_tokens)}", markup=False, highlight=False)


def _ask(model: Model, history: list[Message], question: str, temperature: float, max_new_tokens: int) -> str:
    history.append({"role": "user", "content": question})
    answer = model.reply(history, max_new_tokens=max_new_tokens, temperature=temperature)
    history.append({"role": "assistant", "content": answer})
    return answer


def _load(directory: Path) -> Model:
    from rlhf_trainer.chat import Chat
    from rlhf_trainer.errors import StageError

    try:
        model: Model = Chat.load(directory)
    except StageError as error:
        raise CommandError(error.exit_code, str(error)) from error
    return model
