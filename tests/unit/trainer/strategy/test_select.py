"""What is refused before a GPU is used (rule T7). Refusals that need no Colossal-AI; the planner's tests have them all."""

from pathlib import Path
from typing import Any

import pytest

from rlhf_trainer.errors import UnsupportedError
from rlhf_trainer.strategy.select import build
from tests.support.runs import a_run


@pytest.mark.parametrize(("changes", "message"), [
    pytest.param({"world_size": 2}, "runs one worker", id="plain with two workers"),
    pytest.param({"plan": {"tensorParallel": 2}}, "tensorParallel", id="tensor parallel"),
    pytest.param({"model": {"precision": "fp16"}}, "fp16", id="fp16 has no loss scaling"),
])  # fmt: skip
@pytest.mark.rule("T7")
def test_refused_with_the_field_and_a_way_out(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message) as caught:
        build(a_run(tmp_path, **changes))
    assert "try" in caught.value.message
