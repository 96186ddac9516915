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
            yield from _indivisible(f"{path}.ppo.rolloutBatchSize", block.rollout_batch_size, workers)
            yield from _indivisible(f"{path}.ppo.minibatchSize", block.minibatch_size, workers)
        elif isinstance(block, Supervised):
            yield from _indivisible(f"{path}.{block_field(stage.type)}.globalBatchSize", block.global_batch_size, workers)


def _indivisible(path: str, size: int, workers: int) -> Iterator[Problem]:
    if size % workers:
        higher = (size // workers + 1) * workers
        yield Problem(path, size, f"must be a multiple of {workers} (workers): try {higher}")
