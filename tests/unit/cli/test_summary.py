"""The closing tables and the machine-readable result."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlhf_cli.summary import Score, artifacts_of, directory_of, print_summary, prompts_to_try, result_of, scores_of
from tests.support.statuses import a_job, a_stage

SHARES = {"exact_match": 0.5, "exact_match_en": 0.6, "exact_match_zh": 0.4, "exact_match_sampled": 0.3, "refusal_fraction": 0.33}
CLAIMS = {"models": Path("/data/models")}


def finished_job() -> dict[str, Any]:
    base = {f"base_{name}": 0.0 for name in SHARES}
    return a_job(
        a_stage("prepare", "Prepare", "Succeeded"),
        a_stage(
            "sft",
            "SFT",
            "Succeeded",
            metrics=base | SHARES | {"loss": 1},
            output={"path": "x", "digest": "sha256:1", "sizeBytes": 3_800_000},
        ),
        a_stage("rm", "RewardModel", "Succeeded", metrics={"accuracy": 0.9}),
        a_stage("ppo", "PPO", "Succeeded", metrics=SHARES | {"exact_match": 0.75, "reward_mean": 1.5, "kl_mean": 2.25}),
        a_stage("nf4", "Quantize", "Succeeded", metrics=SHARES),
        a_stage("publish", "Publish", "Succeeded"),
        phase="Succeeded",
        artifacts=[{"stage": "publish", "uri": "pvc://models/tiny-chat", "digest": "sha256:ab", "sizeBytes": 2_000_000, "signed": False}],
    )


def test_base_sft_ppo_and_quantized_model_are_compared() -> None:
    scores = scores_of(finished_job())
    assert [score.model for score in scores] == ["base", "sft (SFT)", "ppo (PPO)", "nf4 (Quantize)"]
    assert scores[0] == Score(model="base", **dict.fromkeys(SHARES, 0.0))  # type: ignore[arg-type]
    assert (scores[1].exact_match_zh, scores[1].size_bytes, scores[1].reward_mean) == (0.4, 3_800_000, None)
    assert (scores[2].exact_match, scores[2].reward_mean, scores[2].kl_mean) == (0.75, 1.5, 2.25)


def test_a_stage_that_failed_has_no_score() -> None:
    assert scores_of(a_job(a_stage(phase="Failed", metrics=SHARES))) == []


def test_the_tables_show_what_a_person_wants_to_know() -> None:
    text = io.StringIO()
    print_summary(Console(file=text, width=120), finished_job(), CLAIMS, Path(".rlhf/hello"), 190.0)
    shown = text.getvalue()
    for part in ("base", "50.0%", "60.0%", "40.0%", "33.0%", "75.0%", "1.50", "2.25", "3.8 MB", "–", "complete  in 3m10s"):
        assert part in shown
    assert "artifact  /data/models/tiny-chat  (2.0 MB, sha256:ab)" in shown
    assert "chat      rlhf chat /data/models/tiny-chat" in shown


def test_the_command_to_chat_asks_what_the_model_answered_right(tmp_path: Path) -> None:
    attempts = tmp_path / "volume" / "uid" / "stages" / "ppo"
    older, attempt = attempts / "r2", attempts / "r10"
    for directory in (older, attempt):
        directory.mkdir(parents=True)
    (older / "samples.jsonl").write_text(json.dumps({"prompt": "What is 1 plus 1?", "response": "2", "answer": "2"}) + "\n")
    samples = [
        {"prompt": "What is 3 plus 4?", "response": "7", "answer": "7"},
        {"prompt": "What is 3 plus 5?", "response": "9", "answer": "8"},
        {"prompt": "3加4等于几?", "response": "7", "answer": "7"},
        {"prompt": "Say hello", "response": "hello", "answer": None},
    ]
    (attempt / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples), "utf-8")
    assert prompts_to_try(finished_job(), tmp_path) == ["What is 3 plus 4?", "3加4等于几?"]
    text = io.StringIO()
    print_summary(Console(file=text, width=120), finished_job(), CLAIMS, tmp_path, 190.0)
    for prompt in ("What is 3 plus 4?", "3加4等于几?"):
        assert f"          rlhf chat /data/models/tiny-chat -m '{prompt}'" in text.getvalue()


@pytest.mark.parametrize(
    ("on_path", "typed", "expected"),
    [
        pytest.param(True, ".venv/bin/rlhf", "rlhf", id="a name that PATH finds"),
        pytest.param(False, ".venv/bin/rlhf", ".venv/bin/rlhf", id="a path, where PATH finds nothing"),
        pytest.param(False, "-c", "rlhf", id="no program of ours was typed"),
    ],
)
def test_the_command_to_chat_works_as_printed(
    on_path: bool, typed: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_path:
        (tmp_path / "rlhf").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", [typed])
    text = io.StringIO()
    print_summary(Console(file=text, width=120), finished_job(), CLAIMS, tmp_path, 190.0)
    assert f"chat      {expected} chat /data/models/tiny-chat\n" in text.getvalue()


def test_without_measurements_there_is_no_table() -> None:
    text = io.StringIO()
    print_summary(Console(file=text, width=120), a_job(a_stage("prepare", "Prepare", "Succeeded")), {}, Path("w"), 1.0)
    assert "exact match" not in text.getvalue()
    assert "files     w" in text.getvalue()


def test_an_artifact_elsewhere_has_no_directory() -> None:
    assert directory_of("pvc://models/a/b", CLAIMS) == "/data/models/a/b"
    assert directory_of("pvc://other/a", CLAIMS) is None
    assert directory_of("oci://registry/models:v1", CLAIMS) is None
    assert artifacts_of(finished_job(), {})[0].directory is None


def test_the_result_is_json_in_camel_case() -> None:
    result = json.loads(json.dumps(result_of(finished_job(), CLAIMS, Path(".rlhf/hello"), 0), allow_nan=False))
    assert (result["name"], result["phase"], result["exitCode"], result["workdir"]) == ("hello", "Succeeded", 0, ".rlhf/hello")
    assert result["scores"][1]["exactMatchSampled"] == 0.3
    assert result["artifacts"] == [
        {
            "stage": "publish",
            "uri": "pvc://models/tiny-chat",
            "digest": "sha256:ab",
            "sizeBytes": 2_000_000,
            "directory": "/data/models/tiny-chat",
        }
    ]
    assert result["job"]["status"]["phase"] == "Succeeded"
