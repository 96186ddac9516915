"""What a stage says back: exit codes with their budgets, messages that always fit, manifests that prove themselves."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_api.base import canonical_json, digest
from rlhf_api.outcome import (
    MAX_TERMINATION_BYTES,
    NEVER_RETRIED,
    Budget,
    CheckpointRef,
    ExitCode,
    Manifest,
    ManifestFile,
    Outcome,
    Prepared,
    ProgressDocument,
    TerminationMessage,
    budget_of,
    exit_code_of,
    outcome_of,
)

SHA256 = "0123456789abcdef" * 4
CHECKPOINT = CheckpointRef(path="stages/ppo/r1/checkpoints/120", step=120, digest=f"sha256:{SHA256}")


@pytest.mark.parametrize(
    ("code", "outcome", "budget", "is_retried"),
    [
        (0, "Succeeded", "None", True),
        (64, "ConfigInvalid", "None", False),
        (65, "DataInvalid", "None", False),
        (66, "InputInvalid", "None", False),
        (69, "Unsupported", "None", False),
        (70, "InternalError", "Attempt", True),
        (71, "GPUOutOfMemory", "None", False),
        (72, "HostOutOfMemory", "Attempt", True),
        (73, "Communication", "Disruption", True),
        (74, "Storage", "Attempt", True),
        (75, "Preempted", "Disruption", True),
        (76, "Diverged", "None", False),
        (77, "GateFailed", "None", False),
        (78, "Stalled", "Attempt", True),
        (137, "HostOutOfMemory", "Attempt", True),
        (1, "AppError", "Attempt", True),
        (143, "AppError", "Attempt", True),
    ],
)
def test_exit_codes(code: int, outcome: str, budget: str, is_retried: bool) -> None:
    found = outcome_of(code)
    assert (found, budget_of(found), found not in NEVER_RETRIED) == (outcome, budget, is_retried)


@pytest.mark.parametrize(
    ("outcome", "budget"),
    [
        (Outcome.DISRUPTED, Budget.DISRUPTION),
        (Outcome.STARTUP_TIMEOUT, Budget.DISRUPTION),
        (Outcome.OUTPUT_INVALID, Budget.ATTEMPT),
        (Outcome.CANCELLED, Budget.NONE),
        (Outcome.DEADLINE_EXCEEDED, Budget.NONE),
    ],
)
def test_outcomes_that_no_process_reports(outcome: Outcome, budget: Budget) -> None:
    assert budget_of(outcome) is budget
    assert exit_code_of(outcome) is None


def test_every_code_has_an_outcome_and_back() -> None:
    assert [exit_code_of(outcome_of(code)) for code in ExitCode] == list(ExitCode)


def test_a_termination_message_comes_back() -> None:
    message = TerminationMessage(
        outcome=Outcome.GPU_OUT_OF_MEMORY, exit_code=71, message="out of memory", hint="strategy zero2-offload needs 48 GiB", rank=5,
        step=123, checkpoint=CHECKPOINT, metrics={"loss": 0.5},
    )  # fmt: skip
    assert TerminationMessage.parse(message.encode().decode()) == message


@given(
    st.text(max_size=9000), st.text(max_size=9000), st.dictionaries(st.text(max_size=40), st.floats(allow_nan=False, allow_infinity=False))
)
def test_a_termination_message_always_fits(text: str, hint: str, metrics: dict[str, float]) -> None:
    message = TerminationMessage(outcome=Outcome.APP_ERROR, exit_code=1, message=_whole(text), hint=_whole(hint), metrics=metrics)
    encoded = message.encode()
    assert len(encoded) <= MAX_TERMINATION_BYTES
    parsed = TerminationMessage.parse(encoded.decode())
    assert parsed is not None
    assert parsed.outcome is Outcome.APP_ERROR
    assert _whole(text).startswith(parsed.message)


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def test_the_hint_is_cut_before_the_message() -> None:
    parsed = TerminationMessage.parse(
        TerminationMessage(outcome=Outcome.APP_ERROR, exit_code=1, message="m" * 1000, hint="h" * 9000).encode().decode()
    )
    assert parsed is not None
    assert parsed.message == "m" * 1000
    assert parsed.hint
    assert len(parsed.hint) > 2500


def test_the_reason_survives_many_metrics_and_so_do_those_that_people_look_for() -> None:
    """A gate that failed says by how much; two hundred figures of a long evaluation must not push that out."""
    metrics = {f"a_figure_of_some_length_{number:03}": number / 7 for number in range(200)} | {"perplexity_increase": 0.31}
    words = {"message": "perplexity rose by 31 %, above maxPerplexityIncrease 5 %", "hint": "use more calibration rows"}
    message = TerminationMessage(outcome=Outcome.GATE_FAILED, exit_code=77, metrics=metrics, **words)
    parsed = TerminationMessage.parse(message.encode().decode())
    assert parsed is not None
    assert (parsed.message, parsed.hint) == (words["message"], words["hint"])
    assert parsed.metrics["perplexity_increase"] == 0.31
    assert len(parsed.metrics) > 50


def test_long_words_and_many_metrics_share_the_room() -> None:
    metrics = {f"a_figure_of_some_length_{number:03}": number / 7 for number in range(200)}
    message = TerminationMessage(outcome=Outcome.GATE_FAILED, exit_code=77, metrics=metrics, message="m" * 5000, hint="h" * 5000)
    parsed = TerminationMessage.parse(message.encode().decode())
    assert parsed is not None
    assert (len(parsed.message), len(parsed.hint or "")) == (512, 512)
    assert parsed.metrics


def test_a_message_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be cut to 50"):
        TerminationMessage(outcome=Outcome.APP_ERROR, exit_code=1, checkpoint=CHECKPOINT).encode(max_bytes=50)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("Traceback (most recent call last):", id="no JSON"),
        pytest.param("[]", id="no object"),
        pytest.param('{"outcome": "Succeeded"}', id="no exit code"),
        pytest.param('{"outcome": "Splendid", "exitCode": 0}', id="an outcome of its own"),
        pytest.param('{"outcome": "Succeeded", "exitCode": 0, "outputDigest": "sha256:12"}', id="no digest"),
        pytest.param('{"outcome": "Succeeded", "exitCode": 0, "metrics": {"loss": NaN}}', id="a metric that is no number"),
        pytest.param('{"outcome": "Succeeded", "exitCode": 0, "step": 1e400}', id="a step that is no number"),
        pytest.param('{"outcome": "Succeeded", "exitCode": 0, "step": 9007199254740992}', id="a step that is too large"),
        pytest.param('{"outcome": "Succeeded", "exitCode": 0, "metrics": {"loss": 1' + "0" * 400 + "}}", id="a metric beyond all floats"),
        pytest.param("[" * 100_000, id="an attack on the parser"),
    ],
)
def test_a_pod_may_write_anything(text: str) -> None:
    assert TerminationMessage.parse(text) is None


def test_newer_fields_are_dropped() -> None:
    parsed = TerminationMessage.parse('{"outcome": "Succeeded", "exitCode": 0, "mood": "fine"}')
    assert parsed is not None
    assert "mood" not in parsed.to_wire()


def test_progress_is_bounded() -> None:
    document = {"jobUid": "u", "stage": "ppo", "attempt": 1, "state": "training", "step": 3, "percent": 30.0}
    assert ProgressDocument.from_wire(document).total_steps is None
    for field, value in (("percent", 101), ("step", 2**53), ("totalSteps", 2**63), ("etaSeconds", 1e300), ("etaSeconds", float("inf"))):
        with pytest.raises(ValueError, match=field):
            ProgressDocument.from_wire(document | {field: value})


def test_equal_manifests_have_equal_bytes() -> None:
    files = [ManifestFile(path=name, size_bytes=1, sha256=SHA256) for name in ("model/b", "model/a")]
    one, other = (
        Manifest(kind="output", job="chat", stage="sft", attempt=1, metrics=metrics, files=tuple(order))
        for metrics, order in (({"a": 1.0, "b": 2.0}, files), ({"b": 2, "a": 1}, files[::-1]))
    )
    assert one.to_bytes() == other.to_bytes()
    assert [file["path"] for file in json.loads(one.to_bytes())["files"]] == ["model/a", "model/b"]
    assert digest(one.to_bytes()).startswith("sha256:")


def test_absolute_paths_are_no_paths_of_a_manifest() -> None:
    with pytest.raises(ValueError, match="path"):
        ManifestFile(path="/etc/passwd", size_bytes=1, sha256=SHA256)


def test_prepared_comes_back() -> None:
    wire = {
        "version": 1,
        "chatTemplate": "chatml",
        "models": {"model": {"path": "sources/sha256-1", "digest": f"sha256:{SHA256}", "vocabSize": 768}},
        "datasets": {
            "sft.dataset": {
                "path": "datasets/sha256-2", "digest": f"sha256:{SHA256}", "rows": 10, "evalRows": 1, "heldOutRows": 2,
                "statistics": {"languages": {"en": 0.5, "zh": 0.5}},
            }
        },
    }  # fmt: skip
    assert Prepared.from_wire(wire).to_wire() == wire


def test_canonical_json_has_no_nan() -> None:
    assert canonical_json({"b": "é", "a": 1.0}) == '{"a":1.0,"b":"é"}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))
