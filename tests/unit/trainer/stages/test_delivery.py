"""Quantize, Publish and chat: what leaves the chain is proven, complete and answers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf_trainer.chat import Chat
from rlhf_trainer.errors import ConfigError, GateFailed, InputError, UnsupportedError
from rlhf_trainer.run import Run
from rlhf_trainer.stages import publish, quantize, reward, sft
from rlhf_trainer.state import manifest
from tests.support.training import Workshop, a_llama


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A volume on which SFT has finished: wide enough for blocks of 64 weights."""
    made = Workshop(tmp_path_factory.mktemp("job"), base=a_llama(hidden_size=64, intermediate_size=128))
    sft.run(made.sft(maxSteps=3))
    return made


def quantized(shop: Workshop, attempt: int = 1, **config: object) -> Run:
    wiring = {"inputs": shop.outputs(model="sft"), "preparedDatasets": {"evalDataset": "sft.dataset"}}
    return shop.run("nf4", "Quantize", {"maxPerplexityIncrease": 5, **config}, attempt=attempt, **wiring)


def published(shop: Workshop, uri: str = "pvc://models/team/chat", attempt: int = 1, **config: object) -> Run:
    block = {"destination": {"uri": uri}, **config}
    return shop.run("publish", "Publish", block, attempt=attempt, inputs=shop.outputs(model="sft"))


def a_manifest(kind: str) -> dict[str, Any]:
    """The wire form of a manifest that lists one file, `config.json`."""
    file = {"path": "config.json", "sizeBytes": 2, "sha256": "0" * 64}
    return {"version": 1, "kind": kind, "job": "chat", "stage": "publish", "attempt": 1, "step": 2, "files": [file]}


@pytest.mark.parametrize("method", ["nf4", "int8"])
@pytest.mark.rule("O5", "O7")
def test_a_quantized_model_is_measured_from_disk_and_answers(shop: Workshop, method: str) -> None:
    result = quantize.run(run := quantized(shop, attempt=1 if method == "nf4" else 2, method=method))
    assert manifest.verify(run.output, result.output_digest).metrics["perplexity"] > 1
    assert result.metrics["weight_bytes"] < result.metrics["weight_bytes_before"]
    assert {"perplexity_increase", "exact_match", "exact_match_sampled", "refusal_fraction"} <= result.metrics.keys()
    chat = Chat.load(run.output / "model")
    answer = chat.reply([{"role": "user", "content": "abc"}], max_new_tokens=4)
    assert answer == chat.reply([{"role": "user", "content": "abc"}], max_new_tokens=4, temperature=0)
    assert isinstance(chat.reply([{"role": "user", "content": "abc"}], max_new_tokens=4, temperature=1.0, seed=3), str)


@pytest.mark.rule("O8")
def test_a_missed_perplexity_gate_keeps_the_output(shop: Workshop) -> None:
    run = quantized(shop, attempt=3, maxPerplexityIncrease=1e-9)
    with pytest.raises(GateFailed, match="maxPerplexityIncrease"):
        quantize.run(run)
    assert manifest.verify(run.output).kind == "output"


def test_the_user_speaks_last(shop: Workshop) -> None:
    with pytest.raises(ValueError, match="must be the user's"):
        Chat.load(shop.sft().output / "model").reply([])


@pytest.mark.rule("O1")
def test_an_artifact_has_card_lineage_curves_and_proof(shop: Workshop) -> None:
    result = publish.run(run := published(shop, modelCard={"license": "apache-2.0", "tags": ["demo"], "description": "Letters."}))
    directory = run.claims["models"] / "team" / "chat"
    found = manifest.verify(directory, result.output_digest)
    assert found.kind == "artifact"
    assert {"README.md", "lineage.json", "curves.png", "config.json", "model.safetensors", "tokenizer.json"} <= {
        f.path for f in found.files
    }
    lineage = json.loads((directory / "lineage.json").read_text())
    assert [entry["stage"] for entry in lineage] == ["prepare", "sft"]
    card = (directory / "README.md").read_text()
    assert 'license: "apache-2.0"' in card
    assert "Letters." in card
    assert str(shop.directory) not in card
    assert result.metrics["output_bytes"] == sum(f.size_bytes for f in found.files)


@pytest.mark.rule("O1", "O3")
def test_a_published_reward_model_says_so_and_loads_as_its_card_says(shop: Workshop) -> None:
    reward.run(shop.reward(maxSteps=2, minAccuracy=0))
    block = {"destination": {"uri": "pvc://models/judge"}}
    publish.run(run := shop.run("publish", "Publish", block, inputs=shop.outputs(model="rm")))
    directory = run.claims["models"] / "judge"
    card = (directory / "README.md").read_text()
    assert "A reward model made by the stages below" in card
    assert "Subtract `mean` of `stage.json`" in card
    assert "mean" in json.loads((directory / "stage.json").read_text())
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(code, loaded := {"path": directory})  # what a reader of the card does
    model: Any = loaded["model"]
    assert (type(model).__name__, model.config.num_labels) == ("LlamaForSequenceClassification", 1)


