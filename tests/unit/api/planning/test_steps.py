"""Steps, rollouts and micro-batches: the arithmetic of batch sizes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_api.job import RLHFJobSpec
from rlhf_api.planning import steps
from tests.support.specs import DATASET, a_ppo, a_spec, an_sft


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "max_steps", "expected"),
    [
        pytest.param(100, 10, 1, None, 10, id="whole windows"),
        pytest.param(101, 10, 1, None, 11, id="a short last window is a step"),
        pytest.param(101, 10, 3, None, 33, id="windows do not cross epochs"),
        pytest.param(101, 10, 3, 20, 20, id="maxSteps ends earlier"),
        pytest.param(5, 10, 2, 20, 2, id="maxSteps does not add epochs"),
    ],
)
def test_total_steps(rows: int, batch: int, epochs: int, max_steps: int | None, expected: int) -> None:
    assert steps.total_steps(rows, batch, epochs, max_steps) == expected


def test_stated_steps_are_those_of_the_job_file() -> None:
    spec = a_spec(stages=[an_sft(maxSteps=10), an_sft("sft2")])
    assert [steps.stated_steps(stage) for stage in spec.stages] == [10, None]


@given(rows=st.integers(1, 4096), tokens=st.integers(1, 8192))
def test_micro_batches_divide_the_rows_and_end_at_one(rows: int, tokens: int) -> None:
    sizes = list(steps.micro_batches(rows, tokens))
    assert sizes[-1] == 1
    assert sizes == sorted(set(sizes), reverse=True)
    assert all(rows % size == 0 for size in sizes)


def test_micro_batches_stop_where_a_larger_forward_is_no_faster() -> None:
    assert list(steps.micro_batches(128, 2048)) == [16, 8, 4, 2, 1]


def problems(spec: RLHFJobSpec) -> list[str]:
    return [str(problem) for problem in steps.find_indivisible(spec)]


def test_batches_that_workers_cannot_share_are_named_with_the_next_that_they_can() -> None:
    spec = a_spec(
        topology={"nodes": 2, "gpusPerNode": 4},
        stages=[
            an_sft(globalBatchSize=12),
            {"name": "rm", "type": "RewardModel", "rewardModel": {"dataset": DATASET, "globalBatchSize": 4}},
            a_ppo(rolloutBatchSize=100, minibatchSize=50),
        ],
    )
    assert problems(spec) == [
        "spec.stages[0].sft.globalBatchSize: 12 must be a multiple of 8 (workers): try 16",
        "spec.stages[1].rewardModel.globalBatchSize: 4 must be a multiple of 8 (workers): try 8",
        "spec.stages[2].ppo.rolloutBatchSize: 100 must be a multiple of 8 (workers): try 112 with minibatchSize 56",
        "spec.stages[2].ppo.minibatchSize: 50 must be a multiple of 8 (workers): try 56 with rolloutBatchSize 112",
    ]


@given(rollout=st.integers(1, 3000), minibatch=st.integers(1, 3000), workers=st.integers(1, 64))
def test_the_batches_that_are_offered_work_together(rollout: int, minibatch: int, workers: int) -> None:
    block = a_ppo(rolloutBatchSize=rollout, minibatchSize=minibatch, reward={"source": {"uri": "pvc://m/rm"}})
    spec = a_spec(topology={"gpusPerNode": 0, "processesPerNode": workers}, stages=[block])
    found = list(steps.find_indivisible(spec))
    sizes = {"rolloutBatchSize": rollout, "minibatchSize": minibatch}
    for problem in found:
        sizes[problem.path.rpartition(".")[2]] = int(re.findall(r"try (\d+)", problem.rule)[0])
        sizes.update({name: int(size) for name, size in re.findall(r"with (\w+) (\d+)", problem.rule)})
    assert (
        sizes["rolloutBatchSize"] % workers == sizes["minibatchSize"] % workers == sizes["rolloutBatchSize"] % sizes["minibatchSize"] == 0
    )
    assert (found == []) == (sizes == {"rolloutBatchSize": rollout, "minibatchSize": minibatch})


def test_a_stage_with_its_own_topology_counts_its_own_workers() -> None:
    small = an_sft(globalBatchSize=12) | {"topology": {"gpusPerNode": 4}}
    assert problems(a_spec(topology={"nodes": 2, "gpusPerNode": 4}, stages=[small])) == []


@pytest.mark.parametrize("topology", [{"nodes": 4, "gpusPerNode": 8}, {"gpusPerNode": 0, "processesPerNode": 8}])
def test_a_quantize_stage_inherits_no_more_than_one_process(topology: dict[str, object]) -> None:
    spec = a_spec(topology=topology, stages=[an_sft(), {"name": "nf4", "type": "Quantize", "quantize": {}}])
    own = steps.topology_of(spec, spec.stages[1])
    assert (own.world_size, own.gpus_per_node) == (1, min(1, spec.topology.gpus_per_node))


def test_one_worker_shares_with_nobody() -> None:
    assert problems(a_spec(stages=[an_sft(globalBatchSize=13)])) == []
