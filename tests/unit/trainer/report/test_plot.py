"""Curves from metrics.jsonl."""

import json
from pathlib import Path

from rlhf_trainer.report.plot import attempts_below, draw, read_metrics

PNG = b"\x89PNG\r\n\x1a\n"


def write_metrics(directory: Path, *lines: object) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "metrics.jsonl").write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return directory


def test_a_page_with_a_column_for_every_stage(tmp_path: Path) -> None:
    sft = write_metrics(tmp_path / "sft", *({"step": step, "loss": 2 / step, "tokens_per_second": 100} for step in range(1, 50)))
    ppo = write_metrics(tmp_path / "ppo", {"step": 1, "reward_mean": 0.1, "kl_mean": 0}, {"step": 2, "reward_mean": 0.3, "kl_mean": 0.2})
    assert draw({"sft": sft, "ppo": ppo}, tmp_path / "curves.png") == ["sft", "ppo"]
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "ppo", "sft"]


def test_a_stage_without_metrics_leaves_no_column(tmp_path: Path) -> None:
    sft = write_metrics(tmp_path / "sft", {"step": 1, "loss": 2}, {"step": 2, "loss": 1})
    assert draw({"prepare": tmp_path / "prepare", "sft": sft}, tmp_path / "curves.png") == ["sft"]


def test_nothing_to_draw_writes_nothing(tmp_path: Path) -> None:
    assert (
        draw({"sft": write_metrics(tmp_path / "sft", {"step": 1, "loss": 2, "note": "one point, no curve"})}, tmp_path / "curves.png") == []
    )
    assert not (tmp_path / "curves.png").exists()


def test_damaged_lines_are_skipped(tmp_path: Path) -> None:
    good = {"step": 1, "loss": 2}, {"step": 2, "loss": None}, {"step": 3, "loss": 1}
    directory = write_metrics(tmp_path, *good, "null\n", "[1]\n", '{"loss": 3}\n', '{"step": 4, "lo')
    assert read_metrics(directory) == list(good)
    assert draw({"sft": directory}, tmp_path / "curves.png") == ["sft"]


def test_the_newest_attempt_of_every_stage_is_found(tmp_path: Path) -> None:
    root = tmp_path / "volume" / "uid"
    for stage, attempt in (("sft", 1), ("sft", 2), ("sft", 10), ("ppo", 1)):
        write_metrics(root / "stages" / stage / f"r{attempt}", {"step": 1, "loss": 1})
    assert attempts_below(tmp_path) == {"sft": root / "stages/sft/r10", "ppo": root / "stages/ppo/r1"}


def test_an_attempt_is_its_own_page(tmp_path: Path) -> None:
    directory = write_metrics(tmp_path / "stages" / "sft" / "r2", {"step": 1, "loss": 1})
    assert attempts_below(directory) == {"sft": directory}


def test_nothing_below_is_nothing(tmp_path: Path) -> None:
    assert attempts_below(tmp_path) == {}
