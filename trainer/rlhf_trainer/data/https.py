"""One file over https: TLS verified, no proxy, no redirect to another host, and only to addresses that are public.

The host is resolved once and the connection goes to the address that was checked: resolving twice would let a name change between the
check and the connection (DNS rebinding). Only the standard library: requests and urllib resolve on their own.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from rlhf_trainer.errors import CommunicationError, InputError
from rlhf_trainer.failures import STORAGE_ERRNOS

TIMEOUT_SECONDS = 60.0
MAX_BYTES = 64 << 30
MAX_REDIRECTS = 5
_CHUNK_BYTES = 1 << 20
_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def download(
    uri: str,
    target: Path,
    *,
    headers: Mapping[str, str] | None = None,
    allow_private: bool = False,
    is_alive: Callable[[], None] = lambda: None,
    context: ssl.SSLContext | None = None,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Write the file behind `uri` to `target`.

    Raises:
        InputError: the address is private, the server answers with an error or redirects elsewhere, or the file is larger than `max_bytes`.
        CommunicationError: the server cannot be reached, or the connection broke.
    """
    parts, origin = urlsplit(uri), urlsplit(uri)
    try:
        for _ in range(MAX_REDIRECTS + 1):
            connection = _connect(parts, allow_private, context or ssl.create_default_context())
            try:
                response = _ask(connection, parts, headers or {})
                if response.status not in _REDIRECTS:
                    _save(response, parts, target, is_alive, max_bytes)
                    return
                parts = _next_place(response, parts, origin)
            finally:
                connection.close()
    except ssl.SSLCertVerificationError as error:
        raise InputError(f"{uri}: the certificate of {parts.hostname} is not valid: {error.verify_message}") from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and (error.errno in STORAGE_ERRNOS or error.filename is not None):
            raise  # the volume, not the network
        raise CommunicationError(f"{uri}: {type(error).__name__}: {error}") from error
    raise InputError(f"{uri}: redirected more than {MAX_REDIRECTS} times")


def file_name(uri: str) -> str:
    """The last part of the path, made safe as a name on the volume."""
    name = unquote(urlsplit(uri).path).rsplit("/", 1)[-1]
    safe = "".join(character if character.isalnum() or character in "._-" else "_" for character in name).lstrip(".")
    return safe or "data.jsonl"


def is_public(address: Address) -> bool:
    """True for addresses of the internet. IPv6 forms that carry an IPv4 address are judged by that one."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


def checked_address(host: str, port: int, *, allow_private: bool) -> str:
    """The address to connect to.

    Raises:
        InputError: the name resolves to an address that is not public. One such address is enough: the others may be a disguise.
    """
    found = [ipaddress.ip_address(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    private = [address for address in found if not is_public(address)]
    if private and not allow_private:
        raise InputError(
            f"https://{host}: resolves to {private[0]}, must be a public address",
            hint="an administrator can set sources.allowPrivateAddresses in the ClusterRLHFProfile",
        )
    return str(found[0])


class _PinnedConnection(http.client.HTTPSConnection):
    """Connects to a checked address, and verifies the certificate for the host's name."""

    def __init__(self, host: str, port: int, address: str, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=TIMEOUT_SECONDS, context=context)
        self._address, self._context = address, context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), TIMEOUT_SECONDS)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)


def _connect(parts: SplitResult, allow_private: bool, context: ssl.SSLContext) -> _PinnedConnection:
    host, port = parts.hostname or "", parts.port or 443
    return _PinnedConnection(host, port, checked_address(host, port, allow_private=allow_private), context)


def _ask(connection: _PinnedConnection, parts: SplitResult, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    path = parts.path or "/"
    connection.request("GET", f"{path}?{parts.query}" if parts.query else path, headers={"Accept-Encoding": "identity", **headers})
    return connection.getresponse()


def _next_place(response: http.client.HTTPResponse, parts: SplitResult, origin: SplitResult) -> SplitResult:
    place = urlsplit(urljoin(parts.geturl(), response.headers.get("Location", "")))
    if (place.scheme, place.hostname, place.port or 443) != ("https", origin.hostname, origin.port or 443):
        raise InputError(f"{origin.geturl()}: redirects to {place.scheme}://{place.netloc}, must stay on its host: write that uri instead")
    return place


def _save(response: http.client.HTTPResponse, parts: SplitResult, target: Path, is_alive: Callable[[], None], max_bytes: int) -> None:
    if response.status != 200:
        raise InputError(f"{parts.geturl()}: the server answers {response.status} {response.reason}, must be 200")
    expected = response.length
    too_large = f"{parts.geturl()}: must be at most {max_bytes} bytes"
    if expected is not None and expected > max_bytes:
        raise InputError(f"{too_large}, is {expected}")
    written = 0
    with target.open("wb") as file:
        while chunk := response.read(_CHUNK_BYTES):
            written += len(chunk)
            if written > max_bytes:
                raise InputError(too_large)
            file.write(chunk)
            is_alive()
    if expected is not None and written != expected:
        raise CommunicationError(f"{parts.geturl()}: the connection ended after {written} of {expected} bytes")
