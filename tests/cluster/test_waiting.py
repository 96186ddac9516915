"""Nothing is broken and nothing moves: what a user reads within 30 s, and that it heals by itself (operator.md sections 1, 4, 11)."""

from collections.abc import Iterator

import pytest

from tests.support.cluster import ControlPlane, rights
from tests.support.cluster.kubelet import ScriptedKubelet
from tests.support.cluster.operator import Operator
from tests.support.cluster.plays import runs, succeeds, waits
from tests.support.cluster.rest import Object
from tests.support.cluster.world import IMMEDIATE_CLASS, PROFILES, World

pytestmark = pytest.mark.usefixtures("operator")
VISIBLE_SECONDS = 30.0
AT_ONCE_SECONDS = 20.0  # 2 s on a quiet machine; the bench measures, a test must not fail because its neighbours are busy


ROWS = {"uri": "https://data.example.com/rows.jsonl", "sha256": "0" * 64, "format": "messages"}


@pytest.fixture(scope="module", autouse=True)
def early(plane: ControlPlane, kubelet: ScriptedKubelet, operator: Operator) -> Iterator[World]:
    """Jobs whose story takes a minute: they begin before all others, and the last tests read how it ended."""
    world = World(plane, kubelet)
    world.profile({"spec.sources.allow": ["https://data.example.com/"]})
    world.on(waits("ErrImagePull"), stage="sft", name="image")
    world.submit("image", {"spec.runPolicy.startupDeadlineSeconds": 60, "spec.runPolicy.maxDisruptions": 0})
    world.submit("secret", {"spec.stages[0].sft.dataset": {**ROWS, "secretName": "web-token"}})
    yield world
    world.close()


def is_stalled(world: World, reason: str, deadline_seconds: float = VISIBLE_SECONDS) -> str:
    """Wait for the reason; returns the message."""
    world.until(lambda: world.condition("Stalled")[:2] == ("True", reason), f"Stalled with {reason}", deadline_seconds)
    return world.condition("Stalled")[2]


def is_refused(world: World, reason: str, name: str = "chat") -> str:
    """Wait for Accepted=False; returns the message."""
    world.until(lambda: world.condition("Accepted", name)[:2] == ("False", reason), f"{name} is not accepted: {reason}", AT_ONCE_SECONDS)
    return world.condition("Accepted", name)[2]


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [("ErrImagePull", "ImagePull"), ("ImagePullBackOff", "ImagePull"), ("CreateContainerConfigError", "CreateContainerConfig")],
)
def test_a_container_that_cannot_start_is_named_and_may_be_repaired(world: World, waiting: str, reason: str) -> None:
    world.on(waits(waiting), stage="sft")
    world.submit()
    assert waiting in is_stalled(world, reason)
    world.on(succeeds(), stage="sft")
    world.until_phase("Succeeded")
    assert [attempt["attempt"] for attempt in world.attempts()] == [1]
    assert world.condition("Stalled")[0] == "False"


def test_what_fits_no_node_waits_with_the_schedulers_words(world: World) -> None:
    world.profile({"spec.resources.perProcess.cpu": "1000"})
    world.submit()
    world.until(lambda: world.condition("Stalled")[1] == "Unschedulable", "Unschedulable is visible", VISIBLE_SECONDS)
    said = world.condition("Stalled")[2]
    assert "0 of 1 pods placed" in said
    assert "Insufficient cpu" in said


def test_half_a_gang_says_how_much_of_it_is_placed(world: World) -> None:
    world.profile({"spec.resources.perProcess.cpu": "40"})
    world.on(runs(), stage="sft")
    world.submit("chat", {"spec.topology.nodes": 3})
    said = is_stalled(world, "Unschedulable")
    assert "2 of 3 pods placed" in said


def test_a_quota_is_waited_for(world: World) -> None:
    world.rest.create(world.core("resourcequotas"), {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}})
    world.until(lambda: world.rest.get(world.core("resourcequotas", "none")).get("status", {}).get("hard"), "the quota is known")
    world.submit()
    assert "exceeded quota" in is_stalled(world, "QuotaExceeded")
    assert world.jobs() == []
    world.rest.delete(world.core("resourcequotas", "none"))
    world.until_phase("Succeeded", deadline_seconds=60)
    assert world.stage("prepare")["attempt"] == 1


def test_a_claim_without_provisioner_is_named(world: World) -> None:
    world.profile({"spec.storage.allowedClasses": [IMMEDIATE_CLASS]})
    world.submit("chat", {"spec.storage.storageClassName": IMMEDIATE_CLASS}, volume=False)
    reasons = {("False", "Pending"), ("False", "ProvisioningFailed")}
    world.until(lambda: world.condition("StorageReady")[:2] in reasons, "the claim is named", VISIBLE_SECONDS)
    assert "claim chat-" in world.condition("StorageReady")[2]
    assert set(world.jobs()) <= {"chat-prepare-r1"}  # created together with the claim; it holds no GPU while it waits


def test_a_missing_profile_is_named_and_waited_for(world: World) -> None:
    world.rest.delete(f"{PROFILES}/{world.namespace}")
    world.submit()
    assert world.namespace in is_refused(world, "ProfileNotFound")
    world.profile()
    world.until_phase("Succeeded")


