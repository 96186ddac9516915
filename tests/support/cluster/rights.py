"""The rights of the operator and of a user, as operator.md section 8 lists them: the tests grant these, and the chart must grant the same."""

from collections.abc import Mapping
from typing import Any

from rlhf_api import names
from tests.support.cluster.control_plane import ControlPlane
from tests.support.cluster.rest import Object, Refused, Rest
from tests.support.eventually import eventually

NAMESPACE = "rlhf-system"
ACCOUNT = "rlhf-operator"
USER_ROLE = "rlhf-user"
_ALL = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_READ = ("get", "list", "watch")


def _rule(group: str, verbs: tuple[str, ...], *resources: str) -> Object:
    return {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}


OPERATOR_RULES = (
    _rule(names.GROUP, ("get", "list", "watch", "delete"), "rlhfjobs"),
    _rule(names.GROUP, ("patch",), "rlhfjobs/status", "clusterrlhfprofiles/status"),
    _rule(names.GROUP, _READ, "clusterrlhfprofiles"),
    _rule("batch", ("get", "list", "watch", "create", "delete"), "jobs"),
    _rule("", ("get", "list"), "pods"),
    _rule("", ("get", "create"), "services", "persistentvolumeclaims"),
    _rule("networking.k8s.io", ("get", "create"), "networkpolicies"),
    _rule("apps", ("get", "create"), "controllerrevisions"),
    _rule("", ("create", "patch", "list"), "events"),
    _rule("", ("get",), "namespaces", "nodes"),
    _rule("storage.k8s.io", ("get",), "storageclasses"),
)
LEASE_RULES = (_rule("coordination.k8s.io", ("get", "create", "update"), "leases"),)
USER_RULES = (
    _rule(names.GROUP, _ALL, "rlhfjobs"),
    _rule(names.GROUP, _READ, "clusterrlhfprofiles"),
    _rule("", _READ, "pods", "pods/log", "events"),
)


def install(plane: ControlPlane) -> None:
    """The operator's namespace, service account and rights. Safe to repeat."""
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}
    with plane.rest() as rest:
        _create(rest, "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        _create(rest, f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": ACCOUNT}})
        grant_everywhere(rest, ACCOUNT, OPERATOR_RULES, subject)
        grant_in(rest, NAMESPACE, ACCOUNT, LEASE_RULES, subject)


def grant_everywhere(rest: Rest, name: str, rules: tuple[Object, ...], subject: Mapping[str, Any]) -> None:
    """A ClusterRole and its binding."""
    group = "rbac.authorization.k8s.io"
    _create(rest, f"/apis/{group}/v1/clusterroles", {"metadata": {"name": name}, "rules": list(rules)})
    reference = {"apiGroup": group, "kind": "ClusterRole", "name": name}
    binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": [dict(subject)]}
    _create(rest, f"/apis/{group}/v1/clusterrolebindings", binding)


def grant_in(rest: Rest, namespace: str, name: str, rules: tuple[Object, ...], subject: Mapping[str, Any]) -> None:
    """A Role in one namespace and its binding."""
    group = "rbac.authorization.k8s.io"
    path = f"/apis/{group}/v1/namespaces/{namespace}"
    _create(rest, f"{path}/roles", {"metadata": {"name": name}, "rules": list(rules)})
    reference = {"apiGroup": group, "kind": "Role", "name": name}
    _create(rest, f"{path}/rolebindings", {"metadata": {"name": name}, "roleRef": reference, "subjects": [dict(subject)]})


def grant_user(rest: Rest, namespace: str, user: str) -> None:
    """The role of a user in one namespace. Returns when the authorizer has heard of it, which is a moment after the binding exists."""
    grant_in(rest, namespace, USER_ROLE, USER_RULES, {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"})
    eventually(lambda: may(rest, user, "create", f"{names.GROUP}/rlhfjobs", namespace), 30, f"the rights of {user}")


def may(rest: Rest, user: str, verb: str, resource: str, namespace: str) -> bool:
    """What the API server's own authorizer says. `resource` is `group/plural` or `group/plural/subresource`."""
    group, plural, *subresource = resource.split("/")
    attributes = {"verb": verb, "group": group, "resource": plural, "namespace": namespace, "subresource": "".join(subresource)}
    groups = ["system:authenticated", "system:serviceaccounts"] if user.startswith("system:serviceaccount") else ["system:authenticated"]
    body = {"spec": {"user": user, "groups": groups, "resourceAttributes": attributes}}
    return bool(rest.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", body)["status"]["allowed"])


def _create(rest: Rest, path: str, body: Object) -> None:
    try:
        rest.create(path, body)
    except Refused as refused:
        if refused.code != 409:
            raise
