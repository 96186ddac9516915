"""What a job file may be, and what is said when it is not."""

import io
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_cli.errors import CommandError
from rlhf_cli.job_files import MAX_BYTES, parse_text, read_object


def refusal(text: str) -> str:
    with pytest.raises(CommandError) as caught:
        parse_text("job.yaml", text)
    assert caught.value.exit_code == 64
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("2e-5", 2e-5, id="an exponent without a point is a number, as for kubectl"),
        pytest.param("1E3", 1000, id="a whole number with an exponent is an integer, as for the API server"),
        pytest.param("8.0", 8, id="a whole number with a point is an integer"),
        pytest.param("1e300", 1e300, id="beyond what an integer field could hold"),
        pytest.param("-1.5", -1.5, id="negative"),
        pytest.param("'012'", "012", id="a leading zero in quotes"),
        pytest.param("'yes'", "yes", id="yes in quotes is text"),
        pytest.param("0", 0, id="zero"),
        pytest.param("0.5", 0.5, id="a zero before the point"),
        pytest.param("true", True, id="true is a boolean"),
        pytest.param("2026-01-01", "2026-01-01", id="a date stays text"),
        pytest.param("10:20", "10:20", id="no base 60"),
        pytest.param("~", None, id="null"),
        pytest.param('"1"', "1", id="quoted numbers are text"),
        pytest.param("=", "=", id="the value key of YAML 1.1 is text"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = parse_text("job.yaml", f"key: {text}\n")["key"]
    assert found == value
    assert type(found) is type(value)


def test_json_is_a_job_file() -> None:
    assert parse_text("job.json", '{"a":\t1e-5,\n\t"b": [true, null]}') == {"a": 1e-5, "b": [True, None]}


def test_an_empty_second_document_is_nothing() -> None:
    assert parse_text("job.yaml", "---\na: 1\n---\n") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a: 1\nb: [1\nc: 2\n", "job.yaml:3:2: expected ',' or ']'", id="a bracket is missing"),
        pytest.param("a: 1\n\tb: 2\n", "job.yaml:2:1: a tab cannot indent YAML: use spaces", id="a tab"),
        pytest.param("a:\n  b: 1\n  b: 2\n", 'job.yaml:3:3: found duplicate key "b"', id="a key that stands twice"),
        pytest.param("a: 1\n---\nb: 2\n", "job.yaml: holds 2 documents; a job file is exactly one object", id="two documents"),
        pytest.param("", "job.yaml: holds nothing", id="an empty file"),
        pytest.param("# only a comment\n", "job.yaml: holds nothing", id="only a comment"),
        pytest.param("- a\n", "job.yaml: holds a list", id="a list"),
        pytest.param("hello\n", "job.yaml: holds str", id="bare text"),
        pytest.param("a: {1: x}\n", "job.yaml:1:5: a: the key 1 must be text: quote it", id="a number as key"),
        pytest.param(
            "a:\n  b: {rate: 0,5}\n",
            "job.yaml:2:15: a.b: the key 5 must be text: quote it, or write a decimal point if it belongs to a number",
            id="a decimal comma",
        ),
        pytest.param("? [1, 2]\n: 3\n", "job.yaml:1:3: the key that is a list or a map must be text", id="a list as key"),
        pytest.param("a: [{b: on}]\n", "job.yaml:1:9: a[0].b: on is a boolean for kubectl: quote it, or write true or false", id="on"),
        pytest.param("a: Yes\n", "job.yaml:1:4: a: Yes is a boolean for kubectl", id="yes"),
        pytest.param("n: 1\n", "job.yaml:1:1: the key n is a boolean for kubectl", id="n as key"),
        pytest.param(
            "a: {b: 012}\n", "job.yaml:1:8: a.b: 012 begins with 0, which kubectl reads in base 8: write 12, or quote it if", id="octal"
        ),
        pytest.param("a: !!int x\n", "job.yaml:1:4: x is not a valid int", id="a tag that its value denies"),
        pytest.param("a: !!int ''\n", "job.yaml:1:4:  is not a valid int", id="a number without digits"),
        pytest.param("a: !!bool x\n", "job.yaml:1:4: x is not a valid bool", id="a boolean that is none"),
        pytest.param("a: ._\n", "job.yaml:1:4: ._ is not a valid float", id="a point and nothing else"),
        pytest.param("a: +_\n", "job.yaml:1:4: +_ is not a valid int", id="a sign and nothing else"),
        pytest.param("a:\n- 0x_\n", "job.yaml:2:3: 0x_ is not a valid int", id="a base and nothing else"),
        pytest.param(f"a: {'9' * 5000}\n", f"job.yaml:1:4: {'9' * 40}… is not a valid int", id="more digits than Python reads"),
        pytest.param("a: !!binary aGk=\n", "job.yaml:1:4: could not determine a constructor for the tag", id="bytes"),
        pytest.param("a: !!python/object:os.system x\n", "job.yaml:1:4: could not determine a constructor for the tag", id="a Python tag"),
        pytest.param("a: *nobody\n", "job.yaml:1:4: found undefined alias", id="an alias of nothing"),
        pytest.param("a: &x [*x]\n", "job.yaml:1:4: a[0]: an anchor contains itself", id="an anchor in itself"),
        pytest.param("a: " + "[" * 1200, "job.yaml: is nested too deeply", id="more levels than anybody writes"),
        pytest.param("a: \x00\n", "job.yaml: unacceptable character", id="a zero byte"),
    ],
)
def test_refused(text: str, message: str) -> None:
    said = refusal(text)
    assert said.startswith(message)
    assert "\n" not in said


def test_every_odd_key_is_named() -> None:
    assert [line.partition(" must be")[0] for line in refusal("a: {1: x}\nb: [{2: w}]\nc: no\n").splitlines()] == [
        "job.yaml:1:5: a: the key 1",
        "job.yaml:2:6: b[0]: the key 2",
        "job.yaml:3:4: c: no is a boolean for kubectl: quote it, or write true or false",
    ]


_PIECES = st.sampled_from(
    [
        *("a", "b: ", ": ", "- ", "[", "]", "{", "}", ", ", "\n", "\n  ", "'", '"', "? ", "|", ">", "#", "\t", "é", "<<: ", "&a ", "*a"),
        *("0", "0x", "_", ".", "-", "+", "e", "1", "~", "!!int ", "!!float ", "!!bool ", "!!set ", "!!map ", "!x "),
        *("%YAML 1.1\n", "---\n", "...\n"),
    ]
)


@given(st.lists(_PIECES, max_size=12).map("".join))
def test_any_text_is_an_object_or_refused(text: str) -> None:
    with suppress(CommandError):
        parse_text("job.yaml", text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"nothing\.yaml: cannot be read \(No such file or directory\): name the job file"):
        read_object(tmp_path / "nothing.yaml")


def test_a_data_file_is_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(b"x" * (MAX_BYTES + 1))
    with pytest.raises(CommandError, match="is larger than 1048576 bytes; a profile is small: is this a data file"):
        read_object(tmp_path / "data.jsonl", "profile")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(CommandError, match="byte 3 is not UTF-8"):
        read_object(tmp_path / "job.yaml")


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_object(tmp_path / "job.yaml") == {"a": 1}


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("名: 值\n".encode())))
    assert read_object(Path("-")) == {"名": "值"}
