"""Which rows of a source are held out. Whole stages of Prepare: test_prepare.py."""

import json
from pathlib import Path

import pytest

from rlhf_api.inputs import Dataset
from rlhf_api.run_config import DatasetRequest
from rlhf_trainer.data.dataset import DatasetMaker
from rlhf_trainer.data.files import find_split
from rlhf_trainer.data.sources import Fetched
from rlhf_trainer.data.store import PreparedDataset, open_dataset
from rlhf_trainer.data.tokenizer import load_tokenizer
from rlhf_trainer.errors import InputError
from rlhf_trainer.models.presets import write_preset


def made(workspace: Path, split: str, files: dict[str, range]) -> PreparedDataset[object]:
    """The dataset of one split; each file has the rows with these ids."""
    source, model = workspace / "source", workspace / "model"
    model.mkdir()
    source.mkdir()
    write_preset("tiny-llama", 0, model)
    for name, ids in files.items():
        rows = [{"id": str(n), "instruction": f"question {n}", "output": "answer"} for n in ids]
        (source / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    request = DatasetRequest(
        key="sft.dataset",
        dataset=Dataset(uri="pvc://data/chat", split=split),
        purpose="conversations",
        tokenizer="model",
        max_length=128,
        eval_fraction=0.2,
    )
    tokenizer = load_tokenizer(model)
    found = DatasetMaker(workspace / "datasets", Fetched(source, "sha256:0"), request, tokenizer, tokenizer.template("auto")).make()
    return open_dataset(found.path, found.digest, "conversations")


@pytest.mark.parametrize(
    ("split", "files"),
    [
        pytest.param("train", {"test.jsonl": range(60)}, id="the only file is called test"),
        pytest.param("test", {"train.jsonl": range(60, 99), "test.jsonl": range(60)}, id="the test split itself is trained on"),
    ],
)
@pytest.mark.rule("D10")
def test_what_is_trained_on_is_never_held_out(tmp_path: Path, split: str, files: dict[str, range]) -> None:
    data = made(tmp_path, split, files)
    trained, held_out = set(data.train.column("row_id")), set(data.held_out.column("row_id"))
    assert trained | held_out == set(map(str, range(60)))
    assert trained
    assert held_out
    assert not trained & held_out


def test_a_test_split_of_its_own_is_held_out(tmp_path: Path) -> None:
    data = made(tmp_path, "train", {"train.jsonl": range(60), "test.jsonl": range(60, 99)})
    assert sorted(data.held_out.column("row_id")) == [str(n) for n in range(60, 99)]
    assert len(data.eval) > 0


@pytest.mark.parametrize("split", ["../other", "/claims/data/other", "a/b", ".hidden", ""])
def test_a_split_that_is_a_path_leads_nowhere(split: str, tmp_path: Path) -> None:
    """The profile allows sources and digests pin them; the API refuses such a split, and Prepare does not trust it to have."""
    (tmp_path / "other.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="must be the name of a file or folder of the dataset"):
        find_split(tmp_path, split)
