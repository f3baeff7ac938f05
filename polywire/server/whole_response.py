"""A short answer in one write: what a request handler says for nearly every request, past ASGI's two messages.

uvicorn takes an answer apart into its start and its body, and checks each header; that costs more than all else in a
small request. A handler that has the whole answer may look for `WHOLE` in its scope and give it at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from polywire.server.problems import Header

__all__ = ["WHOLE", "offer_whole_response", "response_bytes"]

WHOLE = "polywire.whole_response"
"""Key of the scope: ``answer(status, content_type, body) -> bool``; False: send it the ordinary way. ``content_type``
is the handler's own
constant, never a peer's word: it is not checked for line ends."""


def offer_whole_response(scope: Any, cycle: RequestResponseCycle) -> None:
    scope[WHOLE] = partial(_answer, cycle)


def _answer(cycle: RequestResponseCycle, status: int, content_type: bytes, body: bytes) -> bool:
    if (
        cycle.response_started
        or cycle.disconnected
        or not cycle.keep_alive
        or cycle.flow.write_paused
        or cycle.scope["method"] == "HEAD"
    ):
        return False
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(response_bytes(status, [*cycle.default_headers, (b"content-type", content_type)], body))
    cycle.message_event.set()
    cycle.on_response()
    return True


def response_bytes(status: int, headers: Iterable[Header], body: bytes) -> bytes:
    """A whole HTTP/1.1 response. The headers are not checked."""
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):  # which have no length (RFC 9110 §8.6)
        return b"%b%b\r\n" % (_line(status), lines)
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (_line(status), lines, len(body), body)


@lru_cache
def _line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
