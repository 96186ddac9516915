"""What Prepare found in a dataset: counted while rows stream by, stored in prepared.json, printed as a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlhf_trainer.data.rows import ConversationRow, PreferenceRow, Row
from rlhf_trainer.data.tokenize import Dropped


@dataclass(slots=True)
class Statistics:
    """Counts of one dataset's training and evaluation rows; `held_out` rows are counted apart, by `Prepared`."""

    lengths: list[int] = field(default_factory=list)
    """Tokens of each row that is used; of a preference pair the longer answer, prompt included."""
    label_tokens: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    contents: Counter[bytes] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_lengths: list[int] = field(default_factory=list)

    def add(self, row: Row | Dropped) -> None:
        """Count one row, used or not."""
        if isinstance(row, Dropped):
            self.dropped[row.reason] += 1
            self.dropped_lengths.append(row.num_tokens)
            return
        self.languages[row.language] += 1
        if isinstance(row, ConversationRow):
            self.label_tokens += int(row.loss_mask.sum())
            content, length = row.input_ids.tobytes(), len(row.input_ids)
        elif isinstance(row, PreferenceRow):
            self.sources[row.source] += 1
            content = row.chosen_ids.tobytes() + b"|" + row.rejected_ids.tobytes()
            length = max(len(row.chosen_ids), len(row.rejected_ids))
        else:
            content, length = row.prompt_ids.tobytes(), len(row.prompt_ids)
        self.contents[content] += 1
        self.lengths.append(length)

    @property
    def num_rows(self) -> int:
        """Rows that were read, used or not."""
        return len(self.lengths) + len(self.dropped_lengths)

    @property
    def drop_fraction(self) -> float:
        return len(self.dropped_lengths) / self.num_rows if self.num_rows else 0.0

    def summary(self) -> dict[str, Any]:
        """JSON-ready, for prepared.json."""
        used = len(self.lengths)
        found: dict[str, Any] = {
            "readRows": self.num_rows,
            "usedRows": used,
            "tokens": sum(self.lengths),
            "languages": {name: round(count / used, 4) for name, count in sorted(self.languages.items())},
            "lengths": _quantiles(self.lengths),
            "histogram": histogram(self.lengths + self.dropped_lengths),
            "duplicates": sum(count - 1 for count in self.contents.values()),
            "droppedRows": len(self.dropped_lengths),
            "dropped": dict(sorted(self.dropped.items())),
        }
        if self.label_tokens:
            found["labelTokens"] = self.label_tokens
        if self.sources:
            found["sources"] = dict(sorted(self.sources.items()))
        return found


def histogram(lengths: list[int]) -> dict[str, int]:
    """Rows by length, in powers of two: {"<=16": 3, "<=32": 40}."""
    counts: Counter[int] = Counter(max(8, 1 << max(length - 1, 0).bit_length()) for length in lengths)
    return {f"<={bound}": counts[bound] for bound in sorted(counts)}


def describe(key: str, summary: Mapping[str, Any]) -> str:
    """One line for the log."""
    lengths, languages = summary["lengths"], summary["languages"]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in languages.items())
    dropped = ", ".join(f"{count} {reason}" for reason, count in summary["dropped"].items()) or "none"
    return (
        f"{key}: {summary['usedRows']} of {summary['readRows']} rows, {summary['tokens']} tokens; {shares}; "
        f"lengths {lengths['min']} to {lengths['max']}, median {lengths['p50']}; {summary['duplicates']} duplicates; dropped: {dropped}"
    )


def _quantiles(lengths: list[int]) -> dict[str, float]:
    if not lengths:
        return {}
    low, median, high, top = np.quantile(lengths, [0, 0.5, 0.95, 1]).tolist()
    return {"min": int(low), "mean": round(float(np.mean(lengths)), 2), "p50": median, "p95": round(high, 2), "max": int(top)}
