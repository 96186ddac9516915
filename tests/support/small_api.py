"""An API server of a few routes on a loopback port: answers in, a kubeconfig and the requests that came out.

It knows nothing of Kubernetes. It is for what a real API server does seldom or late: errors, silence, streams that break. Everything else
is tested against a real one (tests/cluster).
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

JOBS = "/apis/rlhf.dev/v1alpha1/namespaces/team-a/rlhfjobs"
PODS = "/api/v1/namespaces/team-a/pods"
EVENTS = "/api/v1/namespaces/team-a/events"


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    headers: Mapping[str, str]


Answer = tuple[int, object]
"""Status and body: a dict is sent as JSON, text as it is."""


@dataclass(slots=True)
class SmallApi:
    """The routes, which a test may change at any time; `on` with a function gives one answer after another."""

    kubeconfig: Path
    routes: dict[tuple[str, str], Callable[[Request], Answer]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def on(self, method: str, path: str, body: object, code: int = 200) -> None:
        """Answer like this from now on."""
        self.routes[method, path] = lambda _request: (code, body)

    def on_each(self, method: str, path: str, *answers: Answer) -> None:
        """Answer these one after another, the last one for ever."""
        left = list(answers)
        self.routes[method, path] = lambda _request: left.pop(0) if len(left) > 1 else left[0]

    def answer(self, request: Request) -> Answer:
        """The answer of the route, or the text that a real server sends for a path it does not know."""
        self.requests.append(request)
        route = self.routes.get((request.method, request.path))
        return route(request) if route else (404, "404 page not found")

    def sent(self, method: str) -> list[Request]:
        """Requests of one method, in their order."""
        return [request for request in self.requests if request.method == method]


def status(code: int, reason: str, message: str, **details: object) -> dict[str, object]:
    """A Status object, as every refusal of an API server carries it."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
        "details": details,
    }


@contextmanager
def small_api(directory: Path, namespace: str = "team-a") -> Iterator[SmallApi]:
    """Serve until the block ends. The kubeconfig has one context, `test`, with this namespace and a token."""
    api = SmallApi(directory / "kubeconfig")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(api))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    write_kubeconfig(api.kubeconfig, f"http://127.0.0.1:{server.server_address[1]}", namespace)
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


def write_kubeconfig(file: Path, server: str, namespace: str | None) -> None:
    """A kubeconfig with one context, `test`."""
    context = {"cluster": "test", "user": "test"} | ({"namespace": namespace} if namespace else {})
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server}}],
        "users": [{"name": "test", "user": {"token": "secret"}}],
        "contexts": [{"name": "test", "context": context}],
        "current-context": "test",
    }
    file.write_text(json.dumps(body))


def _handler(api: SmallApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            text = self.rfile.read(length)
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            request = Request(self.command, url.path, query, json.loads(text) if text else None, dict(self.headers))
            code, body = api.answer(request)
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815  # names that http.server calls

        def log_message(self, format: str, *args: object) -> None:
            """A test has enough to say."""

    return Handler
