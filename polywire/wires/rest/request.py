"""One HTTP request: its path, query and headers read once, its body read within bounds."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from polywire.core.access import Principal
from polywire.core.errors import FieldError, Internal, Invalid, PolywireError, TooLarge, Unsupported
from polywire.core.message import Origin
from polywire.server.query import NO_QUERY, Query, parse_query
from polywire.wires.rest.binding import RequestTimeout

__all__ = ["ClientLeft", "Receive", "Request", "Scope", "Send", "given_up", "origin", "while_client_waits"]

T = TypeVar("T")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BODY_RATE = 64 << 10
"""Bytes a second that a long body must at least come at, on the whole."""
MOST_DRAINED = 16 << 20
"""Bytes of a refused body that are read and dropped, so that a client that sends all before it reads sees the
refusal."""
SMALL = 64 << 10
"""Compressed bodies up to this size are unpacked on the event loop, longer ones in a thread."""

# A second one of these would leave open which is meant.
SINGLE = frozenset(
    (
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"idempotency-key",
        b"last-event-id",
        b"x-api-key",
    )
)


class ClientLeft(Exception):
    """The connection ended before the request did: nobody's error, there is only nobody left to answer."""


class Request:
    __slots__ = ("headers", "method", "params", "principal", "query", "receive", "scope", "send")

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, params: list[bytes], query: Collection[str] | None
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.params = params
        self.method: str = scope["method"]
        pairs = scope["headers"]
        self.headers: dict[bytes, bytes] = dict(pairs)
        if len(self.headers) != len(pairs):
            _refuse_repeats(pairs)
        self.principal: Principal = scope["principal"]
        # Read for every route, also where the handler asks for nothing: a slip is told, not ignored.
        asked = scope["query_string"]
        self.query: Query = parse_query(asked, query) if asked and query is not None else NO_QUERY

    def raw(self, index: int) -> bytes:
        """A part of the path, percent-decoded."""
        part = self.params[index]
        return unquote_to_bytes(part) if b"%" in part else part

    def text(self, index: int) -> str:
        """A part of the path. Raises `Invalid` if it is not UTF-8."""
        try:
            return self.raw(index).decode()
        except UnicodeDecodeError:
            raise Invalid("the path is not UTF-8", hint="percent-encode the bytes of UTF-8") from None

    async def body(self, limit: int, timeout_ms: int) -> bytes:
        """The whole body, unpacked if it came with a Content-Encoding; at most ``limit`` bytes packed and unpacked.

        Raises `TooLarge`, `Unsupported`, `Invalid`, `RequestTimeout`, `ClientLeft`.
        """
        length = self.headers.get(b"content-length")
        if length is not None and (len(length) > 18 or int(length) > limit):
            raise _too_large(limit)
        encoding = self.headers.get(b"content-encoding")
        if encoding is not None:
            encoding = encoding.strip().lower()
            if encoding not in _WINDOWS:
                raise _unknown_encoding(encoding)
        event = await self.receive()
        if event["type"] == "http.disconnect":
            raise ClientLeft
        body: bytes = event.get("body", b"")
        if event.get("more_body", False):
            body = await self._rest(body, limit, timeout_ms)
        if len(body) > limit:
            raise _too_large(limit)
        return body if encoding is None or encoding == b"identity" else await _unpack(body, encoding, limit)

    async def _rest(self, first: bytes, limit: int, timeout_ms: int) -> bytes:
        """Several events. What is over the limit is dropped as it comes, and only for so long."""
        parts, size = [first], len(first)
        try:
            async with asyncio.timeout(timeout_ms / 1_000 + limit / BODY_RATE):
                more = True
                while more and size <= limit + MOST_DRAINED:
                    event = await self.receive()
                    if event["type"] == "http.disconnect":
                        raise ClientLeft
                    chunk = event.get("body", b"")
                    size += len(chunk)
                    if size <= limit:
                        parts.append(chunk)
                    else:
                        parts.clear()
                    more = event.get("more_body", False)
        except TimeoutError:
            raise RequestTimeout(f"the body did not come in time: {size} bytes so far") from None
        if size > limit:
            raise _too_large(limit)
        return b"".join(parts)

    async def gone(self) -> None:
        """Return when the client has left. For requests whose body is read or does not matter."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


def origin(request: Request) -> Origin:
    client = request.scope.get("client")
    return Origin(request.principal.name, "rest", client[0] if client else "")


def given_up() -> Internal:
    """What is told where an operation raised `asyncio.CancelledError` of its own accord."""
    return Internal("what was to answer this request was cancelled")


async def while_client_waits(request: Request, work: Awaitable[T]) -> T:
    """The result of ``work``, which is cancelled when the client leaves first. Raises `ClientLeft` then, and `Internal`
    for work that cancels itself."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        if working.cancelled():
            raise given_up()
        return working.result()
    finally:
        for task in (working, leaving):
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError, PolywireError):
                    await task


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes", extra={"limit": limit})


def _refuse_repeats(pairs: list[tuple[bytes, bytes]]) -> None:
    seen: set[bytes] = set()
    for name, _ in pairs:
        if name in seen and name in SINGLE:
            shown = name.decode("latin-1")
            raise Invalid(f"header {shown}: given twice", fields=[FieldError(f"header.{shown}", "given twice")])
        seen.add(name)


# --- Content-Encoding ------------------------------------------------------------------------------------------------

# zlib's window argument. "deflate" is the zlib format (RFC 9110 §8.4.1.2), though some clients send it bare.
_WINDOWS = {b"identity": 0, b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


def _unknown_encoding(encoding: bytes) -> Unsupported:
    shown = encoding.decode("latin-1")[:64]
    return Unsupported(f"Content-Encoding {shown!r} is not known", hint="send gzip, deflate, or the body as it is")


async def _unpack(body: bytes, encoding: bytes, limit: int) -> bytes:
    if len(body) <= SMALL and limit <= MOST_DRAINED:
        return _unpacked(body, _WINDOWS[encoding], limit)
    return await asyncio.to_thread(_unpacked, body, _WINDOWS[encoding], limit)


def _unpacked(body: bytes, window: int, limit: int) -> bytes:
    """At most ``limit`` bytes are ever made, whatever the body claims."""
    if window == 15 and (body[:1] == b"" or body[0] & 0x0F != 8 or int.from_bytes(body[:2], "big") % 31):
        window = -15  # bare deflate
    parts: list[bytes] = []
    left = limit
    rest = body
    while rest:
        unpacker = zlib.decompressobj(window)
        try:
            part = unpacker.decompress(rest, left + 1)
        except zlib.error as error:
            raise _not_packed(window, str(error)) from None
        if len(part) > left:
            raise TooLarge(f"the body is larger than {limit} bytes when unpacked", extra={"limit": limit})
        if not unpacker.eof:
            raise _not_packed(window, "it is unfinished")
        left -= len(part)
        parts.append(part)
        # gzip files may be joined (RFC 1952 §2.2): what follows a member is another one.
        rest = unpacker.unused_data
    return b"".join(parts)


def _not_packed(window: int, why: str) -> Invalid:
    name = "gzip" if window == 31 else "deflate"
    return Invalid(f"the body is not {name}: {why}", hint="Content-Encoding must say how the body is packed")
