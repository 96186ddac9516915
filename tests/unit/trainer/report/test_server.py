"""The progress server is alone with its clients: whatever they do, training and its log go on."""

import re
import socket
import struct
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from rlhf_api.outcome import ProgressDocument
from rlhf_trainer.report.server import ProgressServer, prometheus_text

DOCUMENT = ProgressDocument(job_uid="uid-1", stage="sft", attempt=1, state="training", step=3)


class Gate:
    """A document that is not ready before the test says so; `asked` is set by the first question."""

    def __init__(self) -> None:
        self.asked, self.opened, self.answered = threading.Event(), threading.Event(), threading.Event()

    def __call__(self) -> ProgressDocument:
        self.asked.set()
        assert self.opened.wait(10)
        self.answered.set()
        return DOCUMENT


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def server(gate: Gate) -> Iterator[ProgressServer]:
    server = ProgressServer("127.0.0.1", 0, gate)
    yield server
    server.close()


def test_names_are_legal_whatever_the_data_says() -> None:
    """Sources of preference data are named by users: one illegal name and Prometheus drops the whole answer."""
    document = DOCUMENT.model_copy(update={"metrics": {"loss": 0.5, "accuracy_web 2024/中": 0.75, "accuracy_web 2024/文": 0.25}})
    lines = [line for line in prometheus_text(document).splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r'[a-zA-Z_][a-zA-Z0-9_]*\{stage="sft",attempt="1"\} \S+', line) for line in lines)
    assert [line.partition("{")[0] for line in lines] == ["rlhf_accuracy_web_2024__", "rlhf_loss", "rlhf_step"]


def test_a_client_that_leaves_before_its_answer_is_no_news(
    server: ProgressServer, gate: Gate, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /progress HTTP/1.1\r\nHost: here\r\n\r\n")
        assert gate.asked.wait(10)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets the connection
    gate.opened.set()
    assert gate.answered.wait(10)
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/progress", timeout=10) as answer:
        assert b'"step": 3' in answer.read()
    assert capfd.readouterr().err == ""
    assert caplog.records == []
