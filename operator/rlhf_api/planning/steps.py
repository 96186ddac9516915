"""Steps: rows and batch sizes in; steps, rollouts and micro-batches out. A batch that does not divide is refused with one that does.

Windows of the data order hold one global batch (PPO: the prompts of one rollout) and never cross an epoch; the last of an epoch may be
short (rule D8), so each epoch rounds up.
"""

import math
from collections.abc import Iterator
from typing import Final

from rlhf_api.job import RLHFJobSpec
from rlhf_api.problems import Problem
from rlhf_api.stages import PPO, Stage, Supervised, block_field
from rlhf_api.topology import Topology

MAX_MICRO_BATCH_TOKENS: Final = 32768
"""Beyond it a larger forward pass is not faster, it only needs more memory; measured on no GPU yet."""


def total_steps(num_rows: int, global_batch_size: int, num_epochs: int, max_steps: int | None = None) -> int:
    """Optimizer steps of SFT and RewardModel, rollouts of PPO: all epochs, or `max_steps` when that is less (rule F3)."""
    steps = math.ceil(num_rows / global_batch_size) * num_epochs
    return steps if max_steps is None else min(steps, max_steps)


def stated_steps(stage: Stage) -> int | None:
    """The steps that the job file fixes; None when they depend on the number of rows."""
    block = stage.block
    if isinstance(block, PPO):
        return block.steps
    return block.max_steps if isinstance(block, Supervised) else None


def index_of(spec: RLHFJobSpec, stage: Stage) -> int:
    """Where the stage stands in the job file; names are unique there."""
    return [candidate.name for candidate in spec.stages].index(stage.name)


def topology_of(spec: RLHFJobSpec, stage: Stage) -> Topology:
    """The topology a stage runs on: its own as a whole, else the job's. Quantize and Publish take one process."""
    if stage.type.is_training:
        return stage.topology or spec.topology
    return stage.topology or Topology(nodes=1, gpus_per_node=min(1, spec.topology.gpus_per_node))


def written_at(spec: RLHFJobSpec, stage: Stage, field: str) -> str:
    """Where the `strategy` or `topology` of a stage was written: `spec.stages[2].strategy`, or `spec.strategy` if the stage has none."""
    return f"spec.{field}" if getattr(stage, field) is None else f"spec.stages[{index_of(spec, stage)}].{field}"


def rows_per_worker(stage: Stage, topology: Topology) -> int:
    """Rows that one worker adds to an optimizer step (pairs, for a reward model); at least one."""
    block = stage.block
    if isinstance(block, PPO):
        return max(1, block.minibatch_size // topology.data_parallel)
    return max(1, block.global_batch_size // topology.data_parallel) if isinstance(block, Supervised) else 1


def row_tokens(stage: Stage) -> int:
    """The longest row of a training stage, in tokens."""
    block = stage.block
    if isinstance(block, PPO):
        return block.max_prompt_length + block.max_new_tokens
    return block.max_length if isinstance(block, Supervised) else 0


def micro_batches(rows: int, tokens: int) -> Iterator[int]:
    """Micro-batch sizes to try for a worker's rows, largest first: divisors, so that all micro-batches are equally large.

    8 rows of 2048 tokens -> 8, 4, 2, 1
    """
    largest = max(1, MAX_MICRO_BATCH_TOKENS // max(tokens, 1))
    return (size for size in range(min(rows, largest), 0, -1) if rows % size == 0)


def find_indivisible(spec: RLHFJobSpec) -> Iterator[Problem]:
    """Batches that the workers cannot share evenly: with one row to spare, a worker would wait for its peers for ever."""
    for index, stage in enumerate(spec.stages):
        if not stage.type.is_training:
            continue
        workers, block = topology_of(spec, stage).data_parallel, stage.own_block
        path = f"spec.stages[{index}]"
        if isinstance(block, PPO):
            yield from _indivisible_ppo(f"{path}.ppo", block.rollout_batch_size, block.minibatch_size, workers)
        elif isinstance(block, Supervised) and (size := block.global_batch_size) % workers:
            words = f"must be a multiple of {workers} (workers): try {_up_to_multiple(size, workers)}"
            yield Problem(f"{path}.{block_field(stage.type)}.globalBatchSize", size, words)


def _indivisible_ppo(path: str, rollout: int, minibatch: int, workers: int) -> Iterator[Problem]:
    """What is offered works together: both sizes are multiples of the workers, and one divides the other."""
    if not (rollout % workers or rollout % minibatch or minibatch % workers):
        return
    new_rollout, new_minibatch = _sizes_that_work(rollout, minibatch, workers)
    with_rollout = f" with rolloutBatchSize {new_rollout}" if new_rollout != rollout else ""
    with_minibatch = f" with minibatchSize {new_minibatch}" if new_minibatch != minibatch else ""
    must = f"must be a multiple of {workers} (workers)"
    if rollout % workers:
        yield Problem(f"{path}.rolloutBatchSize", rollout, f"{must}: try {new_rollout}{with_minibatch}")
    if rollout % minibatch:
        words = f"minibatchSize must divide rolloutBatchSize: {minibatch} does not divide {rollout}"
        yield Problem(f"{path}.minibatchSize", minibatch, f"{words}, try {new_minibatch}{with_rollout}")
    elif minibatch % workers:
        yield Problem(f"{path}.minibatchSize", minibatch, f"{must}: try {new_minibatch}{with_rollout}")


def _sizes_that_work(rollout: int, minibatch: int, workers: int) -> tuple[int, int]:
    """The nearest rollout and minibatch: the rollout stays if the workers divide it, and then the minibatch shrinks to a divisor."""
    if rollout % workers == 0:
        divisors = (size for size in range(workers, rollout + 1, workers) if rollout % size == 0)
        return rollout, min(divisors, key=lambda size: (abs(size - minibatch), size))
    minibatch = _up_to_multiple(minibatch, workers)
    return _up_to_multiple(rollout, minibatch), minibatch


def _up_to_multiple(size: int, of: int) -> int:
    return -(-size // of) * of
