"""This machine as a platform: the ClusterRLHFProfile that `rlhf run` uses when no file is given. Limits do not bind; memory does."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from rlhf_api.job import RLHFJobSpec
from rlhf_api.profile import ProfileSpec
from rlhf_operator.core.specs import stages_of

_SOURCES = ("hf://", "s3://", "gs://", "oci://", "https://", "pvc://")
_DESTINATIONS = ("hf://", "s3://", "gs://", "oci://", "pvc://")
_MIB = 1024**2
_NO_LIMIT_SECONDS = 31_536_000


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is."""

    free_memory_bytes: int
    gpus: tuple[str, ...] = ()
    """Indices as CUDA_VISIBLE_DEVICES takes them."""
    gpu_memory_gib: int = 0


def this_machine() -> Machine:
    """Free memory, within the container's limit, and the GPUs that CUDA may see. Reads /proc and asks nvidia-smi; imports no torch."""
    gpus = _gpus()
    return Machine(_free_memory(), tuple(index for index, _ in gpus), min((memory for _, memory in gpus), default=0))


def profile_of(machine: Machine, spec: RLHFJobSpec) -> ProfileSpec:
    """The profile of a job on this machine: everything allowed, with the memory that is free shared by its most processes."""
    stages = stages_of(spec)
    most_processes = max(stage.topology.nodes * stage.topology.num_processes_per_node for stage in stages)
    share = f"{max(1, machine.free_memory_bytes // most_processes // _MIB)}Mi"
    gpu = {"memoryGiB": machine.gpu_memory_gib} if machine.gpus and machine.gpu_memory_gib else None
    limits = {
        "maxNodes": 1024,
        "maxGpus": 16384,
        "maxActiveDeadlineSeconds": _NO_LIMIT_SECONDS,
        "maxTtlSeconds": _NO_LIMIT_SECONDS,
        "maxStorage": "1024Pi",
        "maxRunningJobsPerNamespace": 1000,
    }
    scheduling = {"priorityClasses": [spec.priority_class_name] if spec.priority_class_name else []}
    storage = {"allowExistingClaims": True, "allowedClasses": [spec.storage.storage_class_name] if spec.storage.storage_class_name else []}
    return ProfileSpec.from_wire(
        {
            "description": "made from this machine by rlhf run",
            "image": "local",
            "allowUnpinnedImage": True,
            "limits": limits,
            "scheduling": scheduling,
            "sources": {"allow": list(_SOURCES)},
            "publish": {"allow": list(_DESTINATIONS)},
            "storage": storage,
            "resources": {"perProcess": {"memory": share}, "perGpu": {"memory": share}},
            **({"gpu": gpu} if gpu else {}),
        }
    )


def _free_memory() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min([available, *_container_limits()])


def _container_limits() -> list[int]:
    """What the cgroup of this process leaves, when it has a limit."""
    found = []
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            total, used = Path(limit).read_text(encoding="ascii").strip(), Path(usage).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if total.isdigit() and int(total) < 2**60:  # cgroup v1 writes "no limit" as a huge number
            found.append(max(_MIB, int(total) - int(used)))
    return found


def _gpus() -> list[tuple[str, int]]:
    """Index and memory in GiB of each GPU; none when there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=index,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(",") for line in answer.splitlines() if line.count(",") == 1]
    found = [(index.strip(), int(memory) // 1024) for index, memory in rows if memory.strip().isdigit()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found if visible is None else [gpu for gpu in found if gpu[0] in visible.split(",")]
