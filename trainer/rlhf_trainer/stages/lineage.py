"""Where a model came from: the outputs of all stages behind it, found on the volume by the digests that each manifest names as its inputs.

No torch, no guesses: an output that does not hash to the digest it is known by is not part of the lineage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_api.base import digest
from rlhf_api.outcome import Manifest
from rlhf_trainer.errors import InputError
from rlhf_trainer.state import manifest


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One output behind a model."""

    directory: Path
    """The attempt's directory: `output/`, `metrics.jsonl` and logs lie below it."""
    digest: str
    manifest: Manifest

    def to_wire(self) -> dict[str, Any]:
        """As `lineage.json` carries it: names, digests and measurements, no paths of this machine."""
        found = self.manifest
        return {
            "stage": found.stage,
            "attempt": found.attempt,
            "step": found.step,
            "digest": self.digest,
            "inputs": dict(found.inputs),
            "metrics": dict(found.metrics),
        }

    def line(self) -> str:
        """One line of a model card."""
        return f"`{self.manifest.stage}` attempt {self.manifest.attempt}, step {self.manifest.step}, output `{self.digest}`"


def trace(root: Path, newest: str) -> list[Ancestor]:
    """Every output that the one with the digest `newest` was made from, itself included; oldest first.

    Raises:
        InputError: the output itself is not on the volume.
    """
    known = dict(_outputs(root))
    if newest not in known:
        raise InputError(f"{root}: no output has the digest {newest}", hint="rerun the stage that made it: spec.rerun.fromStage")
    found: dict[str, Ancestor] = {}

    def visit(current: str) -> None:
        if current not in known or current in found:
            return
        ancestor = known[current]
        for role in sorted(ancestor.manifest.inputs):
            visit(ancestor.manifest.inputs[role])
        found[current] = ancestor

    visit(newest)
    return list(found.values())


def _outputs(root: Path) -> Iterator[tuple[str, Ancestor]]:
    for path in sorted(root.glob(f"stages/*/r*/output/{manifest.MANIFEST}")):
        found = digest(path.read_bytes())
        try:
            yield found, Ancestor(path.parent.parent, found, manifest.read(path.parent, found))
        except InputError:  # a foreign or damaged manifest cannot be the one that was asked for
            continue
