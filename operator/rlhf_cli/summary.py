"""What came out of a job: a finished RLHFJob in, the closing tables and the machine-readable result out. Pure but for drawing.

Exact match is measured by the stages on held-out prompts, by a checker that is never the reward model. The base model is measured by
the first SFT stage before its first step, so its numbers are that stage's `base_…` metrics.
"""

import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rlhf_cli.stage_rows import byte_size, duration, metrics_of
from rlhf_cli.tables import print_whole

MODEL_STAGES = ("SFT", "PPO", "Quantize")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A model on the held-out prompts: fractions of 0 to 1, rewards and KL in their own units. None = not measured."""

    model: str
    exact_match: float | None = None
    exact_match_en: float | None = None
    exact_match_zh: float | None = None
    exact_match_sampled: float | None = None
    refusal_fraction: float | None = None
    reward_mean: float | None = None
    kl_mean: float | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What a Publish stage delivered. `directory` is the local place of a pvc:// destination, None elsewhere."""

    stage: str
    uri: str
    digest: str
    size_bytes: int
    directory: str | None


METRICS = ("exact_match", "exact_match_en", "exact_match_zh", "exact_match_sampled", "refusal_fraction", "reward_mean", "kl_mean")


def scores_of(job: Mapping[str, Any]) -> list[Score]:
    """Base, SFT, PPO and quantized models in the order of the job, as far as they were measured."""
    scores: list[Score] = []
    for stage in job.get("status", {}).get("stages") or []:
        if stage.get("type") not in MODEL_STAGES or stage.get("phase") != "Succeeded":
            continue
        metrics = metrics_of(stage)
        base = {name: metrics[f"base_{name}"] for name in METRICS if f"base_{name}" in metrics}
        if base and not scores:
            scores.append(Score(model="base", **base))  # type: ignore[arg-type]
        measured = {name: metrics[name] for name in METRICS if name in metrics}
        size = (stage.get("output") or {}).get("sizeBytes")
        scores.append(Score(model=f"{stage['name']} ({stage['type']})", size_bytes=size, **measured))
    return scores


def artifacts_of(job: Mapping[str, Any], claims: Mapping[str, Path]) -> list[Artifact]:
    """The published artifacts, with the directory of those that went to a claim of this machine."""
    return [
        Artifact(
            stage=artifact["stage"],
            uri=artifact["uri"],
            digest=artifact["digest"],
            size_bytes=artifact["sizeBytes"],
            directory=directory_of(artifact["uri"], claims),
        )
        for artifact in job.get("status", {}).get("artifacts") or []
    ]


def directory_of(uri: str, claims: Mapping[str, Path]) -> str | None:
    """The local directory of `pvc://CLAIM/path`; None for other schemes and for claims that this machine does not have."""
    scheme, _, rest = uri.partition("://")
    claim, _, path = rest.partition("/")
    return str(claims[claim] / path) if scheme == "pvc" and claim in claims else None


def result_of(job: Mapping[str, Any], claims: Mapping[str, Path], workdir: Path, exit_code: int) -> dict[str, Any]:
    """What `--output json` prints: the outcome, the measurements, the artifacts and the whole job."""
    status = job.get("status", {})
    return {
        "name": job["metadata"]["name"],
        "phase": status.get("phase", "Pending"),
        "reason": status.get("reason", ""),
        "exitCode": exit_code,
        "workdir": str(workdir),
        "scores": [_camel(asdict(score)) for score in scores_of(job)],
        "artifacts": [_camel(asdict(artifact)) for artifact in artifacts_of(job, claims)],
        "job": job,
    }


def _camel(fields: Mapping[str, Any]) -> dict[str, Any]:
    def name(snake: str) -> str:
        first, *rest = snake.split("_")
        return first + "".join(word.capitalize() for word in rest)

    return {name(key): value for key, value in fields.items()}


def print_summary(console: Console, job: Mapping[str, Any], claims: Mapping[str, Path], workdir: Path, seconds: float) -> None:
    """The closing tables of `rlhf run`: what was measured, how long it took, where it lies, how to talk to it."""
    scores = scores_of(job)
    if scores:
        console.print()
        print_whole(console, score_table(scores))
    lines = [f"complete  in {duration(seconds)}"]
    for artifact in artifacts_of(job, claims):
        lines.append(f"artifact  {artifact.directory or artifact.uri}  ({byte_size(artifact.size_bytes)}, {artifact.digest})")
        if artifact.directory:
            chat = f"{_program()} chat {artifact.directory}"
            lines.append(f"chat      {chat}")
            lines += [f"          {chat} -m {shlex.quote(prompt)}" for prompt in prompts_to_try(job, workdir)]
    lines.append(f"files     {workdir}")
    console.print("\n" + "\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _program() -> str:
    """How the user can start this program again: by its name, or by the path that was typed where no PATH finds it."""
    typed = sys.argv[0]
    return shlex.quote(typed) if Path(typed).name == "rlhf" and shutil.which("rlhf") is None else "rlhf"


def prompts_to_try(job: Mapping[str, Any], workdir: Path) -> list[str]:
    """Held-out prompts that the last measured model answered right: one in ASCII and one not, as far as there are any.

    A small model knows only what it was taught, so a first question of one's own would mostly miss.
    """
    stages = [stage["name"] for stage in job.get("status", {}).get("stages") or [] if stage.get("type") in ("SFT", "PPO")]
    files = [file for stage in stages for file in sorted(workdir.glob(f"volume/*/stages/{stage}/r*/samples.jsonl"), key=_attempt_of)]
    if not files:
        return []
    samples = [json.loads(line) for line in files[-1].read_text("utf-8").splitlines()]
    right = [one["prompt"] for one in samples if one["answer"] and one["response"] == one["answer"] and "\n" not in one["prompt"]]
    first: dict[bool, str] = {}
    for prompt in reversed(right):  # the newest answers are at the end of the file
        first.setdefault(prompt.isascii(), prompt)
    return [first[is_ascii] for is_ascii in (True, False) if is_ascii in first]


def _attempt_of(file: Path) -> int:
    return int(file.parent.name.removeprefix("r"))


def score_table(scores: list[Score]) -> Table:
    """Held-out exact match of every model, English and Chinese apart; a dash where nothing was measured."""
    table = Table(title="Held-out prompts: exact match (greedy; sampled = temperature 1)", title_justify="left", box=None, pad_edge=False)
    for heading in ("MODEL", "GREEDY", "EN", "ZH", "SAMPLED", "REFUSALS", "REWARD", "KL", "SIZE"):
        table.add_column(heading, justify="left" if heading == "MODEL" else "right", no_wrap=True)
    for score in scores:
        shares = (score.exact_match, score.exact_match_en, score.exact_match_zh, score.exact_match_sampled, score.refusal_fraction)
        amounts = (score.reward_mean, score.kl_mean)
        table.add_row(
            score.model,
            *("–" if share is None else f"{share:.1%}" for share in shares),
            *("–" if amount is None else f"{amount:z.2f}" for amount in amounts),
            byte_size(score.size_bytes) or "–",
        )
    return table
