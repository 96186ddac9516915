"""The objects of an attempt: what a worker may see and do, and that nothing in them depends on the time or on a user's text."""

import copy
import json
import re
from typing import Any

import pytest

from rlhf_api.base import sha256_hex
from rlhf_api.outcome import Outcome
from rlhf_api.run_config import RunConfig
from rlhf_api.status import CheckpointStatus, StageStatus
from rlhf_operator.core.manifests import quantity
from rlhf_operator.core.manifests.job import compare
from rlhf_operator.core.manifests.run import resume_from, run_config
from rlhf_operator.core.plans import Planned
from rlhf_operator.core.specs import stages_of
from tests.support.rig import DIGEST, HELLO, PROFILE, Rig, one_stage
from tests.support.stages import a_stage

GPUS: dict[str, Any] = {
    **PROFILE,
    "image": "registry/trainer@sha256:" + "0" * 64,
    "gpu": {"memoryGiB": 80},
    "imagePullSecrets": ["pull"],
    "podLabels": {"cost": "42"},
    "podAnnotations": {"note": "x"},
    "scheduling": {"nodeSelector": {"gpu": "h100"}, "runtimeClassName": "nvidia", "priorityClasses": ["high"], "tolerations": [{"key": "gpu", "operator": "Exists"}]},
    "resources": {"perGpu": {"cpu": "8", "memory": "64Gi", "extended": {"rdma/hca": "1"}}, "perProcess": {"cpu": "500m", "memory": "16Gi"}, "sharedMemory": "1Gi"},
    "env": [{"name": "NCCL_SOCKET_IFNAME", "value": "eth0"}],
    "retry": {"nodeLossSeconds": 7},
}  # fmt: skip


@pytest.fixture(scope="module")
def gang() -> Rig:
    """A job whose stage sft is a gang of two pods with two GPUs each, in a queue."""
    topology = {"nodes": 2, "gpusPerNode": 2, "required": "topology.kubernetes.io/zone"}
    rig = Rig(one_stage(topology=topology, queueName="team-a", priorityClassName="high"), GPUS)
    rig.settle()
    for stage in ("prepare", "sft"):
        job = rig.job(stage)
        job["spec"]["suspend"] = False
        if stage == "prepare":
            rig.store.update("Job", "team-a", job)
            rig.succeed("prepare")
    return rig


def pod_spec(rig: Rig, stage: str) -> dict[str, Any]:
    spec: dict[str, Any] = rig.job(stage)["spec"]["template"]["spec"]
    return spec


