"""One event stream: a follower of a topic writes into a bounded buffer, a coroutine sends what is there.

    follower ──deliver──▶ buffer ──send──▶ client

``send`` waits while the client does not read. Then the buffer fills, ``deliver`` says so, and the follower stands
still; once the buffer is sent the follower goes on from the log, or says `reset` where the log has moved on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from polywire.core.access import Principal
from polywire.core.clock import Timer
from polywire.core.core import Core
from polywire.core.errors import Invalid, PolywireError, Unavailable
from polywire.core.message import Batch
from polywire.core.position import Cursor
from polywire.core.streams import Follower, Latest, Reset, Since, parse_start
from polywire.server.connections import Connections
from polywire.server.query import Query, parse_query
from polywire.wires.sse.binding import blocks, end_block, id_block, reset_block, retry_block, unknown_block
from polywire.wires.sse.settings import SseSettings

__all__ = ["SseApp"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

QUERY = ("from", "lastEventId", "key", "envelope")
HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # a proxy that collects the answer first would never show one
]
_HEARTBEAT = b":\n\n"


class SseApp:
    """``GET /topics/{topic}/events``, called by whoever mounts it. Raises `PolywireError` only while nothing is
    sent."""

    def __init__(
        self, core: Core, *, settings: SseSettings | None = None, connections: Connections | None = None
    ) -> None:
        self._core = core
        self._settings = settings or SseSettings()
        self._connections = connections
        self._counters = core.counters.wire("sse")

    async def __call__(self, scope: Scope, receive: Receive, send: Send, principal: Principal, topic: str) -> None:
        query = parse_query(scope["query_string"], QUERY)
        release = self._connections.open(principal) if self._connections else _nothing
        stream = _Stream(self._core, self._settings, query.flag("envelope"))
        self._counters.connections += 1
        try:
            self._follow(stream, principal, topic, scope, query)
            await stream.run(receive, send)
        except Unavailable:
            await _try_later(send, self._settings.retry)
        finally:
            stream.close()
            self._counters.connections -= 1
            self._counters.delivered += stream.delivered
            release()

    def _follow(self, stream: _Stream, principal: Principal, topic: str, scope: Scope, query: Query) -> None:
        start = parse_start(query.text("from") or "latest")
        last = _last_event_id(scope, query)
        known = True
        if last is not None:
            cursor = _cursor(last)
            known = cursor is not None
            start = Latest() if cursor is None else cursor
        stream.follower = self._core.follow(principal, topic, start, stream, key=query.text("key"))
        stream.placed = not isinstance(start, Since)
        if not known:
            info = self._core.topic_info(principal, topic)
            stream.write(unknown_block(Cursor(info.epoch, info.oldest - 1), stream.follower.cursor))


def _last_event_id(scope: Scope, query: Query) -> str | None:
    """The header wins: a client that connects again adds it to the same URL. An empty one is none (HTML §9.2.2)."""
    for name, value in scope["headers"]:
        if name == b"last-event-id" and value:
            return str(value.decode("utf-8", "replace"))
    return query.text("lastEventId") or None


def _cursor(text: str) -> Cursor | None:
    """None for what is no cursor. It is told as a reset: refused by status, a browser would never come again."""
    try:
        return Cursor.parse(text)
    except Invalid:
        return None


async def _try_later(send: Send, retry: int) -> None:
    """An EventSource takes any status but 200 for final, and a hub that starts or drains is back soon."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": retry_block(retry)})


class _Stream:
    """The follower's sink and the sender. Only `run` sends."""

    def __init__(self, core: Core, settings: SseSettings, envelope: bool) -> None:
        self.follower: Follower | None = None
        self.placed = False
        self.delivered = 0
        self._clock = core.clock
        self._settings = settings
        self._envelope = envelope
        self._waiting: list[bytes] = []
        self._size = 0
        self._full = False
        self._over = False
        self._wake = asyncio.Event()
        self._timer: Timer | None = None
        self._told: Cursor | None = None

    # Sink

    def deliver(self, batch: Batch, indexes: Sequence[int] | None) -> bool:
        self.delivered += len(batch) if indexes is None else len(indexes)
        self.write(blocks(batch, indexes, envelope=self._envelope))
        self._full = self._size >= self._settings.out_buffer
        return not self._full

    def reset(self, reset: Reset) -> None:
        self.write(reset_block(reset))

    def ended(self, error: PolywireError) -> None:
        self._over = True
        self.write(end_block(error))

    def write(self, block: bytes) -> None:
        self._waiting.append(block)
        self._size += len(block)
        self._wake.set()

    # Sender

    async def run(self, receive: Receive, send: Send) -> None:
        """Until the client leaves or the stream ends."""
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, leaving):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send(_part(retry_block(self._settings.retry) + self._progress()))
        self._arm()
        while True:
            await self._wake.wait()
            self._wake.clear()
            body = self._taken() or _HEARTBEAT + self._progress()
            await send(_part(body))
            if self._over and not self._waiting:
                await send({"type": "http.response.body", "body": b""})
                return
            if self._full and not self._waiting:
                self._full = False
                self._resume()

    def _resume(self) -> None:
        if self.follower:
            self.follower.resume()

    def _taken(self) -> bytes:
        body = b"".join(self._waiting)
        self._waiting.clear()
        self._size = 0
        return body

    def _progress(self) -> bytes:
        """Where a client stands that got nothing lately: messages its filter leaves out count as seen."""
        cursor = self.follower.cursor if self.follower else None
        # A follower that still looks up a time stands nowhere yet.
        if cursor is None or cursor == self._told or self._waiting or not (self.placed or self.delivered):
            return b""
        self._told = cursor
        return id_block(cursor)

    def _arm(self) -> None:
        self._timer = self._clock.call_at(self._clock.now() + self._settings.heartbeat, self._beat)

    def _beat(self) -> None:
        self._wake.set()
        self._arm()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.follower:
            self.follower.close()


def _part(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}


def _nothing() -> None:
    """Where nobody counts connections."""


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
