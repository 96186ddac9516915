"""Random number generators survive a checkpoint."""

import json
import random

import numpy as np
import pytest
import torch

from rlhf_trainer.state import rng


def draw() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(1)), random.gauss(0, 1), float(np.random.randn())]


@pytest.mark.rule("C1")
def test_restored_generators_continue_exactly() -> None:
    rng.seed_all(3)
    draw()
    state = json.loads(json.dumps(rng.capture()))
    expected = draw()
    rng.seed_all(4)
    rng.restore(state)
    assert draw() == expected


def test_a_seed_gives_the_same_numbers_again() -> None:
    rng.seed_all(5)
    first = draw()
    rng.seed_all(5)
    assert draw() == first
