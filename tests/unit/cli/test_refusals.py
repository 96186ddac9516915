"""What a user reads when the API server says no: field, value, rule, fix."""

from typing import Any

import pytest

from rlhf_cli.cluster.connection import ApiRefused, connect
from rlhf_cli.cluster.refusals import explain
from rlhf_cli.cluster.target import Target
from rlhf_cli.errors import CommandError
from tests.support.small_api import SmallApi, status

VAP = (
    "rlhfjobs.rlhf.dev \"chat\" is forbidden: ValidatingAdmissionPolicy 'profile.rlhf.dev' with binding 'profile.rlhf.dev' "
    "denied request: a stage asks for more nodes than the profile allows: 2"
)


def explained(api: SmallApi, code: int, body: dict[str, Any]) -> CommandError:
    return explain(ApiRefused(code, body), connect(Target(kubeconfig=api.kubeconfig)), "POST jobs", "chat")


def test_every_field_of_an_invalid_job_has_a_line(api: SmallApi) -> None:
    causes = [
        {"field": "spec.stages[0].sft.epochs", "message": "Invalid value: 0: must be greater than or equal to 1"},
        {"field": "spec", "message": 'Invalid value: "object": a PPO stage needs a reward model'},
        {"message": "something about nothing in particular"},
    ]
    error = explained(api, 422, status(422, "Invalid", "RLHFJob is invalid: …", causes=causes))
    assert error.exit_code == 64
    assert error.lines == (
        "spec.stages[0].sft.epochs: 0: must be greater than or equal to 1",
        "spec: a PPO stage needs a reward model",
        "document: something about nothing in particular",
    )


def test_stray_fields_have_a_line_each(api: SmallApi) -> None:
    message = (
        'RLHFJob in version "v1alpha1" cannot be handled: strict decoding error: unknown field "spec.modle", duplicate field "spec.seed"'
    )
    assert explained(api, 400, status(400, "BadRequest", message)).lines == (
        "spec.modle: is not a field of the API of this cluster: correct its name, or remove it",
        "spec.seed: stands twice: remove one",
    )


def test_without_causes_the_message_is_what_there_is(api: SmallApi) -> None:
    assert explained(api, 400, status(400, "BadRequest", "the body is no JSON")).lines == ("the body is no JSON",)


@pytest.mark.parametrize(
    ("code", "body", "exit_code", "words"),
    [
        pytest.param(
            403, status(403, "Forbidden", VAP), 64, ["more nodes than the profile allows: 2", "denied by profile.rlhf.dev"], id="policy"
        ),
        pytest.param(
            403,
            status(403, "Forbidden", 'User "eve" cannot create resource "rlhfjobs"'),
            1,
            ["-n: 'team-a'", 'User "eve" cannot create', "ask for the ClusterRole rlhf-user"],
            id="a right that is missing",
        ),
        pytest.param(401, status(401, "Unauthorized", "Unauthorized"), 1, ["--context: 'test'", "log in again"], id="unknown user"),
        pytest.param(404, {"message": "404 page not found"}, 64, ["the CRDs are missing", "docs/install.md"], id="no CRDs"),
        pytest.param(
            404,
            status(404, "NotFound", "…", name="chat", kind="rlhfjobs"),
            64,
            ["JOB: 'chat'", "namespace team-a of test"],
            id="no such job",
        ),
        pytest.param(
            404,
            status(404, "NotFound", "…", name="team-a", kind="namespaces"),
            64,
            ["-n: 'team-a' is no namespace"],
            id="no such namespace",
        ),
        pytest.param(409, status(409, "AlreadyExists", "…"), 64, ["metadata.name: 'chat' exists already", "kubectl apply"], id="exists"),
        pytest.param(409, status(409, "Conflict", "changed"), 1, ["POST jobs: 409 changed", "try again"], id="conflict"),
        pytest.param(500, {}, 1, ["POST jobs: 500 HTTP 500", "try again"], id="a failing server"),
        pytest.param(429, status(429, "TooManyRequests", "slow down"), 1, ["429 slow down"], id="throttled"),
    ],
)
def test_refusal(api: SmallApi, code: int, body: dict[str, Any], exit_code: int, words: list[str]) -> None:
    error = explained(api, code, body)
    assert error.exit_code == exit_code
    assert all(word in str(error) for word in words), str(error)
