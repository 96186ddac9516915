"""The profile of this machine: nothing binds but memory, and GPUs are there only when CUDA may see them."""

import subprocess
from typing import Any

import pytest

from rlhf_api.job import RLHFJobSpec
from rlhf_operator.local import machine
from rlhf_operator.local.machine import Machine, profile_of, this_machine
from tests.support.rig import one_stage

GIB = 2**30


def a_spec(**changes: Any) -> RLHFJobSpec:
    return RLHFJobSpec.from_wire(one_stage(**changes))


def test_the_most_processes_of_a_stage_share_the_memory() -> None:
    profile = profile_of(Machine(8 * GIB), a_spec(topology={"nodes": 2, "gpusPerNode": 0, "processesPerNode": 2}))
    assert profile.resources.per_process.memory == "2048Mi"
    assert profile.gpu is None


def test_limits_do_not_bind_and_every_scheme_is_allowed() -> None:
    profile = profile_of(Machine(GIB), a_spec(priorityClassName="high", storage={"size": "1Gi", "storageClassName": "fast"}))
    assert (profile.image, profile.allow_unpinned_image, profile.storage.allow_existing_claims) == ("local", True, True)
    assert profile.limits.max_gpus == 16384
    assert "pvc://" in profile.sources.allow
    assert "pvc://" in profile.publish.allow
    assert profile.scheduling.priority_classes == ("high",)
    assert profile.storage.allowed_classes == ("fast",)


def test_gpus_of_the_machine_are_those_of_the_profile() -> None:
    profile = profile_of(Machine(GIB, ("0", "1"), 80), a_spec())
    assert profile.gpu is not None
    assert profile.gpu.memory_gib == 80


def test_this_machine_has_some_memory() -> None:
    assert this_machine().free_memory_bytes > 2**20


@pytest.mark.parametrize(
    ("answer", "visible", "gpus"),
    [
        pytest.param("0, 81559\n1, 81559\n", None, ("0", "1"), id="all"),
        pytest.param("0, 81559\n1, 81559\n", "1", ("1",), id="what CUDA_VISIBLE_DEVICES leaves"),
        pytest.param("0, 81559\n", "", (), id="none visible"),
        pytest.param("No devices were found\n", None, (), id="a driver without a device"),
        pytest.param("0, [N/A]\n", None, (), id="a device without memory"),
    ],
)
def test_gpus_are_asked_of_the_driver(monkeypatch: pytest.MonkeyPatch, answer: str, visible: str | None, gpus: tuple[str, ...]) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(machine.subprocess, "run", lambda *args, **options: subprocess.CompletedProcess(args, 0, answer, ""))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = this_machine()
    assert found.gpus == gpus
    assert found.gpu_memory_gib == (79 if gpus else 0)


def test_a_driver_that_does_not_answer_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 20)

    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(machine.subprocess, "run", fail)
    assert this_machine().gpus == ()
