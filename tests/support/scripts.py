"""Scripts under `examples/`, which are no package: loaded by their path."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).parents[2] / "examples"


def load_script(path: str) -> ModuleType:
    """The script `examples/PATH` as a new module."""
    name = "examples_" + "_".join(Path(path).with_suffix("").parts).replace("-", "_")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
