"""Which jobs are accepted, and in which words they are not. The rules of manifest, profile and planner, whoever checked them before."""

import copy
from typing import Any

import pytest

from rlhf_api import names
from rlhf_api.job import RLHFJobSpec
from rlhf_api.profile import ProfileSpec
from rlhf_api.status import JobPhase, StagePhase
from rlhf_operator.core import admission
from rlhf_operator.core.model import Observed, ProfileObject
from tests.support.rig import HELLO, NOON, PROFILE, Rig, one_stage

PUBLISH = {"name": "publish", "type": "Publish", "publish": {"destination": {"uri": "pvc://models/chat"}}}


def refused(spec: dict[str, Any], profile: dict[str, Any] | None = None) -> tuple[str, str]:
    """Reason and message of the Accepted condition of a job that must not start."""
    rig = Rig(spec, profile if profile is not None else PROFILE)
    rig.settle()
    status, reason, message = rig.condition("Accepted")
    assert status == "False"
    assert rig.jobs() == []
    assert rig.store.find("ControllerRevision", "team-a") == []
    assert rig.status.phase is JobPhase.PENDING
    assert rig.status.reason == reason
    return reason, message


def with_publish(**publish: Any) -> dict[str, Any]:
    return one_stage(stages=[*one_stage()["stages"], {**PUBLISH, "publish": {**PUBLISH["publish"], **publish}}])


@pytest.mark.parametrize(
    ("spec", "profile", "reason", "words"),
    [
        pytest.param(
            {"topology": {"nodes": 2, "gpusPerNode": 0}}, {"limits": {"maxNodes": 1}}, "LimitExceeded", "more nodes than the profile allows: 1", id="nodes"
        ),
        pytest.param({"topology": {"gpusPerNode": 8}}, {}, "LimitExceeded", "more GPUs than the profile allows: 0", id="GPUs of a CPU profile"),
        pytest.param({"storage": {"size": "2Ti"}}, {}, "LimitExceeded", "above the limit of the profile: 1Ti", id="storage"),
        pytest.param({"runPolicy": {"ttlSecondsAfterFinished": 3_000_000}}, {}, "LimitExceeded", "ttlSecondsAfterFinished", id="time to live"),
        pytest.param({"runPolicy": {"activeDeadlineSeconds": 300_000}}, {}, "LimitExceeded", "259200", id="active deadline"),
        pytest.param({"priorityClassName": "high"}, {}, "LimitExceeded", "does not list the priorityClassName high", id="priority"),
        pytest.param({}, {"scheduling": {"requireQueue": True}}, "LimitExceeded", "requires a queueName", id="queue"),
        pytest.param({"topology": {"gpusPerNode": 0, "required": "zone"}}, {}, "LimitExceeded", "need a queue", id="topology without a queue"),
        pytest.param({"storage": {"size": "1Gi", "storageClassName": "fast"}}, {}, "LimitExceeded", "storageClassName fast", id="storage class"),
        pytest.param(
            {"model": {**HELLO["model"], "trustRemoteCode": True}}, {}, "Unsupported", "spec.model.trustRemoteCode", id="remote code"
        ),
        pytest.param(
            {"model": {"size": "1M", "source": {"uri": "pvc://models/base"}}}, {}, "SourceNotAllowed", "source not allowed by the profile: pvc://models/base",
            id="a source that is not listed",
        ),
        pytest.param(
            {"model": {"size": "1M", "source": {"uri": "pvc://models/base"}}}, {"sources": {"allow": ["pvc://"]}}, "SourceNotAllowed",
            "does not allow existing claims", id="an existing claim",
        ),
        pytest.param({"storage": {"existingClaim": "data"}}, {}, "SourceNotAllowed", "does not allow existing claims", id="an existing volume"),
        pytest.param({}, {"allowedNamespaces": {"matchLabels": {"team": "b"}}}, "NamespaceNotAllowed", "may not be used in namespace team-a", id="namespace"),
        pytest.param({"seed": -1}, {"allowedNamespaces": {"matchLabels": {"team": "a"}}}, "Invalid", "spec.seed", id="a namespace that is allowed is not the reason"),
        pytest.param({"model": {"source": HELLO["model"]["source"], "precision": "fp16"}}, {}, "Unsupported", "fp16", id="what this version cannot do"),
        pytest.param({"strategy": "gemini"}, {}, "Unsupported", "does not work with strategy gemini: try bf16", id="what the planner cannot do"),
        pytest.param(
            {"model": {"size": "70B", "source": {"uri": "pvc://models/base"}}},
            {"sources": {"allow": ["pvc://"]}, "storage": {"allowExistingClaims": True}}, "DoesNotFit", "GiB", id="more memory than there is",
        ),
    ],
)  # fmt: skip
def test_refusals(spec: dict[str, Any], profile: dict[str, Any], reason: str, words: str) -> None:
    found, message = refused(one_stage(**spec), {**PROFILE, **profile})
    assert found == reason
    assert words in message


