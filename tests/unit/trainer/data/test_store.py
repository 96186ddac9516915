"""Prepared datasets: complete or absent, opened by digest, read one row at a time, without torch."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rlhf_trainer.data import store
from rlhf_trainer.data.rows import ConversationRow, PreferenceRow, PromptRow, Row
from rlhf_trainer.data.store import INDEX_FILE, directory_digest, open_dataset, write_dataset
from rlhf_trainer.errors import InputError

FACTS = {"stopIds": [2, 5], "padId": 0, "statistics": {"droppedRows": 1}}


def ids(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(values, dtype=np.int32)


def conversations(count: int) -> list[ConversationRow]:
    return [
        ConversationRow(f"row-{n}", ids(*range(n + 2)), np.ones(n + 2, np.uint8), ids(n), "七" if n % 2 else None, "zh")
        for n in range(count)
    ]


def write(path: Path, train: Sequence[Row], evaluation: Sequence[Row] = ()) -> str:
    return write_dataset(path, "conversations", {"train": train, "eval": evaluation, "held_out": list(train)[:1]}, FACTS)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = conversations(3)
    data = open_dataset(tmp_path / "d", write(tmp_path / "d", rows), "conversations")
    for before, after in zip(rows, data.train, strict=True):
        assert (before.row_id, before.answer, before.language) == (after.row_id, after.answer, after.language)
        for name in ("input_ids", "loss_mask", "prompt_ids"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
            assert getattr(before, name).dtype == getattr(after, name).dtype
    assert (len(data.eval), len(data.held_out), data.stop_ids, data.pad_id) == (0, 1, (2, 5), 0)
    assert data.statistics == {"droppedRows": 1}


def test_every_purpose_is_stored(tmp_path: Path) -> None:
    pair = PreferenceRow("p", ids(1), ids(1, 2), ids(1, 3), "web", None, "en")
    prompt = PromptRow("q", ids(1, 2), "7", "en")
    first = write_dataset(tmp_path / "a", "preference", {"train": [pair], "eval": [], "held_out": []}, FACTS)
    second = write_dataset(tmp_path / "b", "prompts", {"train": [prompt], "eval": [], "held_out": []}, FACTS)
    found = open_dataset(tmp_path / "a", first, "preference").train[0]
    assert (found.source, found.margin, found.rejected_ids.tolist()) == ("web", None, [1, 3])
    assert open_dataset(tmp_path / "b", second, "prompts").train[0].answer == "7"


def test_a_split_is_a_sequence(tmp_path: Path) -> None:
    rows = open_dataset(tmp_path / "d", write(tmp_path / "d", conversations(4)), "conversations").train
    assert [row.row_id for row in rows.take([3, 0])] == ["row-3", "row-0"]
    assert [row.row_id for row in rows[1:3]] == ["row-1", "row-2"]
    assert rows[-1].row_id == "row-3"
    assert rows.lengths("input_ids").tolist() == [2, 3, 4, 5]
    assert rows.column("answer") == [None, "七", None, "七"]
    with pytest.raises(IndexError):
        rows[4]


@pytest.mark.rule("D9")
def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    digest = write(tmp_path / "d", conversations(2))
    file = tmp_path / "d" / "train.json"
    file.write_text(file.read_text("utf-8").replace("row-0", "row-9"), "utf-8")
    with pytest.raises(InputError, match="its files changed since Prepare"):
        open_dataset(tmp_path / "d", digest, "conversations")


def test_a_missing_dataset_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no prepared dataset here"):
        open_dataset(tmp_path, "sha256:0", "conversations")


def test_another_purpose_is_refused(tmp_path: Path) -> None:
    digest = write(tmp_path / "d", conversations(1))
    with pytest.raises(InputError, match="holds conversations rows, must hold prompts"):
        open_dataset(tmp_path / "d", digest, "prompts")


def test_a_dataset_that_is_there_is_kept(tmp_path: Path) -> None:
    digest = write(tmp_path / "d", conversations(2))
    assert write(tmp_path / "d", conversations(5)) == digest


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "sync_tree", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "datasets" / "d", conversations(2))
    assert list((tmp_path / "datasets").iterdir()) == []


def test_the_digest_is_the_one_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    for name in ("b", "a", "sub/c", "sub.d"):
        (tmp_path / "d" / name).write_text(name)
    script = "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    expected = subprocess.run(["bash", "-c", script], cwd=tmp_path / "d", capture_output=True, text=True, check=True).stdout.split()[0]
    assert directory_digest(tmp_path / "d") == f"sha256:{expected}"


def test_opening_needs_no_torch(tmp_path: Path) -> None:
    digest = write(tmp_path / "d", conversations(1))
    code = (
        "import sys; from pathlib import Path; from rlhf_trainer.data.store import open_dataset; "
        f"rows = open_dataset(Path({str(tmp_path / 'd')!r}), {digest!r}, 'conversations').train; "
        "assert len(list(rows)) == 1; print('torch' in sys.modules, 'datasets' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split() == ["False", "False"]


def test_a_dataset_without_its_index_does_not_exist(tmp_path: Path) -> None:
    digest = write(tmp_path / "d", conversations(1))
    (tmp_path / "d" / INDEX_FILE).unlink()
    with pytest.raises(InputError, match="no prepared dataset here"):
        open_dataset(tmp_path / "d", digest, "conversations")
