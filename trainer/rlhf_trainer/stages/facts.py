"""Measurements that belong to the whole stage: they must survive a resume, because the moment they were taken does not come back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_trainer.errors import InputError


class Facts:
    """Named numbers, part of the loop's state: the base model, for example, is measured before the first step only.

    `pinned` digests say which models the stage was given; a checkpoint of others is refused.
    """

    def __init__(self, metrics: Mapping[str, float] | None = None, pinned: Mapping[str, str] | None = None) -> None:
        self.metrics: dict[str, float] = dict(metrics or {})
        self._pinned = dict(pinned or {})

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take over newer values."""
        self.metrics |= metrics

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"metrics": self.metrics, "pinned": self._pinned}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`.

        Raises:
            InputError: the checkpoint was made from other inputs: PPO, for one, would get another reference (rule P9).
        """
        # Only what is pinned here: checkpoints of older code pinned Prepare's output too, which a new run of Prepare replaces.
        changed = sorted(role for role, digest in self._pinned.items() if state["pinned"].get(role) != digest)
        if changed:
            raise InputError(f"the checkpoint was made from other inputs: {', '.join(changed)}", hint="rerun the stage from its start")
        self.metrics = dict(state["metrics"])
