"""The Helm chart with a real Helm and a real API server: what it renders is public, and a cluster without anything takes it."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from rlhf_api import names
from tests.support.cli import rlhf_in
from tests.support.cluster import ControlPlane
from tests.support.cluster.binaries import ensure
from tests.support.cluster.rest import Object, Refused, Rest
from tests.support.eventually import eventually

REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "charts" / "rlhf-operator"
GOLDEN = REPOSITORY / "tests" / "golden" / "chart"
NAMESPACE, RELEASE = "rlhf-system", "rlhf-operator"
DEFAULT_PROFILE = {
    "name": "default",
    "spec": {"image": "registry.example.com/trainer@sha256:" + "0" * 64, "limits": {"maxNodes": 2, "maxGpus": 0}},
}
ON = {"enabled": True}
RENDERS: dict[str, dict[str, Any]] = {
    "default": {},
    "everything": {
        "image": {"repository": "registry.example.com/rlhf-operator", "digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "registry"}],
        "replicas": 2,
        "priorityClassName": "system-cluster-critical",
        "podLabels": {"team": "ml"},
        "podAnnotations": {"example.com/note": "yes"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "infra", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "serviceAccount": {"annotations": {"example.com/a": "b"}},
        "userRole": {"aggregateToEdit": True},
        "profiles": [DEFAULT_PROFILE],
        "networkPolicy": {
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            "apiServer": {"cidrs": ["10.96.0.1/32"], "ports": [443]},
        },
        "serviceMonitor": ON,
        "podMonitor": ON | {"labels": {"release": "prometheus"}},
        "prometheusRule": ON | {"runbookBaseUrl": "https://git.example.com/runbooks"},
        "dashboards": ON,
    },
    "namespaced": {
        "nameOverride": "rlhf-team",
        "watchNamespaces": ["team-a", "team-b"],
        "leaderElection": False,
        "userRole": {"create": False},
        "policies": {"changes": False, "profileLimits": False},
        "networkPolicy": {"enabled": False},
        "service": {"enabled": False},
        "podMonitor": ON,
    },
}


AWKWARD = {
    "nameOverride": "007",
    "watchNamespaces": ["123", "on"],
    "priorityClassName": "yes",
    "serviceAccount": {"name": "42"},
    "profiles": [{**DEFAULT_PROFILE, "name": "2024"}],
    "networkPolicy": {"apiServer": {"cidrs": ["::/0", "::1/128"]}},
    "serviceMonitor": ON,
    "podMonitor": ON,
    "prometheusRule": ON,
    "dashboards": ON,
}
"""Legal names that YAML would read as something else."""


class Helm:
    """Helm with a home of its own."""

    def __init__(self, home: Path) -> None:
        self._program = ensure("helm")["helm"]
        self._home = home

    def __call__(self, *arguments: str, values: dict[str, Any] | None = None) -> str:
        """What it prints.

        Raises:
            RuntimeError: it ended with another code than 0.
        """
        homes = {f"HELM_{name}_HOME": str(self._home / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        options = [f"--namespace={NAMESPACE}", *(["--values=-"] if values is not None else [])]
        done = subprocess.run(
            [str(self._program), *arguments, *options],
            env={**os.environ, **homes},
            input=json.dumps(values) if values is not None else "",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout

    def render(self, values: dict[str, Any]) -> str:
        """What an installation would apply, CRDs left out."""
        return self("template", RELEASE, str(CHART), values=values)


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server that has never heard of RLHFJobs."""
    with ControlPlane.start(tmp_path_factory.mktemp("empty"), with_controllers=False) as plane:
        plane.kubectl("create", "namespace", NAMESPACE)
        plane.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        yield plane


@pytest.fixture(scope="module")
def installed(empty: ControlPlane, helm: Helm) -> Iterator[ControlPlane]:
    """The same server with a release; the CRDs come with it. Uninstalled at the end."""
    kubeconfig = f"--kubeconfig={empty.kubeconfig}"
    helm("install", RELEASE, str(CHART), kubeconfig, values={"profiles": [DEFAULT_PROFILE]})
    yield empty
    helm("uninstall", RELEASE, kubeconfig)
    with empty.rest() as rest:
        assert rest.find("/apis/rbac.authorization.k8s.io/v1/clusterroles/rlhf-user") is None
        assert rest.find("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rlhfjobs.rlhf.dev") is not None


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in YAML(typ="safe", pure=True).load_all(text) if document]