@pytest.mark.parametrize(
    ("job", "profile", "reason", "said"),
    [
        pytest.param({"spec.topology.nodes": 9}, {"spec.limits.maxNodes": 16}, "LimitExceeded", "more nodes than", id="nodes"),
        pytest.param(
            {"spec.stages[0].sft.dataset": ROWS},
            {"spec.sources.allow": ["https://data.example.com/"]},
            "SourceNotAllowed",
            "https://data.example.com/rows.jsonl",
            id="source",
        ),
        pytest.param({"spec.storage.size": "2Ti"}, {"spec.limits.maxStorage": "4Ti"}, "LimitExceeded", "1Ti", id="storage"),
        pytest.param(
            {"spec.priorityClassName": "high"}, {"spec.scheduling.priorityClasses": ["high"]}, "LimitExceeded", "high", id="priority"
        ),
        pytest.param(
            {"spec.runPolicy.ttlSecondsAfterFinished": 2_600_000},
            {"spec.limits.maxTtlSeconds": 2_700_000},
            "LimitExceeded",
            "ttl",
            id="ttl",
        ),
    ],
)
def test_a_limit_is_named_at_once_and_heals_when_the_profile_changes(
    world: World, job: dict[str, object], profile: dict[str, object], reason: str, said: str
) -> None:
    world.submit("chat", job)
    assert said in is_refused(world, reason)
    assert world.jobs() == []
    world.profile(profile)
    world.until(lambda: world.condition("Accepted")[0] == "True", "the job is accepted", AT_ONCE_SECONDS)


def test_a_namespace_that_the_profile_does_not_name(world: World) -> None:
    world.profile({"spec.allowedNamespaces": {"matchLabels": {"team": "others"}}})
    world.submit()
    assert world.namespace in is_refused(world, "NamespaceNotAllowed")
    world.profile({"spec.allowedNamespaces": {"matchLabels": {"team": world.namespace}}})
    world.until_phase("Succeeded")


def test_a_model_that_does_not_fit(world: World) -> None:
    world.profile({"spec.sources.allow": ["pvc://models/"], "spec.storage.allowExistingClaims": True})
    world.submit("chat", {"spec.model.source.uri": "pvc://models/large", "spec.model.size": "70B"})
    assert "GiB" in is_refused(world, "DoesNotFit")


def foreign(kind: str, name: str) -> Object:
    """An object of somebody else whose name we want."""
    labels = {"owner": "somebody"}
    if kind == "jobs":
        pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}
        return {"metadata": {"name": name, "labels": labels}, "spec": {"suspend": True, "template": {"spec": pod}}}
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": IMMEDIATE_CLASS}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec}


def test_a_foreign_job_of_our_name_is_left_alone(world: World) -> None:
    before = world.rest.create(world.batch(), foreign("jobs", "chat-prepare-r1"))
    world.submit()
    assert "chat-prepare-r1" in is_refused(world, "NameConflict")
    after = world.rest.get(world.batch("chat-prepare-r1"))
    assert (after["metadata"]["uid"], after["spec"], after["metadata"]["labels"]) == (
        before["metadata"]["uid"],
        before["spec"],
        before["metadata"]["labels"],
    )
    assert after["metadata"].get("ownerReferences") is None
    world.until(lambda: "NameConflict" in world.events(), "the event is written")


def test_a_foreign_service_of_our_name_ends_the_attempt_and_is_left_alone(world: World) -> None:
    service = {"metadata": {"name": "chat-sft-r1"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}
    before = world.rest.create(world.core("services"), service)
    world.on(runs(), stage="sft")
    world.submit("chat", {"spec.topology.nodes": 2})
    world.until(lambda: any(attempt.get("outcome") == "Disrupted" for attempt in world.attempts()), "the attempt ends")
    world.until_stage("sft", "Running", attempt=2)
    assert world.rest.get(world.core("services", "chat-sft-r1"))["metadata"]["uid"] == before["metadata"]["uid"]


def test_only_so_many_jobs_of_a_namespace_run(world: World) -> None:
    world.profile({"spec.limits.maxRunningJobsPerNamespace": 1})
    world.on(runs(), stage="prepare", name="first")
    world.submit("first")
    world.until_phase("Running", "first")
    world.submit("second")
    world.until(lambda: world.condition("Stalled", "second")[:2] == ("True", "ConcurrencyLimit"), "the second waits")
    assert world.jobs() == ["first-prepare-r1"]
    world.on(succeeds(), stage="prepare", name="first")
    world.until_phase("Succeeded", "first")
    world.until_phase("Succeeded", "second")


def test_a_profile_says_whether_it_is_usable(world: World) -> None:
    def ready() -> str:
        status = world.rest.get(f"{PROFILES}/{world.namespace}").get("status", {})
        return next((c["status"] for c in status.get("conditions", []) if c["type"] == "Ready"), "")

    world.until(lambda: ready() == "True", "the profile is Ready", AT_ONCE_SECONDS)


def test_a_secret_needs_its_owners_consent(early: World) -> None:
    """Not readable, without the label, then permitted: the same job starts when the owner agrees."""
    assert "web-token" in is_refused(early, "SecretNotPermitted", "secret")
    early.rest.create(early.core("secrets"), {"metadata": {"name": "web-token"}, "stringData": {"key": "value"}})
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["web-token"], "verbs": ["get"]}
    subject = {"kind": "ServiceAccount", "name": rights.ACCOUNT, "namespace": rights.NAMESPACE}
    rights.grant_in(early.rest, early.namespace, "rlhf-secrets", (rule,), subject)
    assert "secret-prepare-r1" not in early.jobs()
    early.rest.merge(early.core("secrets", "web-token"), {"metadata": {"labels": {"rlhf.dev/use": "true"}}})
    early.until_phase("Succeeded", "secret", deadline_seconds=60)


def test_the_startup_deadline_frees_what_waits_for_an_image(early: World) -> None:
    early.until_phase("Failed", "image", deadline_seconds=90)
    ended = early.attempts(name="image")[0]
    assert (ended["outcome"], ended["budget"]) == ("StartupTimeout", "Disruption")
    assert early.stage(name="image")["reason"] == "MaxDisruptionsExceeded"
    early.until(lambda: not early.pods("sft", name="image"), "the pods are gone")
