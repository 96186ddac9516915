"""The README.md beside a model: what it is, where it came from, how it was measured, how to load it (rule O1). Text only, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LOAD_MODEL = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(path)
tokenizer = AutoTokenizer.from_pretrained(path)"""
LOAD_SCORE = """from transformers import AutoModelForSequenceClassification

model = AutoModelForSequenceClassification.from_pretrained(path)  # the raw score; stage.json has the mean to subtract"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The facts of a model card. Empty ones leave no section behind."""

    title: str
    summary: str
    metrics: Mapping[str, float]
    inputs: Mapping[str, str]
    """Role → digest of what the stage read."""
    loading: str = LOAD_MODEL
    requires: str = ""
    """What loading needs besides transformers."""
    license: str | None = None
    tags: Sequence[str] = ()
    description: str | None = None
    lineage: Sequence[str] = field(default_factory=tuple)
    """One line a stage, oldest first."""
    images: Sequence[str] = ()

    def text(self) -> str:
        """The card as Markdown with the YAML header that model hubs read."""
        sections = [
            self._header(),
            f"# {self.title}\n\n{self.summary}",
            self.description or "",
            self._table("Measured", "metric", "value", {name: f"{value:.6g}" for name, value in sorted(self.metrics.items())}),
            "\n".join(f"![{image}]({image})" for image in self.images),
            _section("Lineage", "\n".join(f"- {line}" for line in self.lineage)),
            self._table("Made from", "input", "digest", {name: f"`{value}`" for name, value in sorted(self.inputs.items())}),
            _section("Load", f"```python\n{self.loading}\n```" + (f"\n\nNeeds {self.requires}." if self.requires else "")),
            _section(
                "Limits",
                "Numbers above were measured on held-out rows of the training data's own source. Nothing here says how the model "
                "behaves on other prompts, and no safety evaluation was made.",
            ),
        ]
        return "\n\n".join(section for section in sections if section) + "\n"

    def _header(self) -> str:
        lines = ["library_name: transformers"]
        if self.license:
            lines.append(f"license: {json.dumps(self.license)}")
        if self.tags:
            lines.append(f"tags: {json.dumps(list(self.tags), ensure_ascii=False)}")
        return "\n".join(["---", *lines, "---"])

    def _table(self, title: str, left: str, right: str, rows: Mapping[str, str]) -> str:
        lines = [f"| {left} | {right} |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]
        return _section(title, "\n".join(lines) if rows else "")


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""
