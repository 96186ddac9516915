"""Prepare from sources to `prepared.json`: what it writes, what it refuses, and that it needs no torch."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf_api.outcome import Prepared
from rlhf_trainer.data import dataset
from rlhf_trainer.data.dataset import is_evaluation
from rlhf_trainer.data.store import open_dataset
from rlhf_trainer.errors import ConfigError, DataError, InputError, Preempted, StageError, UnsupportedError
from rlhf_trainer.models.presets import write_preset
from rlhf_trainer.run import Run
from rlhf_trainer.stages import prepare
from rlhf_trainer.state import manifest
from tests.support.runs import a_run

MODEL = {"key": "model", "source": {"uri": "builtin://models/tiny-llama"}}
GOOD = [{"instruction": f"question {n}", "output": "answer"} for n in range(40)]


def a_request(uri: str, purpose: str = "conversations", **fields: Any) -> dict[str, Any]:
    split = {"split": fields.pop("split")} if "split" in fields else {}
    stage = {"conversations": "sft.dataset", "preference": "rm.dataset", "prompts": "ppo.prompts"}[purpose]
    return {"key": stage, "dataset": {"uri": uri, **split}, "purpose": purpose, "tokenizer": "model", "maxLength": 128} | fields


def a_prepare(
    workspace: Path, *datasets: dict[str, Any], models: list[dict[str, Any]] | None = None, attempt: int = 1, **config: Any
) -> Run:
    """An attempt of Prepare; the claim `data` is the directory `claim` of the workspace."""
    run = a_run(
        workspace,
        stage={"name": "prepare", "type": "Prepare"},
        attempt=attempt,
        directory=f"stages/prepare/r{attempt}",
        config={"models": [MODEL] if models is None else models, "datasets": list(datasets)} | config,
    )
    return Run(
        config=run.config,
        digest=run.digest,
        root=run.root,
        directory=run.directory,
        secrets=run.secrets,
        claims={"data": workspace / "claim"},
    )


def write_rows(workspace: Path, rows: list[Any], name: str = "train.jsonl") -> str:
    """Write rows into the claim; the uri of their directory."""
    path = workspace / "claim" / "chat" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return "pvc://data/chat"


def prepared(run: Run) -> Prepared:
    return Prepared.from_wire(json.loads((run.output / "prepared.json").read_text("utf-8")))


def refused(run: Run, error: type[StageError]) -> str:
    """The message; nothing half-written may be left on the volume."""
    with pytest.raises(error) as caught:
        prepare.run(run)
    assert not (run.output / "manifest.json").exists()
    leftovers = [path for folder in ("sources", "datasets") for path in (run.root / folder).glob(".*")]
    assert leftovers == []
    return f"{caught.value.message} | {caught.value.hint}"


@pytest.mark.rule("O9")
def test_the_sample_data_is_prepared(tmp_path: Path) -> None:
    run = a_prepare(
        tmp_path,
        a_request("builtin://datasets/tiny-chat-sft", evalFraction=0.1),
        a_request("builtin://datasets/tiny-chat-preference", "preference"),
        a_request("builtin://datasets/tiny-chat-prompts", "prompts"),
    )
    result = prepare.run(run)
    manifest.verify(run.output, result.output_digest)
    found = prepared(run)
    assert (result.step, found.models["model"].vocab_size, "<assistant>" in found.chat_template) == (4, 768, True)
    entry = found.datasets["sft.dataset"]
    data = open_dataset(run.root / entry.path, entry.digest, "conversations")
    assert (len(data.train), len(data.eval), len(data.held_out)) == (entry.rows, entry.eval_rows, entry.held_out_rows)
    assert entry.held_out_rows == 250
    assert 0.06 < entry.eval_rows / (entry.rows + entry.eval_rows) < 0.14
    assert all(row.answer is not None for row in data.held_out)
    languages = entry.statistics["languages"]
    assert isinstance(languages, dict)
    assert sorted(languages) == ["en", "zh"]
    assert found.datasets["rm.dataset"].statistics["sources"] == {"near_miss": 1344, "refusal": 2016}


def test_a_later_attempt_finds_everything_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = a_request("builtin://datasets/tiny-chat-prompts", "prompts")
    first = a_prepare(tmp_path, request)
    prepare.run(first)
    monkeypatch.setattr(dataset, "write_dataset", None)  # would fail
    second = a_prepare(tmp_path, request, attempt=2)
    prepare.run(second)
    assert (second.output / "prepared.json").read_bytes() == (first.output / "prepared.json").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"maxLength": 100}, id="another length"),
        pytest.param({"evalFraction": 0.2}, id="another evaluation share"),
        pytest.param({"lossOn": "all"}, id="another loss"),
        pytest.param({"overlong": "truncate"}, id="another treatment of long rows"),
    ],
)
@pytest.mark.rule("D9")
def test_other_settings_are_another_dataset(tmp_path: Path, change: dict[str, Any]) -> None:
    uri = write_rows(tmp_path, GOOD)
    paths = set()
    for attempt, extra in enumerate(({}, change), start=1):
        run = a_prepare(tmp_path, a_request(uri, **extra), attempt=attempt)
        prepare.run(run)
        paths.add(prepared(run).datasets["sft.dataset"].path)
    assert len(paths) == 2


def test_without_a_test_split_the_evaluation_rows_are_held_out(tmp_path: Path) -> None:
    run = a_prepare(tmp_path, a_request(write_rows(tmp_path, GOOD), evalFraction=0.2))
    prepare.run(run)
    entry = prepared(run).datasets["sft.dataset"]
    data = open_dataset(run.root / entry.path, entry.digest, "conversations")
    assert data.eval.column("row_id") == data.held_out.column("row_id") != []
    assert not set(data.eval.column("row_id")) & set(data.train.column("row_id"))


@pytest.mark.rule("D10")
def test_the_evaluation_split_follows_the_row_and_not_its_place(tmp_path: Path) -> None:
    for name, rows in (("a", GOOD), ("b", [*GOOD[::-1], {"instruction": "new", "output": "x"}])):
        run = a_prepare(tmp_path / name, a_request(write_rows(tmp_path / name, rows), evalFraction=0.2))
        prepare.run(run)
        entry = prepared(run).datasets["sft.dataset"]
        ids = open_dataset(run.root / entry.path, entry.digest, "conversations").eval.column("row_id")
        assert set(ids) >= {row_id for row_id in ids if is_evaluation(row_id, 0.2)}
        if name == "a":
            first = set(ids)
    assert first <= set(ids)


def test_statistics_count_duplicates_and_what_was_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*GOOD, GOOD[0], {"instruction": "x" * 300, "output": "a"}, {"instruction": "我们好吗", "output": "好"}]
    run = a_prepare(tmp_path, a_request(write_rows(tmp_path, rows)))
    with caplog.at_level("INFO"):
        prepare.run(run)
    found = prepared(run).datasets["sft.dataset"].statistics
    assert (found["readRows"], found["usedRows"], found["duplicates"], found["droppedRows"], found["dropped"]) == (
        43,
        42,
        1,
        1,
        {"tooLong": 1},
    )
    assert "42 of 43 rows" in caplog.text
    assert "1 duplicates; dropped: 1 tooLong" in caplog.text


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        pytest.param([], DataError, "has 0 rows, must have at least 1", id="an empty file"),
        pytest.param(
            [*map(json.dumps, GOOD[:36]), "{oops"], DataError, "train.jsonl:37: '{oops' must be one JSON object", id="a malformed row 37"
        ),
        pytest.param(
            [{"instruction": "x" * 300, "output": "a"}] * 3, DataError, "all 3 rows were dropped (tooLong: 3)", id="every row too long"
        ),
        pytest.param([{"instruction": "x" * 300, "output": "a"}] * 3, DataError, "lengths in tokens: <=512: 3", id="with the histogram"),
        pytest.param(
            [*GOOD[:9], {"instruction": "x" * 300, "output": "a"}],
            DataError,
            "10.0% of the rows were dropped",
            id="more than maxDropFraction",
        ),
        pytest.param([{"messages": [{"role": "user", "content": "q"}]}] * 3, DataError, "noAnswer: 3", id="no answers at all"),
    ],
)
@pytest.mark.rule("D6")
def test_rows_that_cannot_be_used_end_the_stage(tmp_path: Path, rows: list[Any], error: type[StageError], message: str) -> None:
    assert message in refused(a_prepare(tmp_path, a_request(write_rows(tmp_path, rows))), error)


@pytest.mark.rule("D4")
def test_answers_that_are_all_cut_teach_no_end(tmp_path: Path) -> None:
    uri = write_rows(tmp_path, [{"instruction": "q", "output": "x" * 300}] * 3)
    message = refused(a_prepare(tmp_path, a_request(uri, overlong="truncate")), DataError)
    assert "none of the stop ids [2] has a label in the first 3 rows" in message


def test_an_evaluation_share_that_takes_every_row_is_refused(tmp_path: Path) -> None:
    only = next(row for row in ({"id": str(n), "instruction": "q", "output": "a"} for n in range(99)) if is_evaluation(str(row["id"]), 0.5))
    message = refused(a_prepare(tmp_path, a_request(write_rows(tmp_path, [only]), evalFraction=0.5)), DataError)
    assert "evalFraction 0.5 leaves 0 training rows of 1" in message


@pytest.mark.rule("D10")
def test_at_least_one_row_is_held_out_of_a_small_dataset(tmp_path: Path) -> None:
    """The one that a larger fraction would take first."""
    rows = [row | {"id": str(n)} for n, row in enumerate(GOOD[:5])]
    run = a_prepare(tmp_path, a_request(write_rows(tmp_path, rows), evalFraction=0.001))
    prepare.run(run)
    entry = prepared(run).datasets["sft.dataset"]
    data = open_dataset(run.root / entry.path, entry.digest, "conversations")
    first = min((str(n) for n in range(5)), key=lambda row_id: hashlib.sha256(row_id.encode()).hexdigest())
    assert data.eval.column("row_id") == data.held_out.column("row_id") == [first]
    assert sorted(data.train.column("row_id")) == sorted({"0", "1", "2", "3", "4"} - {first})


@pytest.mark.parametrize(("rows", "fraction"), [(GOOD[:1], 0.01), ([GOOD[0]] * 3, 0.01), (GOOD, 0.0)], ids=["one", "one thrice", "0"])
def test_nothing_is_held_out_of_a_single_row_or_where_nothing_was_asked_for(tmp_path: Path, rows: list[Any], fraction: float) -> None:
    run = a_prepare(tmp_path, a_request(write_rows(tmp_path, rows), evalFraction=fraction))
    prepare.run(run)
    entry = prepared(run).datasets["sft.dataset"]
    assert (entry.rows, entry.eval_rows) == (len(rows), 0)


@pytest.mark.rule("R7")
def test_pairs_that_prefer_nothing_are_dropped_and_counted(tmp_path: Path) -> None:
    pairs = [{"prompt": f"q{n}", "chosen": "a", "rejected": "a" if n < 2 else "b"} for n in range(40)]
    run = a_prepare(tmp_path, a_request(write_rows(tmp_path, pairs), "preference"))
    prepare.run(run)
    entry = prepared(run).datasets["rm.dataset"]
    assert (entry.rows, entry.statistics["dropped"]) == (38, {"equalAnswers": 2})


def test_a_missing_split_is_an_input_error(tmp_path: Path) -> None:
    uri = write_rows(tmp_path, GOOD)
    assert "'dev' must be a file stem" in refused(a_prepare(tmp_path, a_request(uri, split="dev")), InputError)


def test_rows_longer_than_the_context_are_refused_before_any_data_is_read(tmp_path: Path) -> None:
    message = refused(a_prepare(tmp_path, a_request("pvc://data/nothing", maxLength=512)), ConfigError)
    assert "sft.dataset: 512 tokens a row must be at most 256, the context of model 'model'" in message


def test_the_answers_to_prompts_count_towards_the_context(tmp_path: Path) -> None:
    """GPT-2 and OPT have no position for the token after it: the first rollout would end with an IndexError."""
    message = refused(a_prepare(tmp_path, a_request("pvc://data/nothing", "prompts", maxLength=200, answerLength=57)), ConfigError)
    assert "ppo.prompts: 257 tokens a row must be at most 256" in message


def test_models_that_exchange_token_ids_need_one_vocabulary(tmp_path: Path) -> None:
    other = tmp_path / "claim" / "other"
    other.mkdir(parents=True)
    write_preset("tiny-llama", 0, other)
    content = (other / "tokenizer.json").read_text("utf-8").replace("<reserved-7>", "<other>")
    (other / "tokenizer.json").write_text(content, "utf-8")
    reward = {"key": "ppo.reward", "source": {"uri": "pvc://data/other"}}
    message = refused(a_prepare(tmp_path, models=[MODEL, reward]), UnsupportedError)
    assert "ppo.reward: its vocabulary must equal that of model: token '<other>'" in message
    shutil.copy(next((tmp_path / "uid-1" / "sources").glob("*/tokenizer.json")), other)


def test_equal_vocabularies_pass(tmp_path: Path) -> None:
    reward = {"key": "ppo.reward", "source": {"uri": "builtin://models/tiny-llama"}}
    run = a_prepare(tmp_path, models=[MODEL, reward])
    prepare.run(run)
    assert sorted(prepared(run).models) == ["model", "ppo.reward"]


def test_a_template_that_the_model_cannot_write_is_refused(tmp_path: Path) -> None:
    assert "chatTemplate: 'llama3'" in refused(
        a_prepare(tmp_path, a_request(write_rows(tmp_path, GOOD)), chatTemplate="llama3"), ConfigError
    )


def test_a_request_to_stop_is_heard_between_sources(tmp_path: Path) -> None:
    run = a_prepare(tmp_path, a_request("builtin://datasets/tiny-chat-prompts", "prompts"))
    run.stop.set()
    with pytest.raises(Preempted):
        prepare.run(run)


def test_prepare_needs_neither_torch_nor_transformers_nor_a_writable_home(tmp_path: Path) -> None:
    run = a_prepare(tmp_path, a_request("builtin://datasets/tiny-chat-sft"))
    (tmp_path / "run.json").write_bytes(run.config.to_bytes())
    code = f"""
import sys
from pathlib import Path
from rlhf_api.run_config import RunConfig
from rlhf_trainer.run import Run
from rlhf_trainer.stages import prepare
config = RunConfig.load(Path({str(tmp_path / "run.json")!r}))
prepare.run(Run(config=config, digest="", root=Path({str(run.root)!r}), directory=Path({str(run.directory)!r}), secrets=Path("none")))
print(sorted({{"torch", "transformers", "colossalai", "peft"}} & set(sys.modules)))
"""
    environment = {**os.environ, "HOME": "/dev/null/home"} | dict.fromkeys(("HF_HOME", "XDG_CACHE_HOME"), "/dev/null/cache")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == "[]"
