"""What a person wants to know of each stage now: an RLHFJob (as a plain dict) in, one row a stage out. No I/O, no clock.

`live.py` draws the rows, `rlhf get` prints them. The status is the only source: on a cluster the same rows could be shown.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HEADLINES: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "Prepare": (("rows", "rows", ",.0f"), ("dropped_rows", "dropped", ",.0f")),
    "SFT": (("loss", "loss", "z.3f"), ("exact_match", "exact match", "z.1%")),
    "RewardModel": (("loss", "loss", "z.3f"), ("accuracy", "accuracy", "z.1%")),
    "PPO": (("reward_mean", "reward", "z.2f"), ("kl_mean", "KL", "z.2f"), ("exact_match", "exact match", "z.1%")),
    "Quantize": (("perplexity_increase", "perplexity", "+z.1%"), ("exact_match", "exact match", "z.1%")),
    "Publish": (),
}
"""Metrics shown beside a stage: name in the status, label, number format (`z`: no minus before a zero)."""

FINISHED = frozenset({"Succeeded", "Failed", "Skipped"})
ABBREVIATIONS = (("d", 86400), ("h", 3600), ("m", 60))


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One stage as people see it. Numbers that nobody measured yet are None, never 0."""

    name: str
    type: str
    phase: str
    reason: str = ""
    message: str = ""
    attempt: int = 0
    percent: float | None = None
    step: int | None = None
    total_steps: int | None = None
    eta_seconds: float | None = None
    headline: str = ""
    tokens_per_second: float | None = None

    @property
    def is_finished(self) -> bool:
        return self.phase in FINISHED

    @property
    def steps(self) -> str:
        """`40/120`, `40` while the total is unknown, or nothing before the first step."""
        if self.step is None:
            return ""
        return f"{self.step}/{self.total_steps}" if self.total_steps else str(self.step)


def rows_of(job: Mapping[str, Any]) -> list[StageRow]:
    """A row for every stage, Prepare first; from the spec alone while there is no status yet."""
    known = {stage["name"]: stage for stage in job.get("status", {}).get("stages", [])}
    names = [("prepare", "Prepare"), *((stage["name"], stage["type"]) for stage in job.get("spec", {}).get("stages", []))]
    return [_row(name, type_, known.get(name, {})) for name, type_ in names]


def _row(name: str, type_: str, stage: Mapping[str, Any]) -> StageRow:
    progress: Mapping[str, Any] = stage.get("progress") or {}
    metrics = metrics_of(stage)
    phase = stage.get("phase") or "Pending"
    is_moving = phase not in FINISHED
    return StageRow(
        name=name,
        type=type_,
        phase=phase,
        reason=stage.get("reason") or "",
        message=stage.get("message") or "",
        attempt=stage.get("attempt") or 0,
        percent=100 if phase == "Succeeded" else progress.get("percent"),
        step=progress.get("step"),
        total_steps=progress.get("totalSteps"),
        eta_seconds=progress.get("etaSeconds") if is_moving else None,
        headline=_headline(type_, metrics),
        tokens_per_second=metrics.get("tokens_per_second"),
    )


def metrics_of(stage: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a stage's status by name."""
    return {metric["name"]: float(metric["value"]) for metric in stage.get("metrics") or []}


def _headline(type_: str, metrics: Mapping[str, float]) -> str:
    shown = [f"{label} {metrics[name]:{form}}" for name, label, form in HEADLINES.get(type_, ()) if name in metrics]
    return "  ".join(shown)


def phase_of(job: Mapping[str, Any]) -> str:
    """The phase of a job; Pending before its first status."""
    return str((job.get("status") or {}).get("phase") or "Pending")


def stage_to_repeat(job: Mapping[str, Any]) -> str:
    """The stage that failed, as `spec.rerun` can name it: Prepare has no block, but what failed before the named stage runs again too."""
    names = [stage["name"] for stage in job["spec"]["stages"]]
    failed = {stage["name"] for stage in (job.get("status") or {}).get("stages") or [] if stage.get("phase") == "Failed"}
    return str(next((name for name in names if name in failed), names[0]))


def new_rerun(job: Mapping[str, Any]) -> dict[str, str]:
    """What `spec.rerun` has to be so that a failed job runs its failed stage again."""
    return {"fromStage": stage_to_repeat(job), "token": uuid.uuid4().hex[:12]}


def duration(seconds: float | None) -> str:
    """`1h05m`, `3m20s`, `12s`: the two largest units; nothing for None.

    >>> duration(3900), duration(200), duration(12.4), duration(None)
    ('1h05m', '3m20s', '12s', '')
    """
    if seconds is None:
        return ""
    left = max(0, round(seconds))
    for index, (unit, length) in enumerate(ABBREVIATIONS):
        if left >= length:
            next_unit, next_length = (*ABBREVIATIONS, ("s", 1))[index + 1]
            return f"{left // length}{unit}{left % length // next_length:02d}{next_unit}"
    return f"{left}s"


def byte_size(num_bytes: float | None) -> str:
    """`3.9 MB` in powers of 1000, as disks and downloads are counted; nothing for None."""
    if num_bytes is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
