"""A small synchronous client of the API server: paths and dictionaries in, dictionaries out, one kept connection.

Tests need hundreds of requests, each of which would cost kubectl 0.2 s of CPU. Typed clients were rejected: tests look at what is on the wire.
"""

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

Object = dict[str, Any]

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


class Refused(Exception):
    """The API server answered with an error. The message is the server's own text."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code, self.reason, self.message = code, reason, message


def end_connection(opened: socket.socket) -> None:
    """End a connection that another thread reads from. Below TLS: `SSLSocket.shutdown` takes the TLS object away from the reader."""
    with suppress(OSError):
        socket.socket.shutdown(opened, socket.SHUT_RDWR)


class Rest:
    """One connection, opened when it is needed and again after it broke. Threads that share it take turns."""

    def __init__(self, host: str, port: int, certificate: Path, token: str, *, as_user: str = "", timeout_seconds: float = 30.0) -> None:
        self._connection: http.client.HTTPSConnection | None = None
        self._watched: http.client.HTTPSConnection | None = None
        self._address = (host, port)
        self._tls = ssl.create_default_context(cafile=str(certificate))
        self._headers = {"Authorization": f"Bearer {token}", "Accept": JSON, **({"Impersonate-User": as_user} if as_user else {})}
        self._timeout_seconds = timeout_seconds
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()  # a client for one request need not be kept

    def get(self, path: str, **query: str) -> Object:
        """The object at a path."""
        return self.request("GET", path, query=query)

    def find(self, path: str) -> Object | None:
        """The object at a path, or None when there is none or nobody answers."""
        try:
            return self.get(path)
        except (Refused, OSError, http.client.HTTPException):
            return None

    def items(self, path: str, **query: str) -> list[Object]:
        """The objects of a collection; `labelSelector` and `fieldSelector` are queries."""
        return list(self.get(path, **query)["items"])

    def create(self, path: str, body: Mapping[str, Any], **query: str) -> Object:
        """POST to a collection."""
        return self.request("POST", path, body, query=query)

    def replace(self, path: str, body: Mapping[str, Any]) -> Object:
        """PUT an object."""
        return self.request("PUT", path, body)

    def merge(self, path: str, body: Mapping[str, Any]) -> Object:
        """Merge patch: None removes a field."""
        return self.request("PATCH", path, body, content_type=MERGE_PATCH)

    def apply(self, path: str, body: Mapping[str, Any], manager: str, *, force: bool = True) -> Object:
        """Server-side apply by a field manager."""
        return self.request("PATCH", path, body, content_type=APPLY, query={"fieldManager": manager, "force": str(force).lower()})

    def delete(self, path: str, body: Mapping[str, Any] | None = None) -> Object:
        """DELETE; the body may carry DeleteOptions."""
        return self.request("DELETE", path, body)

    def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = JSON, query: Mapping[str, str] | None = None
    ) -> Object:
        """One request.

        Raises:
            Refused: the server answered with a code of 400 or more.
            OSError: it did not answer.
        """
        target = f"{path}?{urlencode(query)}" if query else path
        status, text = self._exchange(method, target, None if body is None else json.dumps(body), content_type)
        answer = json.loads(text) if text.startswith("{") else {"message": text}
        if status >= 400:
            raise Refused(status, answer.get("reason", ""), answer.get("message", ""))
        return dict(answer)

    def is_ready(self) -> bool:
        """Whether the API server says that it is ready."""
        try:
            return self._exchange("GET", "/readyz", None, JSON)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def text(self, path: str) -> str:
        """A document that is not JSON, such as /metrics."""
        return self._exchange("GET", path, None, "")[1]

    def watch(self, path: str, *, version: str, timeout_seconds: int = 300, **query: str) -> Iterator[Object]:
        """Events of a collection from a version on, until the server ends the watch. Uses a connection of its own.

        Raises:
            Refused: the version is too old (410) or the watch was refused.
            OSError: the connection broke, or nothing came for a while.
        """
        target = f"{path}?{urlencode({'watch': '1', 'resourceVersion': version, 'timeoutSeconds': str(timeout_seconds), **query})}"
        connection = self._watched = self._open(timeout_seconds + 5)
        try:
            connection.request("GET", target, headers=self._headers)
            answer = connection.getresponse()
            if answer.status >= 400:
                raise Refused(answer.status, "", answer.read().decode())
            for line in answer:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise Refused(event["object"].get("code", 500), event["object"].get("reason", ""), event["object"].get("message", ""))
                yield event
        finally:
            connection.close()

    def end_watch(self) -> None:
        """From another thread: the watch that is being read ends at once."""
        opened = self._watched.sock if self._watched is not None else None
        if opened is not None:
            end_connection(opened)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self, timeout_seconds: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(*self._address, context=self._tls, timeout=timeout_seconds)

    def _exchange(self, method: str, target: str, body: str | None, content_type: str) -> tuple[int, str]:
        """A kept connection may have been closed by the server in between: then once more on a new one."""
        headers = {**self._headers, **({"Content-Type": content_type} if body is not None else {})}
        with self._turn:
            is_kept = self._connection is not None
            try:
                return self._send(method, target, body, headers)
            except (OSError, http.client.HTTPException):
                if not is_kept:
                    raise
            return self._send(method, target, body, headers)

    def _send(self, method: str, target: str, body: str | None, headers: Mapping[str, str]) -> tuple[int, str]:
        connection = self._connection = self._connection or self._open(self._timeout_seconds)
        try:
            connection.request(method, target, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
