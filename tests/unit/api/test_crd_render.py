"""`crds/` is what the models say, byte for byte, and any YAML reader understands it."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from rlhf_api.crd import render, yaml
from rlhf_api.crd.definitions import job_definition, profile_definition
from rlhf_api.crd.policies import change_policy, profile_policy
from rlhf_api.rules.changes import CHANGE_RULES

CRDS = Path(__file__).parents[3] / "crds"


def read(text: str) -> list[object]:
    return [json.loads(json.dumps(document)) for document in YAML(typ="safe").load_all(text)]


def test_crds_are_up_to_date() -> None:
    assert render.find_drift(CRDS) == [], "run: python -m rlhf_api.crd.render"


def test_nothing_else_lies_in_crds() -> None:
    found = {str(path.relative_to(CRDS)) for path in CRDS.rglob("*") if path.is_file()}
    assert found == set(render.render())


def test_the_files_hold_the_documents() -> None:
    files = {name: read(text) for name, text in render.render().items()}
    assert files["rlhfjobs.rlhf.dev.yaml"] == [job_definition()]
    assert files["clusterrlhfprofiles.rlhf.dev.yaml"] == [profile_definition()]
    assert files["rlhfjob-changes.yaml"] == list(change_policy())
    assert files["optional/profile-limits.yaml"] == list(profile_policy())


def test_the_command_writes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert render.main([str(tmp_path), "--check"]) == 1
    assert "rlhfjobs.rlhf.dev.yaml differs from the models" in capsys.readouterr().err
    assert render.main([str(tmp_path)]) == 0
    assert render.main([str(tmp_path), "--check"]) == 0


def test_client_side_apply_can_hold_the_definitions() -> None:
    # The annotation of `kubectl apply` holds 256 KiB.
    assert len(json.dumps(job_definition())) < 128 * 1024
    assert len(json.dumps(profile_definition())) < 32 * 1024


def test_names_of_the_kinds() -> None:
    names = [definition["spec"]["names"] for definition in (job_definition(), profile_definition())]
    assert [name["shortNames"] for name in names] == [["rlhf"], ["rlhfprofile"]]
    assert names[0]["categories"] == ["all", "ml"]
    assert not {category for name in names for category in name["categories"]} & {"rlhf", "rlhfprofile"}


def test_columns_and_selectors() -> None:
    (version,) = job_definition()["spec"]["versions"]
    columns = version["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("priority")] == ["Phase", "Stage", "Done", "Reason", "Age"]
    assert [column["name"] for column in columns if column.get("priority")] == ["Profile", "Queue", "GPU-Seconds"]
    assert version["selectableFields"] == [{"jsonPath": ".spec.profile"}, {"jsonPath": ".spec.queueName"}]
    assert version["subresources"] == {"status": {}}


def test_the_change_policy_spares_status_writes() -> None:
    policy, binding = change_policy()
    (resources,) = policy["spec"]["matchConstraints"]["resourceRules"]
    assert resources["resources"] == ["rlhfjobs"]
    assert resources["operations"] == ["UPDATE"]
    assert [validation["message"] for validation in policy["spec"]["validations"]] == [rule.message for rule in CHANGE_RULES]
    assert "self" not in json.dumps(policy).lower()
    assert binding["spec"] == {"policyName": "rlhfjob.rlhf.dev", "validationActions": ["Deny"]}


def test_the_profile_policy_runs_for_the_jobs_own_profile_only() -> None:
    policy, binding = profile_policy()
    assert policy["spec"]["paramKind"] == {"apiVersion": "rlhf.dev/v1alpha1", "kind": "ClusterRLHFProfile"}
    assert binding["spec"]["paramRef"] == {"selector": {}, "parameterNotFoundAction": "Allow"}
    assert all(validation["expression"].startswith("!variables.mine || (") for validation in policy["spec"]["validations"])
    assert [variable["name"] for variable in policy["spec"]["variables"]] == ["mine", "sources", "destinations", "nodes", "gpus"]


_SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.sampled_from(["yes", "1e3", "a: b", "- x", "", "~", "#"])
)
_DOCUMENTS = st.dictionaries(
    st.text(max_size=6),
    st.recursive(
        _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4), max_leaves=20
    ),
    min_size=1,
)


@given(_DOCUMENTS)
def test_any_document_survives_the_yaml_writer(document: dict[str, object]) -> None:
    assert read(yaml.dump(document)) == [document]


def test_yaml_is_written_for_readers() -> None:
    document = {"a": {"b": [1, 2], "c": [{"d": "e f", "g": {}}, {"h": []}]}, "on": "yes", "f": 0.5, "n": [[1], []]}
    assert yaml.dump(document, {"x": 1}) == (
        'a:\n  b: [1, 2]\n  c:\n  - d: e f\n    g: {}\n  - h: []\n"on": "yes"\nf: 0.5\n"n":\n- [1]\n- []\n---\nx: 1\n'
    )
