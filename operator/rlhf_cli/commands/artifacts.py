"""`rlhf chat` and `plot`: look at what came out."""

import os
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from rlhf_cli.errors import CommandError


def chat(
    artifact: Annotated[
        Path, Argument(metavar="ARTIFACT", show_default=False, help="Directory of a published model or of a stage's output.")
    ],
    message: Annotated[
        list[str] | None,
        Option("--message", "-m", metavar="TEXT", show_default=False, help="Ask this and exit. Repeatable: one conversation."),
    ] = None,
    temperature: Annotated[float, Option(min=0, max=10, help="0 = the most likely answer; higher = more varied.")] = 0.0,
    max_new_tokens: Annotated[int, Option(min=1, max=131072, help="Longest answer in tokens.")] = 256,
) -> None:
    """Talk to a model.

    Without -m, a conversation: an empty line or Ctrl-D ends it.
    """
    from rlhf_cli.conversation import answer_all, converse

    directory = model_directory(artifact)
    if message:
        answer_all(directory, message, temperature=temperature, max_new_tokens=max_new_tokens)
    else:
        converse(directory, temperature=temperature, max_new_tokens=max_new_tokens)


def model_directory(artifact: Path) -> Path:
    """Where the model lies: an artifact itself, or the `model/` of an output, or that of an attempt.

    Raises:
        CommandError: 66, when there is no model.
    """
    for candidate in (artifact, artifact / "model", artifact / "output" / "model"):
        if os.path.isfile(candidate / "config.json"):  # unlike Path.is_file, False for a name that is too long
            return candidate
    raise CommandError(66, f"ARTIFACT: '{artifact}' has no model (config.json): name the directory that `rlhf run` printed last")


def plot(
    directory: Annotated[
        Path, Argument(metavar="DIR", show_default=False, help="Working directory of a job, or of one attempt (metrics.jsonl).")
    ],
    to: Annotated[Path | None, Option(metavar="PNG", show_default=False, help="Picture to write. Default: curves.png in DIR.")] = None,
) -> None:
    """Draw the curves of a job.

    Loss, reward, KL, accuracy, entropy, length and speed, from its metrics.jsonl files alone.
    """
    from rlhf_trainer.report.plot import attempts_below, draw

    png = to or directory / "curves.png"
    try:
        drawn = draw(attempts_below(directory), png)
    except OSError as error:
        raise CommandError(74, f"--to: '{png}' cannot be written ({error.strerror}): name another file") from error
    if not drawn:
        raise CommandError(66, f"DIR: '{directory}' has no metrics.jsonl with steps: name the working directory of a job that trained")
    typer.echo(f"wrote {png} ({', '.join(drawn)})")
