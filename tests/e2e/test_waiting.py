"""Nothing is broken, nothing moves: the status says why within half a minute, and the job goes on by itself when the cause is gone."""

from collections.abc import Callable

from tests.support.cluster import ControlPlane
from tests.support.jobs import SFT
from tests.support.node import configs, testbed, volumes
from tests.support.node.live import NAMESPACE, LiveJob

NewJob = Callable[[str], LiveJob]
VISIBLE_SECONDS = 45.0
"""operator.md says 30; the rest is for two busy cores."""


def test_an_image_that_cannot_be_pulled(plane: ControlPlane, new_job: NewJob) -> None:
    volumes.apply(plane.kubectl, testbed.fake_profile("no-image", image="127.0.0.1:1/nobody/trainer:1"))
    job = new_job("no-image")
    job.apply({"sft": SFT}, profile="no-image", runPolicy={"startupDeadlineSeconds": 30, "maxDisruptions": 0})
    job.wait(lambda: job.condition("Stalled").get("reason") == "ImagePull", "Stalled/ImagePull", VISIBLE_SECONDS)
    job.wait_for_end()
    stage = job.stage("prepare")
    assert (stage["phase"], stage["reason"], stage.get("countedFailures", 0)) == ("Failed", "MaxDisruptionsExceeded", 0)
    assert job.attempt("prepare", 1)["outcome"] == "StartupTimeout"


def test_no_node_has_room_and_then_one_has(plane: ControlPlane, new_job: NewJob) -> None:
    volumes.apply(plane.kubectl, testbed.fake_profile("no-node", scheduling={"nodeSelector": {"example.com/room": "yes"}}))
    job = new_job("no-node")
    job.apply({"sft": SFT}, profile="no-node", runPolicy={"startupDeadlineSeconds": 30})
    job.wait(lambda: job.condition("Stalled").get("reason") == "Unschedulable", "Stalled/Unschedulable", VISIBLE_SECONDS)
    assert "node" in job.condition("Stalled")["message"]
    assert job.stage("prepare")["attempt"] == 1
    plane.kubectl("label", "node", configs.NODE_NAME, "example.com/room=yes")
    try:
        job.wait_for_completion()
    finally:
        plane.kubectl("label", "node", configs.NODE_NAME, "example.com/room-")
    assert job.stage("prepare")["attempt"] == 1, "waiting for capacity is no startup timeout"


def test_a_missing_secret_is_named_and_the_job_goes_on_once_it_is_permitted(plane: ControlPlane, new_job: NewJob) -> None:
    job = new_job("no-secret")
    source = {"uri": "https://files.example.com/chat.jsonl", "sha256": "0" * 64, "secretName": "files-read", "format": "messages"}
    job.apply({"sft": SFT | {"dataset": source}})
    job.wait(lambda: job.condition("Accepted").get("reason") == "SecretNotPermitted", "Accepted=False/SecretNotPermitted", VISIBLE_SECONDS)
    assert "files-read" in job.condition("Accepted")["message"]
    assert job.pods() == []
    permit(plane, "files-read")
    job.wait_for_completion()


def permit(plane: ControlPlane, secret: str) -> None:
    """What the owner of a namespace does to let jobs use a secret."""
    meta = {"namespace": NAMESPACE, "name": secret}
    subject = {"kind": "ServiceAccount", "name": "rlhf-operator", "namespace": testbed.NAMESPACE}
    volumes.apply(
        plane.kubectl,
        {"apiVersion": "v1", "kind": "Secret", "metadata": {**meta, "labels": {"rlhf.dev/use": "true"}}, "stringData": {"token": "x"}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": meta,
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret], "verbs": ["get"]}],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": secret},
            "subjects": [subject],
        },
    )
