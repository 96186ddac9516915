"""Which error an answer is: by code and reason, with the server's words, also when a proxy answered in its place."""

import json

import pytest

from rlhf_operator.shell.api_errors import error_of
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


def status(code: int, reason: str = "", **details: object) -> bytes:
    return json.dumps({"kind": "Status", "code": code, "reason": reason, "message": "the server's words", "details": details}).encode()


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", Invalid),
        (401, "Unauthorized", Unauthorized),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Gone),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", Throttled),
        (500, "InternalError", Unavailable),
        (504, "Timeout", Unavailable),
        (302, "", Unavailable),
    ],
)
def test_codes_have_their_classes(code: int, reason: str, kind: type[ApiError]) -> None:
    error = error_of(code, status(code, reason))
    assert type(error) is kind
    assert (error.code, error.message) == (code, "the server's words")


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"", b"[]", b"\xff\xfe"])
def test_an_answer_of_a_proxy_is_an_error_too(body: bytes) -> None:
    error = error_of(502, body)
    assert type(error) is Unavailable
    assert error.message


@pytest.mark.parametrize(
    ("header", "details", "seconds"),
    [
        ("7", {}, 7),
        (None, {"retryAfterSeconds": 3}, 3),
        ("86400", {}, 30),
        (None, {"retryAfterSeconds": 86400}, 30),
        ("Wed, 21 Oct 2026 07:28:00 GMT", {}, None),
        (None, {}, None),
        (None, {"retryAfterSeconds": 0}, None),
    ],
)
def test_the_wish_of_the_server_is_kept(header: str | None, details: dict[str, object], seconds: float | None) -> None:
    assert error_of(429, status(429, "TooManyRequests", **details), header).retry_after_seconds == seconds


def test_long_words_are_cut() -> None:
    assert len(error_of(500, b"x" * 100_000).message) == 2000
