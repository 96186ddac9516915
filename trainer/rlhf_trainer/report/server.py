"""`GET /progress` (JSON) and `GET /metrics` (Prometheus text) of pod 0, from memory, in one daemon thread.

It never blocks training: a request reads what the stage last said. Nothing is ever posted.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rlhf_api.outcome import ProgressDocument
from rlhf_trainer.report.metrics import metric_name

log = logging.getLogger(__name__)


class ProgressServer:
    """Serves until closed."""

    def __init__(self, host: str, port: int, document: Callable[[], ProgressDocument]) -> None:
        self._server = _Server((host, port), _handler(document))
        self._thread = threading.Thread(target=self._server.serve_forever, name="progress", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """To the log, and not to standard error. A client that left before its answer came is no news."""
        has_left = isinstance(sys.exc_info()[1], ConnectionError)
        log.log(logging.DEBUG if has_left else logging.ERROR, "no answer for %s", client_address, exc_info=True)


def prometheus_text(document: ProgressDocument) -> str:
    """The metrics in Prometheus' text format: `rlhf_<metric>{stage,attempt}`."""
    labels = f'{{stage="{document.stage}",attempt="{document.attempt}"}}'
    numbers: dict[str, float] = {"step": document.step, **{metric_name(name): value for name, value in document.metrics.items()}}
    lines = [f"# TYPE rlhf_{name} gauge\nrlhf_{name}{labels} {value:.10g}\n" for name, value in sorted(numbers.items())]
    return "".join(lines)


def _handler(document: Callable[[], ProgressDocument]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version = "rlhf"
        sys_version = ""
        timeout = 10  # seconds: a client that never asks must not hold a thread for ever

        def do_GET(self) -> None:
            if self.path == "/progress":
                self._answer("application/json", json.dumps(document().to_wire()))
            elif self.path == "/metrics":
                self._answer("text/plain; version=0.0.4", prometheus_text(document()))
            else:
                self.send_error(404)

        def _answer(self, content_type: str, text: str) -> None:
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            log.debug(format, *args)

    return Handler