class TestJob:
    def test_the_gang_is_all_or_nothing(self, gang: Rig) -> None:
        spec = gang.job("sft")["spec"]
        assert (spec["completionMode"], spec["completions"], spec["parallelism"], spec["backoffLimit"]) == ("Indexed", 2, 2, 0)
        assert spec["podReplacementPolicy"] == "TerminatingOrFailed"
        assert "podFailurePolicy" not in spec
        assert "ttlSecondsAfterFinished" not in spec
        assert spec["suspend"] is True

    def test_without_a_queue_suspend_is_absent(self) -> None:
        rig = Rig(one_stage())
        rig.settle()
        assert "suspend" not in rig.job("prepare")["spec"]
        assert "kueue.x-k8s.io/queue-name" not in rig.job("prepare")["metadata"]["labels"]

    def test_labels_name_the_attempt_and_the_owner_is_the_job(self, gang: Rig) -> None:
        metadata = gang.job("sft")["metadata"]
        labels = {"rlhf.dev/job": "chat", "rlhf.dev/job-uid": gang.uid, "rlhf.dev/stage": "sft", "rlhf.dev/attempt": "1"}
        assert labels.items() <= metadata["labels"].items()
        assert metadata["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
        (owner,) = metadata["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == ("RLHFJob", gang.uid, True, False)

    def test_the_same_inputs_give_the_same_bytes(self) -> None:
        hashes = []
        for _ in range(2):
            rig = Rig(one_stage())
            rig.uid = "u"
            rig.settle()
            body = rig.job("prepare")
            hashes.append(body["metadata"]["annotations"]["rlhf.dev/spec-hash"])
            assert len(hashes[0]) == 64
        assert hashes[0] != hashes[1]  # another uid is another job


class TestPod:
    def test_the_restricted_level_is_fixed(self, gang: Rig) -> None:
        for stage in ("prepare", "sft"):
            spec = pod_spec(gang, stage)
            assert spec["securityContext"] == {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "runAsGroup": 1000,
                "fsGroup": 1000,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            }
            context = spec["containers"][0]["securityContext"]
            assert context == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"], spec["restartPolicy"]) == (False, False, "Never")
            assert spec["shareProcessNamespace"] is True, "SIGTERM to a starting process 1 is lost"

    def test_no_text_of_a_user_becomes_a_command(self, gang: Rig) -> None:
        container = pod_spec(gang, "sft")["containers"][0]
        assert container["command"] == ["rlhf-launch"]
        assert "args" not in container
        assert [variable["name"] for variable in container["env"]] == [
            "PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT", "RLHF_RUN_SHA256", "NCCL_SOCKET_IFNAME",
        ]  # fmt: skip

    def test_the_gang_meets_at_pod_0(self, gang: Rig) -> None:
        env = {variable["name"]: variable.get("value") for variable in pod_spec(gang, "sft")["containers"][0]["env"]}
        assert env["PET_MASTER_ADDR"] == "chat-sft-r1-0.chat-sft-r1.team-a.svc.cluster.local"
        assert (env["PET_NNODES"], env["PET_NPROC_PER_NODE"]) == ("2", "2")
        assert pod_spec(gang, "sft")["subdomain"] == "chat-sft-r1"

    def test_requests_equal_limits_and_hold_shared_memory(self, gang: Rig) -> None:
        resources = pod_spec(gang, "sft")["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]
        assert resources["limits"] == {"cpu": "16", "memory": "129Gi", "nvidia.com/gpu": "2", "rdma/hca": "2"}
        assert pod_spec(gang, "prepare")["containers"][0]["resources"]["limits"] == {"cpu": "500m", "memory": "17Gi"}

    def test_the_profile_says_where_it_runs(self, gang: Rig) -> None:
        spec = pod_spec(gang, "sft")
        assert (spec["nodeSelector"], spec["runtimeClassName"], spec["priorityClassName"]) == ({"gpu": "h100"}, "nvidia", "high")
        assert spec["imagePullSecrets"] == [{"name": "pull"}]
        assert [toleration.get("tolerationSeconds") for toleration in spec["tolerations"]] == [7, 7, None]
        metadata = gang.job("sft")["spec"]["template"]["metadata"]
        assert metadata["labels"]["cost"] == "42"
        assert metadata["annotations"]["note"] == "x"
        assert metadata["annotations"]["kueue.x-k8s.io/podset-required-topology"] == "topology.kubernetes.io/zone"
        assert metadata["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"

    def test_a_preferred_topology_is_a_wish(self) -> None:
        rig = Rig(one_stage(topology={"gpusPerNode": 0, "preferred": "zone"}, queueName="team-a"))
        rig.settle()
        job = rig.job("prepare")
        job["spec"]["suspend"] = False
        rig.store.update("Job", "team-a", job)
        rig.succeed("prepare")
        annotations = rig.job("sft")["spec"]["template"]["metadata"]["annotations"]
        assert annotations["kueue.x-k8s.io/podset-preferred-topology"] == "zone"

    def test_run_json_is_an_annotation_with_its_digest_in_the_environment(self, gang: Rig) -> None:
        template = gang.job("sft")["spec"]["template"]
        run = template["metadata"]["annotations"]["rlhf.dev/run"]
        env = {variable["name"]: variable.get("value") for variable in template["spec"]["containers"][0]["env"]}
        assert env["RLHF_RUN_SHA256"] == sha256_hex(run.encode())
        assert RunConfig.from_wire(json.loads(run)).to_bytes() == run.encode()
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        assert volumes["run"]["downwardAPI"]["items"][0]["fieldRef"]["fieldPath"] == "metadata.annotations['rlhf.dev/run']"
        assert volumes["work"]["persistentVolumeClaim"]["claimName"] == f"chat-{gang.uid[:8]}"

    def test_claims_are_mounted_where_the_cluster_is_left(self) -> None:
        spec = one_stage(model={"size": "1M", "source": {"uri": "pvc://models/base"}})
        spec["stages"].append({"name": "publish", "type": "Publish", "publish": {"destination": {"uri": "pvc://shop/chat"}}})
        profile = {**PROFILE, "sources": {"allow": ["pvc://"]}, "publish": {"allow": ["pvc://"]}, "storage": {"allowExistingClaims": True}}
        rig = Rig(spec, profile)
        rig.succeed("prepare", "sft")
        mounts = {
            stage: [
                (m["mountPath"], m["readOnly"]) for m in pod_spec(rig, stage)["containers"][0]["volumeMounts"] if "claims" in m["mountPath"]
            ]
            for stage in ("prepare", "sft", "publish")
        }
        assert mounts == {"prepare": [("/claims/models", True)], "sft": [], "publish": [("/claims/shop", False)]}

    def test_names_of_claims_and_secrets_may_be_longer_than_a_volumes_and_have_dots(self) -> None:
        dataset = {"uri": "https://example.com/rows.jsonl", "sha256": "0" * 64, "secretName": "s" * 63}
        spec = one_stage(model={"size": "1M", "source": {"uri": "pvc://models.team-a/base"}})
        spec["stages"][0]["sft"]["dataset"] = dataset
        allowed = {"sources": {"allow": ["pvc://", "https://example.com/"]}, "storage": {"allowExistingClaims": True}}
        rig = Rig(spec, {**PROFILE, **allowed})
        rig.store.create("Secret", "team-a", {"metadata": {"name": "s" * 63, "labels": {"rlhf.dev/use": "true"}}})
        rig.settle()
        pod = pod_spec(rig, "prepare")
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert (mounts["claim-0"], mounts["secret-0"]) == ("/claims/models.team-a", "/etc/rlhf/secrets/" + "s" * 63)
        assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
        assert all(re.fullmatch("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name) for name in mounts)


class TestRun:
    def test_everything_is_resolved(self) -> None:
        rig = Rig()
        rig.succeed("prepare")
        run = rig.run_json("sft")
        assert run["config"]["learningRate"] == 2e-5
        assert run["model"]["precision"] == "fp32"
        assert run["root"] == f"/workspace/{rig.uid}"
        assert (run["directory"], run["attempt"]) == ("stages/sft/r1", 1)
        assert run["plan"]["totalSteps"] == 10
        assert run["gang"]["masterAddress"] == "127.0.0.1"
        assert (run["preparedModels"], run["preparedDatasets"]) == ({"init": "model"}, {"dataset": "sft.dataset"})
        assert run["deadlines"] == {"startupSeconds": 1800, "progressSeconds": 1800, "shutdownSeconds": 110}

    def test_prepare_gets_every_source_and_no_input(self) -> None:
        rig = Rig()
        rig.settle()
        run = rig.run_json("prepare")
        assert [request["key"] for request in run["config"]["models"]] == ["model"]
        assert [request["key"] for request in run["config"]["datasets"]] == ["sft.dataset", "rm.dataset", "ppo.prompts"]
        assert "prepared" not in run
        assert run["inputs"] == {}

    def test_a_quantize_stage_uses_the_held_out_rows_of_sft(self) -> None:
        spec = one_stage()
        spec["stages"].append({"name": "nf4", "type": "Quantize", "quantize": {}})
        rig = Rig(spec)
        rig.succeed("prepare", "sft")
        run = rig.run_json("nf4")
        assert run["preparedDatasets"] == {"evalDataset": "sft.dataset"}
        assert run["config"]["doubleQuant"] is True
        assert run["inputs"]["model"]["path"] == "stages/sft/r1/output"
        assert run["resumeFrom"] == []

    def test_an_unproven_input_is_never_named(self) -> None:
        rig = Rig()
        rig.succeed("prepare")
        observed = rig.observed()
        assert observed.spec is not None
        ppo = stages_of(observed.spec)[3]
        started = observed.status.model_copy(
            update={"stages": tuple(s.model_copy(update={"attempt": 1}) if s.name == "ppo" else s for s in observed.status.stages)}
        )
        with pytest.raises(ValueError, match="stage sft has no proven output"):
            run_config(observed, ppo, started, Planned())

    def test_the_owner_of_the_newest_checkpoint_is_never_forgotten(self) -> None:
        stage: StageStatus = a_stage(Outcome.APP_ERROR, Outcome.APP_ERROR, checkpoint_of=2)
        assert resume_from(stage) == ("stages/sft/r1/checkpoints", "stages/sft/r2/checkpoints")
        far = CheckpointStatus(path="stages/sft/r0/checkpoints/9", step=9, digest=DIGEST)
        assert resume_from(stage.model_copy(update={"checkpoint": far}))[0] == "stages/sft/r0/checkpoints"


class TestCompare:
    def live(self) -> tuple[dict[str, Any], dict[str, Any]]:
        rig = Rig(one_stage())
        rig.settle()
        body = rig.job("prepare")
        return copy.deepcopy(body), body

    def test_what_the_server_adds_does_not_matter(self) -> None:
        ours, live = self.live()
        live["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"
        assert compare(ours, live) == "same"

    @pytest.mark.parametrize(("written", "read"), [("1000m", "1"), ("1024Mi", "1Gi"), ("0.5", "500m"), ("2000m", "2"), ("100M", "100000k")])
    def test_quantities_may_be_written_differently(self, written: str, read: str) -> None:
        ours, live = self.live()
        for body, value in ((ours, written), (live, read)):
            body["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] = {"cpu": value}
        assert compare(ours, live) == "same"

    @pytest.mark.parametrize(("written", "read"), [("1", "2"), ("1Gi", "1G"), ("one", "1")])
    def test_another_quantity_is_another_value(self, written: str, read: str) -> None:
        ours, live = self.live()
        for body, value in ((ours, written), (live, read)):
            body["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] = {"cpu": value}
        assert compare(ours, live) == "foreign"

    def test_the_server_leaves_out_what_is_empty(self) -> None:
        ours, live = self.live()
        ours["spec"]["template"]["spec"] |= {"nodeSelector": {}, "imagePullSecrets": []}
        assert compare(ours, live) == "same"

    def test_what_a_queue_writes_does_not_matter(self) -> None:
        ours, live = self.live()
        live["spec"]["suspend"] = True
        live["spec"]["template"]["spec"]["tolerations"] = []
        live["spec"]["template"]["metadata"]["labels"]["kueue.x-k8s.io/podset"] = "main"
        assert compare(ours, live) == "same"

    def test_another_manifest_of_ours_is_outdated(self) -> None:
        ours, live = self.live()
        live["metadata"]["annotations"]["rlhf.dev/spec-hash"] = "0" * 64
        assert compare(ours, live) == "outdated"

    @pytest.mark.parametrize("path", [("backoffLimit",), ("template", "spec", "containers"), ("template", "spec", "securityContext")])
    def test_our_hash_on_other_content_is_foreign(self, path: tuple[str, ...]) -> None:
        ours, live = self.live()
        part = live["spec"]
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = []
        assert compare(ours, live) == "foreign"

    def test_somebody_elses_is_foreign(self) -> None:
        ours, live = self.live()
        live["metadata"]["ownerReferences"][0]["uid"] = "other"
        assert compare(ours, live) == "foreign"

    def test_an_older_policy_of_ours_is_good_enough(self) -> None:
        ours, live = self.live()
        for body in (ours, live):
            body["kind"] = "NetworkPolicy"
            del body["metadata"]["annotations"]
        live["spec"]["backoffLimit"] = 1
        assert compare(ours, live) == "outdated"


def test_the_network_policy_lets_prepare_and_publish_out() -> None:
    rig = Rig(HELLO)
    rig.settle()
    (policy,) = rig.store.find("NetworkPolicy", "team-a")
    selector = policy["spec"]["podSelector"]
    assert selector["matchLabels"] == {"rlhf.dev/job-uid": rig.uid}
    assert selector["matchExpressions"] == [{"key": "rlhf.dev/stage", "operator": "NotIn", "values": ["prepare"]}]
    assert policy["spec"]["ingress"][1]["ports"] == [{"protocol": "TCP", "port": 9400}]


@pytest.mark.parametrize(
    ("memory", "factor", "product"), [("64Gi", 8, "512Gi"), ("512Mi", 3, "1536Mi"), ("512Gi", 4, "2Ti"), ("1Pi", 2, "2Pi")]
)
def test_memory_is_multiplied_exactly(memory: str, factor: int, product: str) -> None:
    assert quantity.times_memory(memory, factor) == product


def test_quantities_add_up() -> None:
    assert quantity.add_memory("2Gi", "512Mi") == "2560Mi"
    assert (quantity.times("8", 8), quantity.times("500m", 3)) == ("64", "1500m")
