"""Kubeconfigs, and what becomes of requests that fail."""

import json
import socket
from pathlib import Path

import pytest

from rlhf_cli.cluster.connection import ApiRefused, Unreachable, connect
from rlhf_cli.cluster.target import Target
from rlhf_cli.errors import CommandError
from tests.support.small_api import JOBS, SmallApi, status, write_kubeconfig


def refusal(target: Target) -> str:
    with pytest.raises(CommandError) as caught:
        connect(target)
    assert caught.value.exit_code == 64
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_kubeconfig(tmp_path / "config", "https://127.0.0.1:1", "team-a")
    return tmp_path / "config"


def test_the_current_context_and_its_namespace_are_the_default(file: Path) -> None:
    connection = connect(Target(kubeconfig=file))
    assert (connection.context, connection.namespace, connection.host) == ("test", "team-a", "https://127.0.0.1:1")


def test_a_namespace_of_the_command_line_wins(file: Path) -> None:
    assert connect(Target(kubeconfig=file, namespace="other")).namespace == "other"


def test_without_any_namespace_it_is_default(tmp_path: Path) -> None:
    write_kubeconfig(tmp_path / "config", "https://127.0.0.1:1", None)
    assert connect(Target(kubeconfig=tmp_path / "config")).namespace == "default"


def test_kubeconfig_of_the_environment_may_be_several_files(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = tmp_path / "second"
    second.write_text(file.read_text().replace('"test"', '"prod"').replace("team-a", "team-b"))
    monkeypatch.setenv("KUBECONFIG", f"{file}:{tmp_path / 'absent'}:{second}")
    assert connect(Target(context="prod")).namespace == "team-b"
    assert connect(Target(context="test")).namespace == "team-a"


def test_a_missing_file_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--kubeconfig" in refusal(Target(kubeconfig=tmp_path / "absent"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "gone"))
    assert f"KUBECONFIG: '{tmp_path / 'gone'}' does not exist" in refusal(Target())


def test_an_unknown_context_names_those_that_exist(file: Path) -> None:
    assert "--context: 'prod' is not in" in refusal(Target(kubeconfig=file, context="prod"))
    assert "the contexts there are test" in refusal(Target(kubeconfig=file, context="prod"))


@pytest.mark.parametrize("text", ["", "just text", "contexts: [1]", "{", "contexts: [{context: {}}]", "contexts: {}"])
def test_a_file_that_is_no_kubeconfig(text: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(text)
    assert "--kubeconfig: " in refusal(Target(kubeconfig=tmp_path / "config")) or "--context: " in refusal(
        Target(kubeconfig=tmp_path / "config")
    )


@pytest.mark.parametrize("data", [b"\xff\xfe\x00kubeconfig", "contexts: [] # Schlüssel".encode("latin-1"), b"\x7fELF\x02\x01\x00\x00"])
def test_a_file_that_is_no_text(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "config").write_bytes(data)
    assert f"--kubeconfig: '{tmp_path / 'config'}' is no kubeconfig (" in refusal(Target(kubeconfig=tmp_path / "config"))


@pytest.mark.parametrize("file", ["~nobody-here/config", "x" * 300])
def test_a_file_that_cannot_exist(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", file)
    assert f"KUBECONFIG: '{file}' does not exist" in refusal(Target())


def test_a_context_that_names_no_cluster(file: Path) -> None:
    wire = json.loads(file.read_text())
    wire["clusters"] = []
    file.write_text(json.dumps(wire))
    assert "repair the context 'test'" in refusal(Target(kubeconfig=file))


def test_the_token_of_the_kubeconfig_is_sent(api: SmallApi) -> None:
    api.on("GET", JOBS, {"items": []})
    connect(Target(kubeconfig=api.kubeconfig)).request("GET", JOBS)
    assert {key.lower(): value for key, value in api.requests[0].headers.items()}["authorization"] == "Bearer secret"


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        write_kubeconfig(tmp_path / "config", f"http://127.0.0.1:{reserved.getsockname()[1]}", None)
        with pytest.raises(Unreachable, match=r"--context: 'test' at http://127\.0\.0\.1:\d+ does not answer \(.*refused\)"):
            connect(Target(kubeconfig=tmp_path / "config")).request("GET", "/")


def test_another_protocol_is_no_answer_either(api: SmallApi) -> None:
    wire = api.kubeconfig.read_text().replace("http://", "https://")
    api.kubeconfig.write_text(wire)
    with pytest.raises(Unreachable, match="does not answer"):
        connect(Target(kubeconfig=api.kubeconfig)).request("GET", "/")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(status(403, "Forbidden", "no way"), "no way", id="a Status"),
        pytest.param("404 page not found\n", "404 page not found", id="text"),
        pytest.param("", "HTTP 403", id="nothing"),
        pytest.param([1], "[1]", id="other JSON"),
    ],
)
def test_a_refusal_carries_the_words_of_the_server(api: SmallApi, body: object, message: str) -> None:
    api.on("GET", "/x", body, 403)
    with pytest.raises(ApiRefused) as caught:
        connect(Target(kubeconfig=api.kubeconfig)).request("GET", "/x")
    assert (caught.value.code, caught.value.message) == (403, message)


def test_lines_come_whole(api: SmallApi) -> None:
    api.on("GET", "/log", "one\ntwo\nthree")
    assert list(connect(Target(kubeconfig=api.kubeconfig)).lines("/log", {"follow": "true"})) == [b"one\n", b"two\n", b"three"]
    assert api.requests[0].query == {"follow": "true"}
