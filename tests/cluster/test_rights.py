"""Who may do what: the operator has the rights of operator.md section 8 and no others, and a user of `rlhf-user` reaches nothing foreign.

That the rights suffice, every other test shows: the operator runs with them.
"""

from collections.abc import Iterator

import pytest

from tests.support.cluster import rights
from tests.support.cluster.kubelet import ScriptedKubelet
from tests.support.cluster.rest import Refused, Rest
from tests.support.cluster.world import World

OPERATOR = f"system:serviceaccount:{rights.NAMESPACE}:{rights.ACCOUNT}"
ALICE = "alice"


@pytest.fixture
def alice(world: World) -> Iterator[Rest]:
    """A user who has the role `rlhf-user` in one namespace, and nothing else."""
    rights.install(world.plane)
    rights.grant_user(world.rest, world.namespace, ALICE)
    rest = world.plane.rest(as_user=ALICE)
    yield rest
    rest.close()


@pytest.mark.parametrize(
    "right",
    [
        *(f"{verb} /secrets" for verb in ("get", "list", "watch", "create", "update", "patch", "delete")),
        *(f"{verb} /pods" for verb in ("create", "update", "patch", "delete", "watch")),
        "create /pods/exec",
        "create /pods/eviction",
        "get /pods/log",
        *(f"{verb} batch/jobs" for verb in ("update", "patch")),
        *(f"{verb} rlhf.dev/rlhfjobs" for verb in ("create", "update", "patch")),
        *(f"{verb} rlhf.dev/clusterrlhfprofiles" for verb in ("create", "update", "patch", "delete")),
        "update rlhf.dev/rlhfjobs/status",
        *(f"{verb} /persistentvolumeclaims" for verb in ("delete", "update", "patch")),
        *(f"{verb} rbac.authorization.k8s.io/{kind}" for verb in ("create", "bind", "escalate") for kind in ("roles", "clusterroles")),
        "impersonate /users",
        "create apiextensions.k8s.io/customresourcedefinitions",
        "create /serviceaccounts/token",
        "list /nodes",
        "patch /nodes",
        "delete apps/controllerrevisions",
        "update coordination.k8s.io/leases",
    ],
)
def test_the_operator_may_not(world: World, right: str) -> None:
    rights.install(world.plane)
    verb, resource = right.split()
    assert not rights.may(world.rest, OPERATOR, verb, resource, world.namespace)


def test_the_operator_may_what_it_needs(world: World) -> None:
    rights.install(world.plane)
    wanted = [
        (verb, f"{rule['apiGroups'][0]}/{resource}")
        for rule in rights.OPERATOR_RULES
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    assert [right for right in wanted if not rights.may(world.rest, OPERATOR, *right, world.namespace)] == []
    assert rights.may(world.rest, OPERATOR, "update", "coordination.k8s.io/leases", rights.NAMESPACE)


@pytest.mark.parametrize(
    "right",
    [
        "create /pods",
        "delete /pods",
        "create /pods/exec",
        "get /secrets",
        "list /secrets",
        "get /configmaps",
        "create batch/jobs",
        "delete batch/jobs",
        "patch rlhf.dev/rlhfjobs/status",
        "update rlhf.dev/rlhfjobs/status",
        "create rlhf.dev/clusterrlhfprofiles",
        "update rlhf.dev/clusterrlhfprofiles",
        "create /services",
        "delete /persistentvolumeclaims",
        "create rbac.authorization.k8s.io/rolebindings",
        "create networking.k8s.io/networkpolicies",
        "delete networking.k8s.io/networkpolicies",
    ],
)
def test_a_user_may_not(world: World, alice: Rest, right: str) -> None:
    verb, resource = right.split()
    assert not rights.may(world.rest, ALICE, verb, resource, world.namespace)


def test_a_user_submits_watches_and_cancels_a_job(world: World, alice: Rest, kubelet: ScriptedKubelet) -> None:
    document = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": {"name": "mine"}, "spec": world.spec()}
    alice.create(world.path(), document)
    alice.merge(world.path("mine"), {"spec": {"suspend": True}})
    assert alice.get(world.path("mine"))["spec"]["suspend"] is True
    assert alice.items(world.core("pods")) == []
    alice.delete(world.path("mine"))


def test_a_user_writes_no_status(world: World, alice: Rest) -> None:
    document = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": {"name": "mine"}, "spec": world.spec()}
    created = alice.create(world.path(), {**document, "status": {"phase": "Succeeded"}})
    assert "status" not in created  # status is a subresource: what a create or update says about it is dropped
    changed = alice.merge(world.path("mine"), {"status": {"phase": "Succeeded"}})
    assert "status" not in changed
    with pytest.raises(Refused, match=r'cannot patch resource "rlhfjobs/status"'):
        alice.merge(f"{world.path('mine')}/status", {"status": {"phase": "Succeeded"}})


@pytest.mark.parametrize(
    "path", ["/api/v1/namespaces/default/pods", "/apis/rlhf.dev/v1alpha1/namespaces/default/rlhfjobs", "/api/v1/secrets"]
)
def test_a_user_sees_no_other_namespace(alice: Rest, path: str) -> None:
    with pytest.raises(Refused) as refusal:
        alice.get(path)
    assert refusal.value.code == 403


@pytest.mark.parametrize(
    "field",
    [
        {"image": "evil"},
        {"podTemplate": {"spec": {"hostPID": True}}},
        {"serviceAccountName": "admin"},
        {"command": ["sh"]},
        {"env": [{"name": "LD_PRELOAD", "value": "x"}]},
        {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]},
        {"nodeSelector": {"a": "b"}},
        {"securityContext": {"privileged": True}},
        {"tolerations": [{"operator": "Exists"}]},
    ],
    ids=lambda field: next(iter(field)),
)
def test_a_user_has_no_field_for_it(world: World, alice: Rest, field: dict[str, object]) -> None:
    """Strict validation refuses it; a client that does not ask for strictness finds it dropped."""
    document = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": {"name": "evil"}, "spec": {**world.spec(), **field}}
    with pytest.raises(Refused, match="unknown field"):
        alice.create(world.path(), document, fieldValidation="Strict")
    stored = alice.create(world.path(), document, fieldValidation="Ignore")
    assert not field.keys() & stored["spec"].keys()