def test_all_problems_of_a_manifest_are_told_at_once() -> None:
    spec = one_stage()
    spec["stages"][0]["sft"] |= {"globalBatchSize": 0, "epochs": 0}
    reason, message = refused(spec)
    assert reason == "Invalid"
    assert "spec.stages[0].sft.globalBatchSize" in message
    assert "spec.stages[0].sft.epochs" in message


def test_a_destination_must_be_listed() -> None:
    allowed = {**PROFILE, "storage": {"allowExistingClaims": True}}
    assert refused(with_publish(), allowed) == ("DestinationNotAllowed", "destination not allowed by the profile: pvc://models/chat")
    rig = Rig(with_publish(), {**allowed, "publish": {"allow": ["pvc://models/"]}})
    rig.settle()
    assert rig.condition("Accepted")[0] == "True"


def test_a_profile_may_require_signatures() -> None:
    publish = {"allow": ["pvc://"], "requireSignature": True, "signingSecretName": "key"}
    profile = {**PROFILE, "storage": {"allowExistingClaims": True}, "publish": publish}
    assert refused(with_publish(), profile) == ("SigningNotConfigured", "the profile requires publish.sign: true")


def judged(spec: dict[str, Any], **profile: Any) -> admission.Refusal | None:
    """What the profile alone says, whatever this version cannot do at all."""
    rules = ProfileObject(name="default", uid="p", generation=1, spec=ProfileSpec.from_wire({**PROFILE, **profile}))
    job = RLHFJobSpec.from_wire(spec)
    return admission.judge(Observed(name="chat", namespace="team-a", uid="u", generation=1, created=NOON, spec=job, profile=rules))


def test_remote_code_needs_the_profiles_leave() -> None:
    refusal = judged(one_stage(model={**HELLO["model"], "trustRemoteCode": True}))
    assert refusal is not None
    assert (refusal.reason, refusal.message) == ("SourceNotAllowed", "the profile does not allow trustRemoteCode")


def test_signing_needs_a_key_of_the_profile() -> None:
    refusal = judged(with_publish(sign=True), storage={"allowExistingClaims": True}, publish={"allow": ["pvc://"]})
    assert refusal is not None
    assert (refusal.reason, refusal.message) == ("SigningNotConfigured", "publish.sign needs a profile with publish.signingSecretName")


def test_an_unknown_profile_names_those_that_exist_and_is_waited_for() -> None:
    rig = Rig(one_stage(profile="h100"))
    rig.settle()
    _, reason, message = rig.condition("Accepted")
    assert reason == "ProfileNotFound"
    assert 'no ClusterRLHFProfile "h100"' in message
    assert message.endswith("set to one of: default")
    assert rig.requeue == 30
    assert "NotAccepted" in rig.events()
    rig.store.create(names.KIND_PROFILE, "", {"metadata": {"name": "h100"}, "spec": PROFILE})
    rig.wait(30)
    assert rig.jobs() == ["chat-prepare-r1"]


def test_without_any_profile_there_is_none_to_name() -> None:
    rig = Rig(one_stage(), profile=None)
    rig.settle()
    assert "one of" not in rig.condition("Accepted")[2]


def test_a_snapshot_that_was_exchanged_is_not_used() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare")
    assert rig.status.profile is not None
    rig.reconciler = rig.new_reconciler()
    rig.store.delete("ControllerRevision", "team-a", str(rig.status.profile.revision))
    rig.finish("sft", 1)
    assert rig.condition("Accepted")[1] == "NameConflict"
    assert "only spec.rerun takes a new profile" in rig.condition("Accepted")[2]


