"""Errors on HTTP: problem+json (RFC 9457) and the one table from error codes to statuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import msgspec

from polywire.core.errors import PolywireError

__all__ = ["STATUS", "Header", "problem", "problem_view", "raw_response", "send_problem", "status_of"]

Header = tuple[bytes, bytes]
Send = Callable[[Any], Awaitable[None]]

STATUS: Final[dict[str, int]] = {
    "invalid": 400,
    "unauthenticated": 401,
    "denied": 403,
    "not_found": 404,
    "conflict": 409,
    "too_large": 413,
    "unsupported": 415,
    "limit_exceeded": 429,
    "internal": 500,
    "unavailable": 503,
    "deadline_exceeded": 504,
}


def status_of(error: PolywireError) -> int:
    """The status of the error's code, or of the nearest class above it that has one."""
    codes = (getattr(above, "code", "") for above in type(error).__mro__)
    return next((STATUS[code] for code in codes if code in STATUS), 500)


def problem_view(error: PolywireError, status: int) -> dict[str, Any]:
    """The members of a problem (RFC 9457 §3)."""
    return {"type": "about:blank", "status": status, **error.as_dict()}


def problem(error: PolywireError, status: int | None = None) -> tuple[int, list[Header], bytes]:
    """Status, headers and body that tell ``error``; ``status`` where HTTP has a finer one (408, 431)."""
    status = status or status_of(error)
    body = msgspec.json.encode(problem_view(error, status))
    headers: list[Header] = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="polywire"'))
    if error.retry_after is not None:
        headers.append((b"retry-after", str(max(1, round(error.retry_after))).encode()))
    return status, headers, body


async def send_problem(
    send: Send, error: PolywireError, *, status: int | None = None, extra: list[Header] | None = None
) -> None:
    """Answer an ASGI request with ``error``."""
    status, headers, body = problem(error, status)
    await send({"type": "http.response.start", "status": status, "headers": headers + (extra or [])})
    await send({"type": "http.response.body", "body": body})


def raw_response(status: int, headers: list[Header], body: bytes) -> bytes:
    """A whole HTTP/1.1 response that ends its connection, for places that have no ASGI cycle."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
    lines += [name + b": " + value for name, value in headers]
    lines += [b"connection: close", b"", body]
    return b"\r\n".join(lines)
