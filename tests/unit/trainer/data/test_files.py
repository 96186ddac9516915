"""Splits and lines: row 37 is row 37, through the streaming loader of `datasets`. That it needs no torch: test_prepare.py."""

import json
from pathlib import Path

import pytest

from rlhf_trainer.data.files import find_split, read_rows, split_files
from rlhf_trainer.data.formats import Malformed, parse
from rlhf_trainer.errors import DataError, InputError

GOOD = json.dumps({"instruction": "q", "output": "a"})


def a_file(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    return path


def test_a_malformed_line_is_named_by_its_number(tmp_path: Path) -> None:
    file = a_file(tmp_path / "file.jsonl", *[GOOD] * 20, "", *[GOOD] * 15, '{"instruction": "q", ', GOOD)
    with pytest.raises(DataError, match=r"^file\.jsonl:37: '{\"instruction\": \"q\", ' must be one JSON object: .* at character 22$"):
        list(parse(read_rows([file], "auto"), "conversations"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param('{"a": NaN}', "NaN is not a JSON number", id="NaN"),
        pytest.param("not json", "Expecting value at character 1", id="plain text"),
        pytest.param('{"a":' * 100_000, "recursion", id="a very deep value"),
    ],
)
def test_what_is_not_json_is_reported_with_the_rest(tmp_path: Path, line: str, reason: str) -> None:
    [row] = read_rows([a_file(tmp_path / "x.jsonl", line)], "messages")
    assert isinstance(row.value, Malformed)
    assert reason in row.value.problem


def test_line_separators_inside_text_split_no_row(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d\x0be"
    file = a_file(tmp_path / "x.jsonl", json.dumps({"instruction": text, "output": "a"}, ensure_ascii=False).replace("\x0b", ""), GOOD)
    rows = list(read_rows([file], "auto"))
    assert [row.row for row in rows] == [1, 2]
    assert rows[0].value["instruction"].startswith("a\u2028b")


def test_windows_line_ends_and_a_missing_last_one_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(f"{GOOD}\r\n{GOOD}".encode())
    assert len(list(parse(read_rows([file], "auto"), "conversations"))) == 2


def test_an_array_is_read_as_rows(tmp_path: Path) -> None:
    file = a_file(tmp_path / "x.json", "[", GOOD, ",", '{"instruction": 1, "output": "a"}', "]")
    with pytest.raises(DataError, match=r"^x\.json:2: instruction: 1 must be text"):
        list(parse(read_rows([file], "alpaca"), "conversations", "alpaca"))


@pytest.mark.parametrize(
    ("content", "declared", "message"),
    [
        pytest.param(GOOD, "alpaca", "format alpaca must be one JSON array: declare format instruction", id="lines declared as alpaca"),
        pytest.param(
            f"[{GOOD}]", "instruction", "format instruction must be one object a line: declare format alpaca", id="an array of lines"
        ),
        pytest.param(f"[{GOOD},\n{{]", "auto", "x.json:2: .* must be one JSON array of objects", id="an array that breaks off"),
    ],
)
def test_the_container_must_be_that_of_the_format(tmp_path: Path, content: str, declared: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_rows([a_file(tmp_path / "x.json", content)], declared))


def test_text_that_is_not_utf8_names_the_byte(tmp_path: Path) -> None:
    file = a_file(tmp_path / "x.jsonl", '{"instruction": "é"}', encoding="latin-1")
    with pytest.raises(DataError, match="byte 17 is not UTF-8"):
        list(read_rows([file], "auto"))


@pytest.mark.parametrize(
    ("files", "split", "expected"),
    [
        pytest.param(["train.jsonl", "test.jsonl"], "train", ["train.jsonl"], id="a file stem"),
        pytest.param(["train.json"], "train", ["train.json"], id="a JSON array"),
        pytest.param(["chat.jsonl"], "train", ["chat.jsonl"], id="the only file is the training data, whatever its name"),
        pytest.param(
            ["test/b.jsonl", "test/a.jsonl", "test/README.md", "train.jsonl"], "test", ["test/a.jsonl", "test/b.jsonl"], id="a folder"
        ),
    ],
)
def test_the_files_of_a_split(tmp_path: Path, files: list[str], split: str, expected: list[str]) -> None:
    for name in files:
        a_file(tmp_path / name, GOOD)
    assert [path.relative_to(tmp_path).as_posix() for path in split_files(tmp_path, split)] == expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param(["a.jsonl", "b.jsonl"], "'train' must be a file stem or a folder of the dataset: a, b", id="two other files"),
        pytest.param(["train.tar.gz", "x.zip"], "it has none", id="archives are not unpacked"),
    ],
)
def test_a_missing_split_names_those_that_are_there(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        a_file(tmp_path / name, GOOD)
    with pytest.raises(InputError, match=message):
        split_files(tmp_path, "train")
    assert find_split(tmp_path, "test") == []
