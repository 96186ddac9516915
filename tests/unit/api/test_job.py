"""The job model: documented examples parse, defaults are those of the API, and what is unset stays off the wire."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

import rlhf_api
from rlhf_api import names
from rlhf_api.job import ModelSpec, ObjectMeta, RLHFJob, RLHFJobSpec, resolved_precision
from rlhf_api.policies import RunPolicy, StageRunPolicy, resolved_run_policy
from rlhf_api.topology import Topology
from tests.support.manifests import chat_7b, hello_rlhf


@pytest.mark.parametrize("wire", [hello_rlhf(), chat_7b()], ids=["hello-rlhf", "chat-7b"])
def test_documented_examples_come_back_complete_and_stable(wire: dict[str, object]) -> None:
    job = RLHFJob.from_wire(wire)
    complete = job.to_wire()
    assert RLHFJob.from_wire(json.loads(json.dumps(complete))) == job
    assert None not in _values(complete)


def _values(document: object) -> list[object]:
    if isinstance(document, dict):
        return [value for item in document.values() for value in _values(item)]
    if isinstance(document, list):
        return [value for item in document for value in _values(item)]
    return [document]


def test_defaults_of_a_small_job() -> None:
    spec = RLHFJob.from_wire(hello_rlhf()).spec.to_wire()
    assert {name: spec[name] for name in ("profile", "strategy", "seed", "suspend", "managedBy")} == {
        "profile": "default",
        "strategy": "auto",
        "seed": 42,
        "suspend": False,
        "managedBy": "rlhf.dev/operator",
    }
    assert spec["checkpoint"] == {"everySeconds": 900, "keep": 2}
    assert spec["runPolicy"] == {
        "maxAttempts": 3,
        "maxDisruptions": 20,
        "startupDeadlineSeconds": 1800,
        "progressDeadlineSeconds": 1800,
        "maxParallelStages": 1,
    }
    assert spec["storage"] == {"size": "1Gi", "retain": True}
    assert spec["model"] == {
        "source": {"uri": "builtin://models/tiny-llama"},
        "loadIn4bit": False,
        "trustRemoteCode": False,
        "chatTemplate": "auto",
    }
    assert spec["topology"] == {"nodes": 1, "gpusPerNode": 0, "tensorParallel": 1, "pipelineParallel": 1}


def test_lora_defaults() -> None:
    lora = RLHFJob.from_wire(hello_rlhf({"spec.model.lora": {}})).spec.model.lora
    assert lora is not None
    assert lora.to_wire() == {"rank": 16, "alpha": 32, "dropout": 0.0}


def test_models_are_frozen() -> None:
    job = RLHFJob.from_wire(hello_rlhf())
    with pytest.raises(ValidationError, match="frozen"):
        job.spec.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "model",
    [
        pytest.param({"loadIn4Bit": True}, id="another capital"),
        pytest.param({"load_in_4bit": True}, id="Python's spelling"),
        pytest.param({"chatTemplate": None}, id="null is not a value"),
    ],
)
def test_the_wire_has_one_spelling(model: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ModelSpec.from_wire({"source": {"uri": "builtin://models/tiny-llama"}, **model})


def test_python_may_use_its_own_names() -> None:
    assert Topology(gpus_per_node=2, nodes=2).to_wire()["gpusPerNode"] == 2


def test_metadata_of_kubernetes_is_kept() -> None:
    meta = ObjectMeta.from_wire({"name": "a", "managedFields": [{"manager": "x"}], "creationTimestamp": "2026-01-01T10:00:00Z"})
    assert meta.to_wire() == {
        "name": "a",
        "namespace": "default",
        "managedFields": [{"manager": "x"}],
        "creationTimestamp": "2026-01-01T10:00:00Z",
    }


@pytest.mark.parametrize(
    ("topology", "num_processes", "world_size", "num_gpus", "data_parallel"),
    [
        pytest.param({"gpusPerNode": 0}, 1, 1, 0, 1, id="one process on a CPU"),
        pytest.param({"gpusPerNode": 0, "processesPerNode": 2, "nodes": 2}, 2, 4, 0, 4, id="processes on CPUs"),
        pytest.param({"gpusPerNode": 8, "nodes": 2}, 8, 16, 16, 16, id="one process per GPU"),
        pytest.param({"gpusPerNode": 8, "tensorParallel": 2, "pipelineParallel": 2}, 8, 8, 8, 2, id="groups share their rows"),
    ],
)
def test_topology_counts(topology: dict[str, int], num_processes: int, world_size: int, num_gpus: int, data_parallel: int) -> None:
    it = Topology.from_wire(topology)
    assert (it.num_processes_per_node, it.world_size, it.num_gpus, it.data_parallel) == (num_processes, world_size, num_gpus, data_parallel)


def test_a_stage_replaces_single_values_of_the_run_policy() -> None:
    job = RunPolicy(max_attempts=3, progress_deadline_seconds=100)
    stage = StageRunPolicy(max_attempts=5)
    resolved = resolved_run_policy(job, stage)
    assert (resolved.max_attempts, resolved.progress_deadline_seconds) == (5, 100)
    assert resolved_run_policy(job, None) is job


@pytest.mark.parametrize(
    ("precision", "num_gpus", "expected"),
    [
        pytest.param(None, 8, "bf16", id="bf16 on GPUs"),
        pytest.param(None, 0, "fp32", id="fp32 on CPUs"),
        pytest.param("bf16", 0, "bf16", id="what is written holds"),
    ],
)
def test_precision(precision: str | None, num_gpus: int, expected: str) -> None:
    model = ModelSpec.from_wire({"source": {"uri": "builtin://models/x"}} | ({"precision": precision} if precision else {}))
    assert resolved_precision(model, Topology(gpus_per_node=num_gpus)) == expected


def test_a_stage_is_found_by_name() -> None:
    spec = RLHFJobSpec.from_wire(hello_rlhf()["spec"])
    assert spec.stage("rm").type == "RewardModel"
    with pytest.raises(KeyError):
        spec.stage(names.PREPARE)


def test_names_of_children() -> None:
    assert names.attempt_name("chat-7b", "ppo", 2) == "chat-7b-ppo-r2"
    assert names.claim_name("chat-7b", "1f3c9a2e-aaaa") == "chat-7b-1f3c9a2e"
    assert names.snapshot_name("chat-7b", "6c9f21aabbbb") == "chat-7b-profile-6c9f21aa"
    assert names.network_policy_name("chat-7b") == "chat-7b-isolate"
    assert names.attempt_directory("ppo", 2) == "stages/ppo/r2"


def test_the_longest_name_of_a_pod_fits() -> None:
    longest = names.attempt_name("a" * 36, "b" * 15, 999)
    assert len(f"{longest}-1023") <= 63


def test_the_contract_imports_alone() -> None:
    heavy = "{'torch', 'transformers', 'kubernetes', 'kopf', 'ruamel', 'yaml', 'typer', 'rich', 'numpy'}"
    program = f"import sys, rlhf_api.validate, rlhf_api.crd.render, rlhf_api.run_config; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_package_itself_imports_nothing() -> None:
    path = {"PYTHONPATH": str(Path(str(rlhf_api.__file__)).parent.parent)}
    program = "import sys; before = set(sys.modules); import rlhf_api; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True, timeout=60, env=path)
    assert done.stdout.strip() == "['rlhf_api']"
