"""`rlhf plan`: rows and the table."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlhf_api.job import RLHFJobSpec
from rlhf_api.profile import ProfileSpec
from rlhf_cli.job_files import read_object
from rlhf_cli.plans import basis_of, needs_gpus, plan_rows, print_plan, profile_spec

EXAMPLES = Path(__file__).parents[3] / "examples"
CPU = profile_spec(read_object(EXAMPLES / "profiles" / "cpu.yaml"))
H100 = profile_spec(read_object(EXAMPLES / "profiles" / "h100.yaml"))


def spec_of(name: str, **changes: Any) -> RLHFJobSpec:
    return RLHFJobSpec.from_wire(read_object(EXAMPLES / f"{name}.yaml")["spec"] | changes)


def test_a_row_for_every_stage_that_computes() -> None:
    rows = plan_rows(spec_of("tiny-chat"), CPU)
    assert [row.stage for row in rows] == ["sft", "rm", "ppo", "nf4"]
    assert {row.plan.strategy for row in rows if row.plan} == {"plain"}


def test_a_cluster_job() -> None:
    rows = {row.stage: row for row in plan_rows(spec_of("chat-7b"), H100)}
    assert (rows["sft"].nodes, rows["sft"].processes, rows["rm"].processes) == (2, 16, 8)
    assert all(row.plan and row.plan.strategy != "auto" for row in rows.values())
    wire = rows["ppo"].to_wire()
    assert wire["totalSteps"] == 300
    assert 0 < wire["gpuMemoryGiB"] < 80
    json.dumps(wire)


def test_what_does_not_fit_says_so_and_how_to_fit() -> None:
    rows = plan_rows(spec_of("chat-7b"), CPU)
    assert rows[0].plan is None
    assert rows[0].exit_code == 64
    assert rows[0].problem
    assert rows[0].to_wire()["problem"] == rows[0].problem


def test_the_table() -> None:
    text = io.StringIO()
    print_plan(Console(file=text, width=120), plan_rows(spec_of("chat-7b"), H100), basis_of(H100, "a profile"))
    shown = text.getvalue()
    assert "2 x 8" in shown
    assert "by rows" in shown
    assert "sft, rm, ppo, nf4: shape assumed like llama-7b" in shown
    assert "estimated for a profile: GPUs of 80 GiB" in shown


def test_the_table_is_whole_in_a_pipe() -> None:
    text = io.StringIO()
    print_plan(Console(file=text, width=80), plan_rows(spec_of("chat-7b", strategy="zero2-offload"), H100), basis_of(H100, "a profile"))
    assert "…" not in text.getvalue()
    assert "MICRO-BATCH" in text.getvalue()


def test_the_table_of_what_does_not_fit() -> None:
    text = io.StringIO()
    rows = plan_rows(spec_of("chat-7b"), CPU)
    print_plan(Console(file=text, width=120), rows, basis_of(CPU, "a profile"))
    assert "does not fit" in text.getvalue()
    assert rows[0].problem in text.getvalue()


@pytest.mark.parametrize(
    ("job", "changes", "profile", "verdict", "problem"),
    [
        pytest.param(
            "hello",
            {"model": {"source": {"uri": "builtin://models/tiny-llama"}, "precision": "fp16"}},
            CPU,
            "not supported",
            "spec.model.precision: 'fp16' is not supported (no loss scaling): try bf16",
            id="a combination that does not exist",
        ),
        pytest.param(
            "hello",
            {"topology": {"gpusPerNode": 1}},
            CPU,
            "does not fit",
            "spec.topology.gpusPerNode: 1 cannot be: the profile has no GPUs (spec.gpu): set gpusPerNode 0 or name another profile",
            id="a profile without GPUs",
        ),
        pytest.param(
            "hello",
            {"topology": {"gpusPerNode": 0, "nodes": 64}},
            CPU,
            "does not fit",
            "spec.topology.nodes: 64 must be at most 2, the profile's spec.limits.maxNodes",
            id="more nodes than allowed",
        ),
        pytest.param(
            "hello",
            {"topology": {"gpusPerNode": 16, "nodes": 4}},
            H100,
            "does not fit",
            "spec.topology: 4 nodes x 16 GPUs must be at most 32 GPUs, the profile's spec.limits.maxGpus",
            id="more GPUs than allowed",
        ),
    ],
)
def test_a_problem_of_all_stages_is_named_once(job: str, changes: dict[str, Any], profile: ProfileSpec, verdict: str, problem: str) -> None:
    rows = plan_rows(spec_of(job, **changes), profile)
    assert {row.problem for row in rows} == {problem}
    text = io.StringIO()
    print_plan(Console(file=text, width=120), rows, basis_of(profile, "a profile"))
    assert text.getvalue().count(verdict) >= len(rows)
    assert text.getvalue().count(problem) == 1


def test_which_jobs_need_gpus() -> None:
    assert needs_gpus(spec_of("chat-7b"))
    assert not needs_gpus(spec_of("hello"))
