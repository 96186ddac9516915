"""What a user sees: conditions that flip once, artifacts of delivered stages, and writes only when something is worth one."""

from typing import Any

import pytest

from rlhf_api.outcome import TerminationMessage
from rlhf_api.status import CheckpointStatus, JobPhase, JobStatus
from rlhf_operator.core.text import checkpoint, clean, metrics, newer
from rlhf_operator.shell.stored_status import UnreadableStatus
from tests.support.rig import DIGEST, PROFILE, Rig, digest_of, one_stage

OPEN = {**PROFILE, "publish": {"allow": ["pvc://"]}, "storage": {"allowExistingClaims": True}}


def publishing() -> dict[str, Any]:
    spec = one_stage()
    spec["stages"].append({"name": "publish", "type": "Publish", "publish": {"destination": {"uri": "pvc://models/chat"}}})
    return spec


class TestPublished:
    def test_nothing_to_publish_is_not_requested(self) -> None:
        rig = Rig(one_stage())
        rig.settle()
        assert rig.condition("Published")[:2] == ("False", "NotRequested")

    def test_a_delivered_artifact_is_listed(self) -> None:
        rig = Rig(publishing(), OPEN)
        rig.succeed("prepare", "sft")
        assert rig.condition("Published")[:2] == ("False", "Waiting")
        rig.succeed("publish")
        (artifact,) = rig.status.artifacts
        assert (artifact.stage, artifact.uri, artifact.digest, artifact.signed) == (
            "publish",
            "pvc://models/chat",
            digest_of("publish"),
            False,
        )
        assert rig.condition("Published")[:2] == ("True", "Published")
        assert rig.events()[-2:] == ["Published", "Complete"]
        assert rig.event("Published") == "pvc://models/chat"
        assert rig.event("StageSucceeded") == f"Stage publish: artifact {digest_of('publish')}"

    def test_a_failed_delivery_is_rejected(self) -> None:
        rig = Rig(publishing(), OPEN)
        rig.succeed("prepare", "sft")
        rig.finish("publish", 66)
        assert rig.condition("Published")[:2] == ("False", "Rejected")


def test_a_transition_time_moves_only_when_the_condition_flips() -> None:
    rig = Rig(one_stage())
    rig.settle()
    first = {condition.type: condition.last_transition_time for condition in rig.status.conditions}
    rig.now = rig.now.replace(minute=5)
    rig.run("prepare")
    later = {condition.type: condition.last_transition_time for condition in rig.status.conditions}
    assert later["Accepted"] == first["Accepted"]
    assert later["PodsReady"] == rig.now
    assert first["PodsReady"] != rig.now


def test_a_status_survives_the_wire() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare", "sft")
    assert JobStatus.from_wire(rig.status.to_wire()) == rig.status


def test_from_an_unreadable_status_nothing_is_decided() -> None:
    """Taken for empty, finished work would run again under numbers that were used."""
    rig = Rig(one_stage())
    rig.succeed("prepare")
    good = rig.body()["status"]
    rig.store.update_status("RLHFJob", "team-a", "chat", {**good, "phase": "Nonsense"})
    with pytest.raises(UnreadableStatus, match=r"RLHFJob team-a/chat: status\.phase: "):
        rig.run_once()
    assert rig.jobs() == ["chat-prepare-r1", "chat-sft-r1"]
    rig.store.update_status("RLHFJob", "team-a", "chat", good)
    rig.settle()
    assert rig.phases() == "prepare Succeeded, sft Starting"


def test_an_attempt_start_costs_one_status_write() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare")
    before = rig.body()["metadata"]["resourceVersion"]
    rig.finish("sft", 1)
    rig.run_once()
    writes = [event for event in rig.store.events_since(int(before)) if event.object["kind"] == "RLHFJob"]
    assert len(writes) <= 3  # ended and started; seen by uid; the ready pods of the next attempt are another matter


def test_the_printer_columns_are_filled() -> None:
    rig = Rig(one_stage())
    rig.succeed("prepare")
    status = rig.status
    assert (status.phase, status.current_stage, status.stages_summary, status.reason) == (JobPhase.STARTING, "sft", "1/2", "")
    assert status.start_time is not None
    assert status.completion_time is None


class TestText:
    def test_control_characters_and_length_are_cut(self) -> None:
        assert clean("a\x00b\n\tc\x1b[31m") == "a b c [31m"
        assert clean("x" * 600) == "x" * 511 + "…"

    def test_figures_are_finite_and_few(self) -> None:
        found = metrics({f"m{number:02}": float(number) for number in range(40)} | {"bad": float("nan")})
        assert len(found) == 24
        assert "bad" not in [metric.name for metric in found]

    def test_names_that_are_the_same_when_cleaned_are_one_figure(self) -> None:
        found = metrics({"loss": 1.0, "loss\n": 2.0, "x" * 70: 3.0, "x" * 80: 4.0, "\x00": 5.0})
        assert [metric.name for metric in found] == ["loss", "x" * 62 + "…"]
        assert found[0].value == 1.0

    def test_a_time_that_the_api_cannot_write_is_left_out(self) -> None:
        report = {"outcome": "Preempted", "exitCode": 75}
        wire = {"path": "stages/sft/r1/checkpoints/1", "step": 1, "digest": DIGEST, "time": "0001-01-01T00:00:00+14:00"}
        found = checkpoint(TerminationMessage.from_wire({**report, "checkpoint": wire}).checkpoint, "sft")
        assert found is not None
        assert found.time is None

    @pytest.mark.parametrize(
        "path",
        [
            "../escape", "stages/../x", "x" * 300, "x", "stages/sft/r1/checkpoints/1/..", "stages/sft/r1/checkpoints/x",
            "stages/sft/r1/checkpoints/\u202e1", "stages/sft/r1/output", "stages/SFT/r1/checkpoints/1",
            "stages/other/r1/checkpoints/1",
        ],
    )  # fmt: skip
    def test_a_path_that_cannot_be_ours_is_no_checkpoint(self, path: str) -> None:
        report = TerminationMessage.from_wire(
            {"outcome": "Preempted", "exitCode": 75, "checkpoint": {"path": path, "step": 1, "digest": DIGEST}}
        )
        assert checkpoint(report.checkpoint, "sft") is None

    def test_the_checkpoint_with_more_steps_counts(self) -> None:
        five, six = (CheckpointStatus(path=f"c/{step}", step=step, digest=DIGEST) for step in (5, 6))
        assert newer(five, six) == six
        assert newer(six, five) == six
        assert newer(None, five) == five
        assert newer(five, None) == five
