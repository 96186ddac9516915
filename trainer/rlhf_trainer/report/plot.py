"""Curves of a job as one PNG page: the `metrics.jsonl` of training attempts in, a picture out. No torch, no display, no state.

`rlhf plot` and Publish draw the same page. Each column is a stage and each row a question: does it learn, does it stay sane, how fast
is it? Metrics that a stage did not write leave no empty axes. A half-written last line (a crash) is skipped.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_api import names

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes: metrics that share a unit, drawn together."""

    title: str
    metrics: tuple[str, ...]


PANELS = (
    Panel("loss", ("loss", "policy_loss", "eval_loss", "ptx_loss")),
    Panel("reward (score of the reward model)", ("reward_mean",)),
    Panel("KL to the reference (nats per answer)", ("kl_mean",)),
    Panel("held-out accuracy", ("accuracy", "exact_match", "exact_match_sampled")),
    Panel("entropy (nats per token)", ("entropy",)),
    Panel("answer length (tokens)", ("answer_tokens_mean",)),
    Panel("gradient norm", ("grad_norm", "critic_grad_norm")),
    Panel("tokens per second", ("tokens_per_second",)),
)

Point = tuple[float, float]


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of `directory/metrics.jsonl`, oldest first; none when the file is missing."""
    file = directory / names.FILE_METRICS
    if not file.is_file():
        return []
    lines: list[dict[str, Any]] = []
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int | float):
            lines.append(line)
    return lines


def attempts_below(directory: Path) -> dict[str, Path]:
    """The newest attempt with metrics of every stage of a job, in the order in which they trained; or `directory` itself, if it is one.

    `directory` is an attempt, the root of a job on its volume, or anything above it (a working directory of `rlhf run`).
    """
    if (directory / names.FILE_METRICS).is_file():
        return {directory.parent.name or directory.name: directory}
    newest: dict[str, Path] = {}
    for attempt in sorted(_with_metrics(directory), key=lambda found: (found / names.FILE_METRICS).stat().st_mtime_ns):
        known = newest.setdefault(attempt.parent.name, attempt)
        if int(attempt.name[1:]) > int(known.name[1:]):
            newest[attempt.parent.name] = attempt
    return newest


def _with_metrics(directory: Path) -> Iterator[Path]:
    """By `os.walk`, which passes over directories that a running job removes meanwhile; `rglob` fails on them."""
    for place, _, files in os.walk(directory):
        found = Path(place)
        if names.FILE_METRICS in files and re.fullmatch(r"r\d+", found.name) and found.parent.parent.name == names.DIR_STAGES:
            yield found


def draw(stages: Mapping[str, Path], png: Path) -> list[str]:
    """Draw the curves of `stages` (name → directory with `metrics.jsonl`) into `png`; the names of the stages that had any.

    Nothing is written when no stage has a metric to show. The file is complete or absent: it is renamed into place.
    """
    columns = {name: _panels(read_metrics(directory)) for name, directory in stages.items()}
    columns = {name: panels for name, panels in columns.items() if panels}
    if columns:
        _draw_page(columns, png)
    return list(columns)


def _panels(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, list[Point]]]]:
    """The panels that have a curve: at least two points, because one is a number and belongs in a table."""
    panels = []
    for panel in PANELS:
        curves = {metric: points for metric in panel.metrics if len(points := _points(lines, metric)) > 1}
        if curves:
            panels.append((panel.title, curves))
    return panels


def _points(lines: Sequence[Mapping[str, Any]], metric: str) -> list[Point]:
    return [(line["step"], line[metric]) for line in lines if isinstance(line.get(metric), int | float)]


def _draw_page(columns: Mapping[str, list[tuple[str, dict[str, list[Point]]]]], png: Path) -> None:
    # The object interface: pyplot would keep figures alive and look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_rows = max(len(panels) for panels in columns.values())
    figure = Figure(figsize=(5.2 * len(columns), 2.4 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, len(columns), squeeze=False)
    for column, (stage, panels) in enumerate(columns.items()):
        for row in range(num_rows):
            if row < len(panels):
                _draw_panel(axes[row][column], f"{stage}: {panels[row][0]}", panels[row][1])
            else:
                axes[row][column].set_axis_off()
    unfinished = png.with_name(f".{png.name}.tmp")
    figure.savefig(unfinished, format="png", dpi=110)
    unfinished.replace(png)


def _draw_panel(axes: Axes, title: str, curves: Mapping[str, list[Point]]) -> None:
    for metric, points in curves.items():
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, label=metric, linewidth=1.2, marker="." if len(points) < 30 else None)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, alpha=0.3)
    if len(curves) > 1:
        axes.legend(fontsize=7)
