"""`env.json`: what an attempt ran on. Two runs that differ are first compared here."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rlhf_trainer.run import Run
from rlhf_trainer.state.manifest import write_atomically

PACKAGES = ("rlhf-operator", "torch", "transformers", "colossalai", "peft", "bitsandbytes", "safetensors", "numpy")


def describe(run: Run, strategy: str, optimizers: Mapping[str, str]) -> dict[str, Any]:
    """Versions, device, strategy and the optimizer of each model, as JSON. Nothing is imported to find out."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": platform.machine(),
        "device": run.config.gang.device,
        "worldSize": run.world_size,
        "strategy": strategy,
        "optimizers": dict(optimizers),
    }


def write(run: Run, environment: Mapping[str, Any]) -> None:
    """Put `env.json` into the attempt's directory."""
    write_atomically(run.directory / "env.json", json.dumps(environment, indent=1, sort_keys=True).encode())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
