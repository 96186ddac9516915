"""A seeded part of `make chaos`: PPO, which has all kinds of state, is killed, stopped, starved of disk, fed NaN, and loses every file once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.rule("C3", "C4", "C5", "C8", "C11", "P19")
@pytest.mark.rule("D8", "C7", "C9")
def test_nothing_is_lost_whatever_happens_to_ppo() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "tests.chaos", "--stages", "ppo", "--points", "4", "--seed", "1", "--one-process"]
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = re.search(r"^(\d+) points tried, 0 lost", ended.stdout, re.MULTILINE)
    assert found, ended.stdout
    assert int(found[1]) >= 15
