"""The Helm chart without Helm: copies that may not drift, values and their schema, rights, alerts, flags. Renders are tested in tests/cluster."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from rlhf_api import names
from rlhf_api.outcome import Budget, Outcome, budget_of
from rlhf_api.status import JobPhase
from rlhf_operator.__main__ import app
from rlhf_operator.shell.metrics import Metrics
from tests.support.cluster import rights
from tests.support.manifests import changed

REPOSITORY = Path(__file__).parents[3]
CHART = REPOSITORY / "charts" / "rlhf-operator"
COPIES = {
    "crds/rlhfjobs.rlhf.dev.yaml": "crds/rlhfjobs.rlhf.dev.yaml",
    "crds/clusterrlhfprofiles.rlhf.dev.yaml": "crds/clusterrlhfprofiles.rlhf.dev.yaml",
    "policies/rlhfjob-changes.yaml": "crds/rlhfjob-changes.yaml",
    "policies/profile-limits.yaml": "crds/optional/profile-limits.yaml",
}


def yaml(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def read(name: str) -> str:
    return (CHART / name).read_text(encoding="utf-8")


# ---- copies


@pytest.mark.parametrize("copy_", sorted(COPIES))
def test_the_chart_ships_what_is_rendered(copy_: str) -> None:
    assert read(copy_) == (REPOSITORY / COPIES[copy_]).read_text(encoding="utf-8"), "`make golden` copies it"


def test_every_rendered_file_is_in_the_chart() -> None:
    rendered = {str(file.relative_to(REPOSITORY)) for file in (REPOSITORY / "crds").rglob("*.yaml")}
    assert rendered == set(COPIES.values())


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert yaml(read("Chart.yaml"))["appVersion"] == project["version"]


# ---- values

VALUES: dict[str, Any] = yaml(read("values.yaml"))
SCHEMA: dict[str, Any] = json.loads(read("values.schema.json"))
DIGEST = "sha256:" + "0" * 64
A_PROFILE = {"name": "default", "spec": {"image": "trainer"}}


def problems(changes: Mapping[str, object]) -> list[str]:
    validator = jsonschema.Draft7Validator(SCHEMA)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(changed(VALUES, changes))]


def test_the_schema_is_one_and_the_defaults_obey_it() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert problems({}) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"image.digest": DIGEST},
        {"watchNamespaces": ["team-a", "team-b"]},
        {"profiles": [A_PROFILE]},
        {"replicas": 2},
        {"networkPolicy.apiServer.cidrs": ["10.0.0.1/32", "fd00::1/128"]},
        {"resources": {"limits": {"memory": "1Gi"}}},
        {"podAnnotations": {"a": "b"}},
        {"podLabels": {"team": "ml"}},
        {"dashboards": {"enabled": True, "labels": {}}},
    ],
)
def test_sensible_values(changes: Mapping[str, object]) -> None:
    assert problems(changes) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"imagee": {}},
        {"image.repository": ""},
        {"image.digest": "sha256:abc"},
        {"image.pullPolicy": "Sometimes"},
        {"watchNamespaces": "team-a"},
        {"watchNamespaces": [""]},
        {"watchNamespaces": ["a", "a"]},
        {"watchNamespaces": ["*"]},
        {"profiles": [{"name": "x"}]},
        {"profiles": [{"name": "X", "spec": {"image": "i"}}]},
        {"profiles": [{"name": "x", "spec": {"image": "i"}, "namespace": "y"}]},
        {"replicas": 2, "leaderElection": False},
        {"replicas": -1},
        {"clusterDomain": "Cluster.Local"},
        {"networkPolicy.apiServer.ports": []},
        {"networkPolicy.apiServer.cidrs": ["10.0.0.1"]},
        {"policies.change": True},
        {"podLabels": {"app.kubernetes.io/name": "other"}},
        {"logLevel": "loud"},
        {"serviceMonitor.interval": "often"},
        {"resources.request": {}},
    ],
)
def test_a_typo_is_an_error(changes: Mapping[str, object]) -> None:
    assert problems(changes) != []


def test_every_value_has_a_description() -> None:
    lines = read("values.yaml").splitlines()
    bare = ("image", "pullPolicy", "podAnnotations", "podLabels", "nodeSelector", "tolerations", "affinity", "requestBurst")
    for number, line in enumerate(lines):
        key = re.match(r"([a-zA-Z]+):", line)
        if key and key[1] not in bare:
            own = lines[number + 1].strip().startswith(("# --", "create:", "enabled:")) or lines[number - 1].startswith("#")
            assert own, f"values.yaml:{number + 1}: {key[1]} has no description"


def test_the_schema_and_the_values_have_the_same_keys() -> None:
    assert set(SCHEMA["properties"]) - {"global"} == set(VALUES)
    for name, schema in SCHEMA["properties"].items():
        if isinstance(VALUES.get(name), dict) and VALUES[name] and "properties" in schema:
            assert set(VALUES[name]) == set(schema["properties"]), name


def test_every_value_is_used() -> None:
    templates = "".join(file.read_text() for file in (CHART / "templates").iterdir())
    unused = [name for name in VALUES if f".Values.{name}" not in templates]
    assert unused == []


# ---- the operator's process


def test_flags_of_the_deployment_exist() -> None:
    command = get_command(app)
    run = command.commands["run"]  # type: ignore[attr-defined]
    known = {option for parameter in run.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = set(re.findall(r"- (--[a-z-]+)", read("templates/deployment.yaml")))
    assert used
    assert used <= known


def test_the_lease_has_the_name_of_the_installation() -> None:
    """Two installations with one Lease would serve only one set of namespaces."""
    assert '- --lease-name={{ include "rlhf.name" . }}\n' in read("templates/deployment.yaml")


def test_the_labels_are_those_that_network_policies_of_jobs_look_for() -> None:
    assert f"{names.LABEL_APP_NAME}: {names.MANAGER}\n" in read("templates/_helpers.tpl")
    policy = read("templates/networkpolicy.yaml")
    assert f"{{{names.LABEL_APP_NAME}: {names.APP_NAME}, {names.LABEL_MANAGED_BY}: {names.MANAGER}}}" in policy
    assert f"port: {names.PROGRESS_PORT}}}" in policy


# ---- rights

Right = tuple[str, str, str]


def rights_in(rules: list[Mapping[str, Any]]) -> set[Right]:
    """(group, resource, verb), each once."""
    return {(group, kind, verb) for rule in rules for group in rule["apiGroups"] for kind in rule["resources"] for verb in rule["verbs"]}


def rules_below(text: str, start: str) -> list[Mapping[str, Any]]:
    """The rules after a line of a template, up to the first line that is neither a rule nor of the template language."""
    lines = text[text.index(start) + len(start) :].splitlines()[1:]
    taken: list[str] = []
    for line in lines:
        if line.startswith(("{{- end -}}", "---")):
            break
        if not line.startswith("{{"):
            taken.append(line)
    return list(yaml("\n".join(taken)))


NAMESPACED = rights_in(rules_below(read("templates/_helpers.tpl"), 'define "rlhf.namespacedRules"'))
CLUSTER = rights_in(rules_below(read("templates/rbac.yaml"), "rules:"))


def test_the_operator_has_the_rights_that_the_tests_grant_it() -> None:
    assert rights_in(list(rights.OPERATOR_RULES)) == NAMESPACED | CLUSTER
    assert not NAMESPACED & CLUSTER


def test_what_is_namespaced_can_be_granted_by_a_role() -> None:
    assert {kind for _, kind, _ in CLUSTER} == {"clusterrlhfprofiles", "clusterrlhfprofiles/status", "storageclasses", "nodes"}


def test_the_lease_and_the_user_have_the_rights_that_the_tests_grant() -> None:
    lease = rules_below(
        read("templates/rbac.yaml"),
        "name: {{ $name }}-lease\n  namespace: {{ .Release.Namespace | quote }}\n  labels: {{- $labels | nindent 4 }}\nrules:",
    )
    assert rights_in(lease) == rights_in(list(rights.LEASE_RULES))
    assert rights_in(rules_below(read("templates/user-role.yaml"), "rules:")) == rights_in(list(rights.USER_RULES))


def documented() -> Iterator[tuple[str, str]]:
    """(resource, verb) of the table in docs/security.md."""
    text = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
    for row in re.findall(r"^\| ([a-z/, ]+) \| ([a-z ]+) \|", text, re.MULTILINE):
        for resource in row[0].split(","):
            yield from ((resource.strip(), verb) for verb in row[1].split())


def test_the_security_page_lists_exactly_these_rights() -> None:
    granted = NAMESPACED | CLUSTER | rights_in(list(rights.LEASE_RULES))
    assert {entry for entry in documented() if entry != ("resource", "verbs")} == {(kind, verb) for _, kind, verb in granted}


def test_no_right_is_a_wildcard_and_none_reaches_secrets() -> None:
    granted = NAMESPACED | CLUSTER
    assert not any("*" in part for right in granted for part in right)
    assert not {kind for _, kind, _ in granted} & {"secrets", "pods/exec", "customresourcedefinitions", "roles", "clusterroles"}


# ---- alerts and dashboard

ALERTS: list[dict[str, Any]] = [rule for group in yaml(read("monitoring/alerts.yaml"))["groups"] for rule in group["rules"]]
PANELS: list[dict[str, Any]] = json.loads(read("monitoring/dashboard.json"))["panels"]
RUNBOOKS = REPOSITORY / "docs" / "runbooks"


def exported() -> set[str]:
    """Every series that the operator can export."""
    return {
        sample if suffix == "" else f"{family.name}{suffix}"
        for family in Metrics().registry.collect()
        for sample in [family.name]
        for suffix in {"gauge": [""], "counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}[family.type]
    }


def trained() -> set[str]:
    """Series of pod 0 that a reader looks for."""
    return {f"rlhf_{name}" for name in names.HEADLINE_METRICS}


def series_of(expression: str) -> set[str]:
    return set(re.findall(r"\brlhf_[a-z_]+", expression))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_an_alert_uses_series_that_exist_and_has_a_runbook(alert: dict[str, Any]) -> None:
    assert series_of(alert["expr"]) <= exported()
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"]["runbook_url"] == f"$RUNBOOKS/{alert['alert']}.md"
    page = (RUNBOOKS / f"{alert['alert']}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {alert['alert']}\n")
    assert "**Harm.**" in page
    assert "**Look" in page


def test_every_runbook_has_an_alert() -> None:
    assert {file.stem for file in RUNBOOKS.glob("*.md")} == {alert["alert"] for alert in ALERTS}


def test_the_seven_alerts_of_the_design_are_there() -> None:
    assert len(ALERTS) == 7


def test_disruptions_are_those_of_the_api() -> None:
    [alert] = [alert for alert in ALERTS if alert["alert"] == "RLHFManyDisruptions"]
    [outcomes, phases] = re.findall(r'=~"([A-Za-z|]+)"', alert["expr"])
    assert set(outcomes.split("|")) == {outcome.value for outcome in Outcome if budget_of(outcome) is Budget.DISRUPTION}
    assert set(phases.split("|")) <= {phase.value for phase in JobPhase}


@pytest.mark.parametrize("panel", [panel for panel in PANELS if panel["type"] != "row"], ids=lambda panel: str(panel["title"]))
def test_a_panel_shows_series_that_exist(panel: dict[str, Any]) -> None:
    used = {name for target in panel["targets"] for name in series_of(target["expr"])}
    assert used <= exported() | trained()
    assert used or "container_memory" in panel["targets"][0]["expr"]


def test_every_metric_of_the_operator_is_on_the_dashboard() -> None:
    shown = {name for panel in PANELS for target in panel.get("targets", []) for name in series_of(target["expr"])}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported()}
    assert families - {re.sub(r"_bucket$", "", name) for name in shown} == set()


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