def names_in(node: Any, key: str = "") -> Iterator[object]:
    """Every name, namespace, class and range of addresses below a node."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from names_in(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from names_in(value, key)
    elif key in ("name", "namespace", "priorityClassName", "serviceAccountName", "cidr", "app.kubernetes.io/instance"):
        yield node


def test_names_that_look_like_numbers_stay_names(helm: Helm) -> None:
    loader = YAML(typ="safe", pure=True)
    loader.version = (1, 1)  # the API server's: `on` and `yes` are true
    loaded = list(loader.load_all(helm("template", "7", str(CHART), values=AWKWARD)))
    found = [name for document in loaded for name in names_in(document)]
    assert [name for name in found if not isinstance(name, str)] == []
    assert {"007", "123", "on", "yes", "42", "2024", "::/0", "::1/128", "7"} <= set(found)


@pytest.mark.parametrize("name", sorted(RENDERS))
def test_renders_are_public(helm: Helm, name: str) -> None:
    rendered = helm.render(RENDERS[name])
    golden = GOLDEN / f"{name}.yaml"
    if os.environ.get("GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(rendered)
    assert rendered == golden.read_text(), "the chart renders something else: GOLDEN=write pytest tests/cluster/test_chart.py"


def test_every_golden_file_is_rendered() -> None:
    assert {file.stem for file in GOLDEN.glob("*.yaml")} == set(RENDERS)


@pytest.mark.parametrize(
    ("values", "named"),
    [({"imagee": {}}, "imagee"), ({"replicas": 2, "leaderElection": False}, "replicas"), ({"profiles": [{"name": "x"}]}, "spec")],
)
def test_a_typo_in_the_values_is_refused(helm: Helm, values: dict[str, Any], named: str) -> None:
    with pytest.raises(RuntimeError, match=named):
        helm.render(values)


def test_namespaced_rights_are_roles(helm: Helm) -> None:
    found = documents(helm.render(RENDERS["namespaced"]))
    roles = [role for role in found if role["kind"] == "Role"]
    assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b"]
    [cluster] = [role for role in found if role["kind"] == "ClusterRole"]
    assert cluster["rules"] == [{"apiGroups": ["rlhf.dev"], "resources": ["clusterrlhfprofiles"], "verbs": ["get", "list", "watch"]}]


def test_a_release_upgrades_and_everything_is_there(installed: ControlPlane, helm: Helm) -> None:
    helm("upgrade", RELEASE, str(CHART), f"--kubeconfig={installed.kubeconfig}", values={"profiles": [DEFAULT_PROFILE], "dashboards": ON})
    with installed.rest() as rest:
        for path in (
            f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/rlhf-operator",
            "/apis/rlhf.dev/v1alpha1/clusterrlhfprofiles/default",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/rlhfjob.rlhf.dev",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/profile.rlhf.dev",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/rlhf-user",
            f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies/rlhf-operator",
            f"/api/v1/namespaces/{NAMESPACE}/configmaps/rlhf-operator-dashboard",
        ):
            assert rest.find(path) is not None, path


def test_the_operators_pod_is_restricted(installed: ControlPlane) -> None:
    with installed.rest() as rest:
        deployment = rest.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/rlhf-operator")
        template = deployment["spec"]["template"]
        pod: Object = {"metadata": template["metadata"] | {"name": "operator"}, "spec": template["spec"]}
        rest.create(f"/api/v1/namespaces/{NAMESPACE}/pods", pod, dryRun="All")
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
        with pytest.raises(Refused, match="violates PodSecurity"):
            rest.create(f"/api/v1/namespaces/{NAMESPACE}/pods", pod, dryRun="All")


def test_the_api_server_takes_every_object_of_the_other_renders(installed: ControlPlane, helm: Helm) -> None:
    for namespace in ("team-a", "team-b"):
        installed.kubectl("create", "namespace", namespace)
    for name in ("everything", "namespaced"):
        served = [found for found in documents(helm.render(RENDERS[name])) if not found["apiVersion"].startswith("monitoring.coreos.com")]
        text = "\n---\n".join(json.dumps(found) for found in served)
        installed.kubectl("apply", "--dry-run=server", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-", stdin=text)


def test_the_roles_of_a_namespaced_release_are_enough_and_no_more(installed: ControlPlane, helm: Helm) -> None:
    namespaces = ("team-c", "team-d", "team-e")
    for namespace in namespaces:
        installed.kubectl("create", "namespace", namespace)
    values = RENDERS["namespaced"] | {"watchNamespaces": list(namespaces[:2]), "podMonitor": {"enabled": False}}
    helm("install", "rlhf-team", str(CHART), f"--kubeconfig={installed.kubeconfig}", values=values)
    with installed.rest(as_user=f"system:serviceaccount:{NAMESPACE}:rlhf-team") as rest:
        paths = [
            "/api/v1/namespaces/team-c",
            "/apis/rlhf.dev/v1alpha1/namespaces/team-d/rlhfjobs",
            "/apis/rlhf.dev/v1alpha1/clusterrlhfprofiles",
        ]
        for path in paths:
            eventually(lambda path=path: is_allowed(rest, path), 20, f"GET {path} is allowed")
        for path in (
            "/api/v1/namespaces/team-e",
            "/api/v1/namespaces/team-c/secrets/x",
            "/api/v1/nodes/x",
            "/api/v1/namespaces/team-e/pods",
        ):
            assert not is_allowed(rest, path), path
    helm("uninstall", "rlhf-team", f"--kubeconfig={installed.kubeconfig}")


def is_allowed(rest: Rest, path: str) -> bool:
    try:
        rest.get(path)
    except Refused as refused:
        return refused.code != 403
    return True


def test_without_the_crds_the_command_line_says_so(
    empty: ControlPlane, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server may have them by now: a group that it never has is answered in the same way.
    monkeypatch.setattr(names, "GROUP", "absent.rlhf.dev")
    code, _, said = rlhf_in(capsys, monkeypatch)("get", "--kubeconfig", empty.kubeconfig)
    assert code == 64
    assert "has no RLHFJobs (the CRDs are missing)" in said
