"""Profiles: the smallest one has the documented defaults, and status documents survive newer writers."""

from rlhf_api.profile import ClusterRLHFProfile
from rlhf_api.status import JobStatus
from tests.support.manifests import h100_profile


def test_defaults_of_the_smallest_profile() -> None:
    profile = ClusterRLHFProfile.from_wire(h100_profile())
    spec = profile.spec.to_wire()
    spec.pop("image")
    assert spec == {
        "allowUnpinnedImage": False,
        "serviceAccountName": "default",
        "scheduling": {"schedulerName": "default-scheduler", "priorityClasses": [], "requireQueue": False},
        "limits": {
            "maxNodes": 1,
            "maxGpus": 8,
            "maxActiveDeadlineSeconds": 259200,
            "maxTtlSeconds": 2592000,
            "maxStorage": "1Ti",
            "maxRunningJobsPerNamespace": 10,
        },
        "sources": {"allow": [], "allowTrustRemoteCode": False, "allowPrivateAddresses": False},
        "publish": {"allow": [], "requireSignature": False},
        "storage": {"allowedClasses": [], "allowExistingClaims": False},
        "networkPolicy": "Isolate",
        "resources": {"perGpu": {"cpu": "8", "memory": "64Gi"}, "perProcess": {"cpu": "1", "memory": "2Gi"}, "sharedMemory": "1Gi"},
        "env": [],
        "retry": {"backoffSeconds": 10, "nodeLossSeconds": 30},
        "security": {"runAsUser": 1000, "fsGroup": 1000},
    }


def test_a_gpu_profile() -> None:
    profile = ClusterRLHFProfile.from_wire(h100_profile({"spec.gpu": {"memoryGiB": 80}}))
    assert profile.spec.gpu is not None
    assert profile.spec.gpu.to_wire() == {"memoryGiB": 80, "resourceName": "nvidia.com/gpu"}


def test_a_profile_has_no_namespace() -> None:
    assert ClusterRLHFProfile.from_wire(h100_profile()).to_wire()["metadata"] == {"name": "h100"}


def test_a_status_of_a_newer_operator_is_read() -> None:
    wire = {
        "phase": "Running",
        "mood": "fine",
        "startTime": "2026-01-01T12:00:00.5+02:00",
        "stages": [{"name": "sft", "type": "SFT", "phase": "Running", "plan": {"strategy": "plain", "worldSize": 1, "gpuMemoryGiB": 2}}],
    }
    status = JobStatus.from_wire(wire)
    written = status.to_wire()
    assert "mood" not in written
    assert written["startTime"] == "2026-01-01T10:00:00Z"
    assert written["stages"][0]["plan"]["gpuMemoryGiB"] == 2.0