def test_a_published_chat_model_loads_as_its_card_says(shop: Workshop) -> None:
    publish.run(run := published(shop, "pvc://models/talker"))
    card = (run.claims["models"] / "talker" / "README.md").read_text()
    assert "A chat model made by the stages below." in card
    assert "AutoModelForCausalLM.from_pretrained(path)" in card


def test_publishing_the_same_again_writes_nothing(shop: Workshop) -> None:
    first = publish.run(published(shop, "pvc://models/again"))
    before = {path: path.stat().st_mtime_ns for path in (shop.directory / "claim" / "again").rglob("*")}
    second = publish.run(published(shop, "pvc://models/again", attempt=2))
    assert second.output_digest == first.output_digest
    assert {path: path.stat().st_mtime_ns for path in (shop.directory / "claim" / "again").rglob("*")} == before


def test_another_card_replaces_the_artifact_as_a_whole(shop: Workshop) -> None:
    first = publish.run(published(shop, "pvc://models/card"))
    second = publish.run(published(shop, "pvc://models/card", attempt=2, modelCard={"license": "mit"}))
    assert first.output_digest != second.output_digest
    directory = shop.directory / "claim" / "card"
    manifest.verify(directory, second.output_digest)
    assert [path.name for path in directory.parent.iterdir() if path.name.startswith(".")] == []


def test_a_damaged_artifact_is_repaired(shop: Workshop) -> None:
    publish.run(published(shop, "pvc://models/damaged"))
    directory = shop.directory / "claim" / "damaged"
    (directory / "README.md").unlink()
    (directory / "config.json").write_text("{}")
    second = publish.run(published(shop, "pvc://models/damaged", attempt=2))
    assert "README.md" in {file.path for file in manifest.verify(directory, second.output_digest).files}


@pytest.mark.parametrize(
    ("uri", "settings", "error", "words"),
    [
        pytest.param("s3://bucket/x", {}, UnsupportedError, "pvc://<claim>/<path>", id="a scheme that does not work yet"),
        pytest.param("pvc://models/x", {"sign": True}, UnsupportedError, "publish.sign to false", id="signing does not exist yet"),
        pytest.param("pvc://other/x", {}, ConfigError, "--claim other=DIR", id="a claim that is not there"),
        pytest.param("pvc://models/../x", {}, ConfigError, "pvc://models/my-model", id="a way out of the claim"),
        pytest.param("pvc://models", {}, ConfigError, "pvc://models/my-model", id="the claim itself"),
    ],
)
def test_a_destination_that_cannot_be_is_refused(
    shop: Workshop, uri: str, settings: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as refused:
        publish.run(published(shop, uri, attempt=9, **settings))
    assert words in (refused.value.hint or "")  # type: ignore[attr-defined]


def test_foreign_files_are_never_replaced(shop: Workshop) -> None:
    directory = shop.directory / "claim" / "mine"
    directory.mkdir(parents=True)
    (directory / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="no artifact"):
        publish.run(published(shop, "pvc://models/mine"))
    assert (directory / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"name": "my web app"}, id="of a web app"),
        pytest.param({"schemaVersion": 2, "layers": []}, id="of a container image"),
        pytest.param(["thesis.docx"], id="that is a list"),
        pytest.param(a_manifest("output"), id="of a stage's output"),
        pytest.param(a_manifest("artifact"), id="of an artifact that does not list the file"),
    ],
)
def test_files_beside_a_manifest_are_never_replaced(shop: Workshop, tmp_path: Path, content: object) -> None:
    directory = tmp_path / "app"
    directory.mkdir()
    (directory / "manifest.json").write_text(json.dumps(content))
    (directory / "thesis.docx").write_text("years of work")
    with pytest.raises(ConfigError, match="holds files that are no artifact: they would be lost"):
        publish.run(replace(published(shop, "pvc://models/app"), claims={"models": tmp_path}))
    assert (directory / "thesis.docx").read_text() == "years of work"
    assert json.loads((directory / "manifest.json").read_text()) == content


@pytest.mark.parametrize("name", ["notes.txt", "adapter/notes.txt", "link"])
def test_what_somebody_added_to_an_artifact_is_never_lost(shop: Workshop, tmp_path: Path, name: str) -> None:
    publish.run(replace(published(shop, "pvc://models/kept"), claims={"models": tmp_path}))
    again = replace(published(shop, "pvc://models/kept", modelCard={"license": "mit"}), claims={"models": tmp_path})
    added = tmp_path / "kept" / name
    added.parent.mkdir(exist_ok=True)
    added.symlink_to(tmp_path) if name == "link" else added.write_text("mine")
    with pytest.raises(ConfigError, match="no artifact"):
        publish.run(again)
    added.unlink()
    publish.run(again)  # with nothing but our files in it, it is replaced


def test_a_model_that_changed_is_not_published(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    sft.run(run := shop.sft(maxSteps=1))
    target = published(shop)
    (run.output / "model" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"config\.json"):
        publish.run(target)
    assert not (target.claims["models"] / "team").exists()


def test_publish_never_imports_torch() -> None:
    code = "import sys; import rlhf_trainer.stages.publish; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
