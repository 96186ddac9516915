"""Reading pod 0's progress over real HTTP: the bounds hold, and a step that stands still is timed."""

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from rlhf_operator.local.progress import ProgressReader, Target, fetch

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Pod:
    """What the server answers next."""

    def __init__(self) -> None:
        self.status, self.body, self.headers = 200, b"{}", {}
        pod = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(pod.status)
                for name, value in pod.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(pod.body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self.server.server_address[1]

    def says(self, step: int, state: str = "training") -> None:
        self.body = json.dumps({"jobUid": "u", "stage": "sft", "attempt": 1, "state": state, "step": step}).encode()


@pytest.fixture
def pod() -> Iterator[Pod]:
    pod = Pod()
    thread = threading.Thread(target=pod.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield pod
    pod.server.shutdown()
    thread.join()
    pod.server.server_close()


def test_an_answer_is_read(pod: Pod) -> None:
    pod.says(5)
    assert fetch(pod.port) == pod.body


def test_too_much_is_no_answer(pod: Pod) -> None:
    pod.body = b"x" * 20_000
    assert fetch(pod.port) is None


def test_redirects_are_not_followed(pod: Pod) -> None:
    pod.status, pod.headers = 302, {"Location": "http://169.254.169.254/"}
    assert fetch(pod.port) is None


def test_nobody_there_is_no_answer(pod: Pod) -> None:
    pod.server.server_close()
    assert fetch(pod.port) is None


def test_a_step_that_stands_still_is_timed_by_a_monotonic_clock(pod: Pod) -> None:
    time = iter([100.0, 130.0, 190.0, 200.0])
    reader = ProgressReader(lambda: NOW, lambda: next(time))
    target = Target("sft", 1, pod.port)
    idle = []
    for step in (5, 5, 5, 6):
        pod.says(step)
        reading = asyncio.run(reader.read("u", target))
        assert reading is not None
        idle.append(reading.idle_seconds)
    assert idle == [0, 30, 90, 0]


def test_another_attempts_answer_is_none(pod: Pod) -> None:
    pod.says(5)
    reader = ProgressReader(lambda: NOW)
    assert asyncio.run(reader.read("other", Target("sft", 1, pod.port))) is None