def test_a_rerun_waits_for_a_profile_that_is_gone() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare")
    rig.finish("sft", 64)
    rig.store.delete(names.KIND_PROFILE, "", "default")
    body = rig.body()
    rig.store.update(names.KIND_JOB, "team-a", {**body, "spec": {**body["spec"], "rerun": {"fromStage": "sft", "token": "2"}}})
    assert rig.run_once() == 30
    assert rig.condition("Accepted")[1] == "ProfileNotFound"
    rig.store.create(names.KIND_PROFILE, "", {"metadata": {"name": "default"}, "spec": PROFILE})
    rig.wait(30)
    assert rig.stage("sft").attempt == 2


def test_a_running_job_does_not_notice_that_its_profile_changed() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare")
    rig.store.delete(names.KIND_PROFILE, "", "default")
    rig.finish("sft", 1)
    assert rig.stage("sft").attempt == 2


def test_an_edit_is_judged_again() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare")
    rig.run("sft")
    rig.change(priorityClassName="high")
    assert rig.condition("Accepted")[:2] == ("False", "LimitExceeded")
    assert rig.stage("sft").phase is StagePhase.RUNNING
    rig.finish("sft", 1)
    assert rig.stage("sft").attempt == 1
    rig.change(priorityClassName=None)
    assert rig.stage("sft").attempt == 2


class TestSecrets:
    def spec(self) -> dict[str, Any]:
        spec = one_stage()
        spec["stages"][0]["sft"]["dataset"] = {"uri": "https://example.com/rows.jsonl", "sha256": "0" * 64, "secretName": "token"}
        return spec

    profile = {**PROFILE, "sources": {"allow": ["https://example.com/"]}}

    def permit(self, rig: Rig) -> None:
        rig.store.create("Secret", "team-a", {"metadata": {"name": "token", "labels": {"rlhf.dev/use": "true"}}})

    def test_a_secret_needs_its_owners_consent(self) -> None:
        rig = Rig(self.spec(), self.profile)
        rig.settle()
        assert rig.condition("Accepted")[:2] == ("False", "SecretNotPermitted")
        assert rig.jobs() == []
        assert rig.requeue == 30
        rig.store.create("Secret", "team-a", {"metadata": {"name": "token", "labels": {}}})
        rig.wait(30)
        assert rig.condition("Accepted")[:2] == ("False", "SecretNotPermitted")
        secret = rig.store.get("Secret", "team-a", "token")
        secret["metadata"]["labels"] = {"rlhf.dev/use": "true"}
        rig.store.update("Secret", "team-a", secret)
        rig.wait(30)
        assert rig.condition("Accepted")[0] == "True"
        volumes = rig.job("prepare")["spec"]["template"]["spec"]["volumes"]
        assert {"name": "secret-0", "secret": {"secretName": "token"}} in volumes

    def test_a_rerun_asks_for_the_renewed_consent_at_once(self) -> None:
        rig = Rig(self.spec(), self.profile)
        self.permit(rig)
        rig.settle()
        rig.finish("prepare", 65)
        assert rig.phases() == "prepare Failed, sft Skipped"
        rig.change(rerun={"fromStage": "sft", "token": "2"})
        assert (rig.stage("prepare").attempt, rig.condition("Accepted")[0]) == (2, "True")
        assert "NotAccepted" not in rig.events()

    def test_only_prepare_and_publish_mount_it(self) -> None:
        rig = Rig(self.spec(), self.profile)
        self.permit(rig)
        rig.succeed("prepare")
        assert "secretName" not in str(rig.job("sft")["spec"]["template"]["spec"]["volumes"])


def test_a_foreign_claim_of_our_name_is_not_adopted() -> None:
    rig = Rig(one_stage())
    rig.store.create("PersistentVolumeClaim", "team-a", {"metadata": {"name": f"chat-{rig.uid[:8]}"}, "spec": {}})
    rig.settle()
    assert rig.condition("Accepted")[:2] == ("False", "NameConflict")


def test_a_problem_does_not_hide_behind_a_value_that_cannot_be_read() -> None:
    spec = copy.deepcopy(HELLO)
    spec["stages"] = "sft"
    rig = Rig(spec)
    rig.settle()
    assert rig.condition("Accepted")[:2] == ("False", "Invalid")
    assert rig.requeue is None
