"""Which changes of a job the API server lets through: the cases of the unit tests, on a stored job with a status."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.support.cluster import ControlPlane
from tests.support.cluster.rest import Object, Refused, Rest
from tests.support.manifests import changed, chat_7b
from tests.support.rule_cases.changes import ANY_TIME, AT_REST, NEVER, OTHER_STAGES, PHASES, SET, SUCCEEDED, TOKEN
from tests.support.rules import SFT

JOBS = "/apis/rlhf.dev/v1alpha1/namespaces/default/rlhfjobs"
PATH = f"{JOBS}/chat-7b"


class Stored:
    """A job in the API server whose phase a test sets."""

    def __init__(self, rest: Rest) -> None:
        self.rest = rest
        document = chat_7b({"metadata": {"name": "chat-7b"}})
        rest.create(JOBS, document)

    def is_in(self, phase: str, succeeded: tuple[str, ...] = ()) -> Object:
        """The job after the operator wrote this phase."""
        stages = [{"name": name, "type": "SFT", "phase": "Succeeded"} for name in succeeded]
        stages.append({"name": "publish", "type": "Publish", "phase": "Pending"})
        return self.rest.merge(f"{PATH}/status", {"status": {"phase": phase, "stages": stages}})

    def refusal(self, job: Mapping[str, Any], changes: Mapping[str, object]) -> str:
        """What is said to a change that is not carried out; empty when it would be."""
        try:
            self.rest.request("PUT", PATH, changed(job, changes), query={"dryRun": "All"})
        except Refused as refused:
            if refused.code != 422:
                raise
            return refused.message
        return ""


@pytest.fixture(scope="module")
def stored(plane: ControlPlane) -> Iterator[Stored]:
    rest = plane.rest()
    yield Stored(rest)
    rest.delete(PATH)
    rest.close()


@pytest.mark.parametrize(("field", "value"), NEVER.items())
@pytest.mark.parametrize("phase", ["Suspended", "Failed"])
def test_some_fields_never_change(stored: Stored, field: str, value: object, phase: str) -> None:
    assert f"spec.{field} is immutable: create a new job" in stored.refusal(stored.is_in(phase), {f"spec.{field}": value})


@pytest.mark.parametrize("phase", PHASES)
def test_some_fields_change_at_any_time(stored: Stored, phase: str) -> None:
    job = stored.is_in(phase)
    assert {name: stored.refusal(job, changes) for name, changes in ANY_TIME.items()} == dict.fromkeys(ANY_TIME, "")


@pytest.mark.parametrize(("changes", "path", "message", "allowed"), AT_REST.values(), ids=AT_REST)
@pytest.mark.parametrize("phase", PHASES)
def test_some_fields_change_at_rest(
    stored: Stored, changes: dict[str, object], path: str, message: str, allowed: frozenset[str], phase: str
) -> None:
    said = stored.refusal(stored.is_in(phase), changes)
    assert (message in said) == (phase not in allowed), said
    assert said == "" or phase not in allowed


@pytest.mark.parametrize("changes", OTHER_STAGES.values(), ids=OTHER_STAGES)
def test_stages_stay_what_they_are(stored: Stored, changes: dict[str, object]) -> None:
    assert SET in stored.refusal(stored.is_in("Failed"), changes)


def test_a_succeeded_stage_changes_only_with_a_new_token(stored: Stored) -> None:
    change: dict[str, object] = {f"{SFT}.sft.epochs": 5}
    job = stored.is_in("Failed", succeeded=("sft",))
    assert SUCCEEDED in stored.refusal(job, change)
    assert stored.refusal(job, change | {"spec.rerun": TOKEN}) == ""
    assert stored.refusal(stored.is_in("Failed", succeeded=("rm",)), change) == ""


def test_a_status_write_passes_no_rule_about_changes(stored: Stored) -> None:
    """The rules that compare whole specs cost 7 ms; the policy that has them does not see the status subresource."""
    job = stored.is_in("Running")
    job["spec"]["strategy"] = "zero2"  # ignored on this path, so nothing is refused
    job["status"]["phase"] = "Starting"
    answer = stored.rest.replace(f"{PATH}/status", job)
    assert (answer["status"]["phase"], answer["spec"].get("strategy")) == ("Starting", "auto")
