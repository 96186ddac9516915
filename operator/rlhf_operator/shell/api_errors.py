"""An answer of the API server that is no success, as an error of `kube.py`: status code and `Status` body in, one exception out."""

import json
from collections.abc import Mapping
from typing import Any

from rlhf_operator.shell.kube import (
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    Throttled,
    Unauthorized,
    Unavailable,
)

_BY_CODE: Mapping[int, type[ApiError]] = {
    400: Invalid,  # the body was not even readable as its kind: the same request will never be taken
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: Throttled,
}
_MAX_MESSAGE = 2000
LONGEST_PAUSE_SECONDS = 30.0
"""A pause holds up every request of the process. Whatever a server or a proxy before it asks for, it is asked again after this."""


def error_of(code: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """The error of an answer with this code. Any code that has no class of its own says nothing about the object: `Unavailable`."""
    status = _status_of(body)
    message = str(status.get("message") or body[:_MAX_MESSAGE].decode("utf-8", "replace") or f"HTTP {code}")[:_MAX_MESSAGE]
    kind = _BY_CODE.get(code, Unavailable)
    if code == 409 and status.get("reason") == "AlreadyExists":
        kind = AlreadyExists
    error = kind(message, retry_after_seconds=_seconds(retry_after, status))
    error.code = code
    return error


def _status_of(body: bytes) -> Mapping[str, Any]:
    """The Status object; empty when a proxy answered instead of the API server."""
    try:
        status = json.loads(body)
    except ValueError:
        return {}
    return status if isinstance(status, dict) else {}


def _seconds(header: str | None, status: Mapping[str, Any]) -> float | None:
    """The server's wish, within reason. Retry-After may be a date too, which no API server sends: then the body or the default counts."""
    if header is not None and header.strip().isdigit():
        return min(float(header), LONGEST_PAUSE_SECONDS)
    wanted = (status.get("details") or {}).get("retryAfterSeconds")
    return min(float(wanted), LONGEST_PAUSE_SECONDS) if isinstance(wanted, int) and wanted > 0 else None
