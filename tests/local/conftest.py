"""One undisturbed job for the whole tier: other tests compare their weights and losses with it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import NF4, PPO, REWARD, SFT, Rlhf, a_job_file


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """The job `chain`: every stage type, one process, never interrupted."""

    rlhf: Rlhf
    file: Path
    artifact: Path
    code: int
    result: dict[str, Any]
    said: str


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    """Run it once. Tests only read it."""
    with Rlhf(tmp_path_factory.mktemp("undisturbed")) as rlhf:
        claim = rlhf.directory / "models"
        claim.mkdir()
        publish = {"model": {"stage": "nf4"}, "destination": {"uri": "pvc://models/chain"}, "modelCard": {"license": "apache-2.0"}}
        stages = {"sft": SFT, "rm": REWARD, "ppo": PPO, "nf4": NF4, "publish": publish}
        file = a_job_file(rlhf.directory / "chain.json", stages=stages)
        finished = rlhf("run", file, "--claim", f"models={claim}", "--output", "json")
        assert finished.code == 0, finished.err
        yield Undisturbed(rlhf, file, claim / "chain", finished.code, finished.result, finished.err)
