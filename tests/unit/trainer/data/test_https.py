"""Downloads: only public addresses, the one that was checked, never another host. A real server on loopback; TLS is left out."""

import errno
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlhf_trainer.data import https
from rlhf_trainer.errors import CommunicationError, InputError

CONTENT = b"row\n" * 1000


class PlainContext(ssl.SSLContext):
    """Lets the bytes through unencrypted, and notes for which name a certificate would have been asked."""

    names: list[str]

    def wrap_socket(self, sock: socket.socket, **settings: Any) -> Any:  # type: ignore[override]
        self.names.append(settings["server_hostname"])
        return sock


class Handler(BaseHTTPRequestHandler):
    """Answers by path: /file, /short (breaks off), /moved/N, /away, /here, anything else 404."""

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        if self.path.startswith("/file"):
            self._answer(200, CONTENT)
        elif self.path == "/short":
            self._answer(200, CONTENT[:10], length=len(CONTENT))
        elif self.path == "/endless":
            self._answer(200, CONTENT, length=None)
        elif self.path == "/moved":
            self._answer(302, location="/file?x=1")
        elif self.path == "/circle":
            self._answer(302, location="/circle")
        elif self.path == "/away":
            self._answer(302, location="https://169.254.169.254/latest/meta-data")
        elif self.path == "/plain":
            self._answer(302, location=f"http://localhost:{self.server.server_address[1]}/file")
        else:
            self._answer(404)

    def _answer(self, status: int, body: bytes = b"", length: int | None = 0, location: str = "") -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length or len(body)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def context() -> PlainContext:
    made = PlainContext(ssl.PROTOCOL_TLS_CLIENT)
    made.names = []
    return made


def get(server: ThreadingHTTPServer, path: str, target: Path, context: PlainContext, **settings: Any) -> None:
    uri = f"https://localhost:{server.server_address[1]}{path}"
    https.download(uri, target, context=context, **({"allow_private": True} | settings))


def test_a_file_is_written_as_it_is(server: ThreadingHTTPServer, context: PlainContext, tmp_path: Path) -> None:
    signs_of_life: list[int] = []
    get(server, "/file", tmp_path / "f", context, headers={"Authorization": "Bearer x"}, is_alive=lambda: signs_of_life.append(1))
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert signs_of_life
    assert context.names == ["localhost"]  # the certificate is checked for the name, although an address was called
    assert server.requests[-1] == ("/file", "Bearer x")  # type: ignore[attr-defined]


def test_a_redirect_on_the_same_host_is_followed(server: ThreadingHTTPServer, context: PlainContext, tmp_path: Path) -> None:
    get(server, "/moved", tmp_path / "f", context)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert server.requests[-1][0] == "/file?x=1"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param("/away", "redirects to https://169.254.169.254, must stay on its host", id="a redirect to the metadata service"),
        pytest.param("/plain", "redirects to http://localhost", id="a redirect to http"),
        pytest.param("/circle", "redirected more than 5 times", id="a circle"),
        pytest.param("/nothing", "the server answers 404 Not Found, must be 200", id="a missing file"),
    ],
)
def test_other_answers_are_refused(server: ThreadingHTTPServer, context: PlainContext, tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        get(server, path, tmp_path / "f", context)


@pytest.mark.parametrize("path", ["/file", "/endless"])
def test_a_file_above_the_limit_is_refused(server: ThreadingHTTPServer, context: PlainContext, tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError, match="must be at most 100 bytes"):
        get(server, path, tmp_path / "f", context, max_bytes=100)


def test_a_connection_that_breaks_off_may_be_tried_again(server: ThreadingHTTPServer, context: PlainContext, tmp_path: Path) -> None:
    with pytest.raises(CommunicationError):
        get(server, "/short", tmp_path / "f", context)


def test_a_closed_port_may_be_tried_again(context: PlainContext, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"https://127.0.0.1:{taken.getsockname()[1]}/f"
        with pytest.raises(CommunicationError, match="ConnectionRefusedError"):
            https.download(uri, tmp_path / "f", allow_private=True, context=context)


def test_a_full_volume_is_no_fault_of_the_network(
    server: ThreadingHTTPServer, context: PlainContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(https, "_save", full)
    with pytest.raises(OSError, match="No space left"):
        get(server, "/file", tmp_path / "f", context)


def test_loopback_is_refused_without_leave(server: ThreadingHTTPServer, context: PlainContext, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a public address") as caught:
        get(server, "/file", tmp_path / "f", context, allow_private=False)
    assert "allowPrivateAddresses" in str(caught.value.hint)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses]
    monkeypatch.setattr(https.socket, "getaddrinfo", lambda *_, **__: entries)


def test_one_private_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "8.8.8.8", "10.0.0.7")
    with pytest.raises(InputError, match=r"resolves to 10\.0\.0\.7"):
        https.checked_address("rebinding.example", 443, allow_private=False)


def test_the_connection_goes_to_the_checked_address(monkeypatch: pytest.MonkeyPatch, context: PlainContext, tmp_path: Path) -> None:
    called: list[tuple[str, int]] = []

    def note(address: tuple[str, int], *_: object) -> socket.socket:
        called.append(address)
        raise ConnectionRefusedError

    resolve_to(monkeypatch, "8.8.8.8")
    monkeypatch.setattr(https.socket, "create_connection", note)
    with pytest.raises(CommunicationError):
        https.download("https://example.org/f", tmp_path / "f", context=context)
    assert called == [("8.8.8.8", 443)]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("64:ff9b::808:808", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:0a00:0001::", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert https.is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        pytest.param("https://h/a/chat.jsonl?x=1", "chat.jsonl", id="the last part of the path"),
        pytest.param("https://h/a/%2e%2e%2fetc%2fpasswd", "passwd", id="encoded slashes name no directory"),
        pytest.param("https://h/..", "data.jsonl", id="dots alone"),
        pytest.param("https://h/", "data.jsonl", id="no name"),
        pytest.param("https://h/a%20b;c.jsonl", "a_b_c.jsonl", id="odd characters"),
    ],
)
def test_the_name_on_the_volume_is_harmless(uri: str, name: str) -> None:
    assert https.file_name(uri) == name
