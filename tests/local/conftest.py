"""One undisturbed job for the whole tier: other tests compare their weights and losses with it."""

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
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Run it once. Tests only read it."""
    directory = tmp_path_factory.mktemp("undisturbed")
    claim = directory / "models"
    claim.mkdir()
    publish = {"model": {"stage": "nf4"}, "destination": {"uri": "pvc://models/chain"}, "modelCard": {"license": "apache-2.0"}}
    file = a_job_file(directory / "chain.json", stages={"sft": SFT, "rm": REWARD, "ppo": PPO, "nf4": NF4, "publish": publish})
    rlhf = Rlhf(directory)
    finished = rlhf("run", file, "--claim", f"models={claim}", "--output", "json")
    assert finished.code == 0, finished.err
    return Undisturbed(rlhf, file, claim / "chain", finished.code, finished.result, finished.err)
