"""The status of a profile: one write when the answer changes, none where profiles may only be read."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from rlhf_operator.shell.kube import Forbidden, NotFound
from rlhf_operator.shell.profiles import desired_status, reconcile_profile

NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
PROFILE: dict[str, Any] = {
    "apiVersion": "rlhf.dev/v1alpha1",
    "kind": "ClusterRLHFProfile",
    "metadata": {"name": "default", "uid": "u-1", "generation": 3, "resourceVersion": "7"},
    "spec": {"image": "registry.example.com/trainer@sha256:" + "0" * 64},
}


class Api:
    """One profile, and what happens when its status is written."""

    def __init__(self, profile: dict[str, Any] | None, refusal: Exception | None = None) -> None:
        self.profile, self.refusal = profile, refusal
        self.written: list[Any] = []

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        if self.profile is None:
            raise NotFound(name)
        return self.profile

    async def apply_status(self, kind: str, namespace: str, name: str, status: Any, *, uid: str, resource_version: str) -> None:
        if self.refusal:
            raise self.refusal
        self.written.append((uid, resource_version, status))


def reconcile(api: Api) -> None:
    asyncio.run(reconcile_profile(api, "default", NOON))  # type: ignore[arg-type]


def test_a_new_profile_is_ready() -> None:
    api = Api(PROFILE)
    reconcile(api)
    [(uid, version, status)] = api.written
    assert (uid, version, status["observedGeneration"]) == ("u-1", "7", 3)
    assert (status["conditions"][0]["status"], status["conditions"][0]["reason"]) == ("True", "Valid")


def test_the_same_answer_is_not_written_again() -> None:
    api = Api(PROFILE | {"status": desired_status(PROFILE, NOON)})
    reconcile(api)
    assert api.written == []


def test_an_unusable_profile_says_why() -> None:
    status = desired_status(PROFILE | {"spec": {"image": "trainer:latest"}}, NOON)
    assert (status["conditions"][0]["status"], status["conditions"][0]["reason"]) == ("False", "Invalid")
    assert "spec.image" in status["conditions"][0]["message"]


@pytest.mark.parametrize("api", [Api(None), Api(PROFILE, Forbidden("profiles are read only here"))], ids=["gone", "read only"])
def test_nothing_to_write_is_no_error(api: Api) -> None:
    reconcile(api)
    assert api.written == []
