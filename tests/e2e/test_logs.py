"""`rlhf logs -f` in a real cluster: every pod of a gang, across attempts and stages, until the job ends."""

from collections.abc import Callable

import pytest

from tests.support.cli import rlhf_in
from tests.support.cluster import ControlPlane
from tests.support.jobs import SFT
from tests.support.node.live import LiveJob


def test_logs_follow_a_job_over_attempts_and_stages(
    new_job: Callable[[str], LiveJob], plane: ControlPlane, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = new_job("followed")
    job.act({"sft/r1/1": {"exit": 1}, "sft/r1/0": {"until": "never"}})
    job.apply({"sft": SFT})
    code, out, said = rlhf_in(capsys, monkeypatch)("logs", "followed", "-f", "--kubeconfig", plane.kubeconfig)
    assert (code, said) == (0, "")
    assert job.is_true("Complete")
    lines = [line for line in out.splitlines() if line]
    assert {line.split()[0] for line in lines} >= {"prepare/r1/0", "sft/r1/1", "sft/r2/0", "sft/r2/1"}
    assert len(lines) == len(set(lines))
