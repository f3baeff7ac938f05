"""Answers that come piece by piece: as lines of JSON, or as server-sent events.

The first item, or the first error, decides the status; so an operation that refuses at once is refused like any other.
An item is asked for when the one before it is on its way: an operation is no faster than its reader. When the reader
leaves, the operation is cancelled where it stands, and what it depends on is closed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from polywire.core.clock import Timer
from polywire.core.errors import PolywireError
from polywire.server.envelope import encode
from polywire.server.problems import problem_view
from polywire.wires.rest.binding import Headers, Response, status_of
from polywire.wires.rest.request import Request, while_client_waits

if TYPE_CHECKING:
    from polywire.wires.rest.app import RestApp

__all__ = ["EVENTS", "LINES", "Form", "stream", "stream_headers"]

LINES, EVENTS = "application/x-ndjson", "text/event-stream"
_END = object()
_LONGEST_TURN = 0.001  # seconds
_HEARTBEAT = b":\n\n"


class Form(NamedTuple):
    """How a stream is told. ``shown``: an item as a whole piece; ``end``: after the last one."""

    media_type: str
    shown: Callable[[Any], bytes]
    end: bytes = b""

    @classmethod
    def of_items(cls, media_type: str, as_json: Callable[[Any], bytes]) -> Form:
        """``as_json`` writes JSON text without line ends. A reader of events is told of the end: an EventSource would
        begin again."""
        if media_type == EVENTS:
            return cls(media_type, lambda item: b"data: %b\n\n" % as_json(item), b"event: end\ndata: {}\n\n")
        return cls(media_type, lambda item: as_json(item) + b"\n")

    @property
    def events(self) -> bool:
        return self.media_type == EVENTS

    def error(self, error: PolywireError) -> bytes:
        """The last piece, where something was sent already."""
        told = encode(problem_view(error, status_of(error)))
        return b"event: error\ndata: %b\n\n" % told if self.events else b'{"error":%b}\n' % told


def stream_headers(media_type: str) -> Headers:
    return [
        (b"content-type", media_type.encode()),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),  # a proxy that collects the answer first would never show one
    ]


async def stream(
    app: RestApp,
    request: Request,
    items: AsyncIterator[Any],
    form: Form,
    *,
    status: int = 200,
    empty: Response | None = None,
) -> Response | None:
    """Send ``items``, or return ``empty`` if it is given and there are none.

    Raises `ClientLeft`; `PolywireError` only while nothing is sent. ``items`` are closed in any case.
    """
    return await while_client_waits(request, _Sender(app, request, form, status).run(items, empty))


class _Sender:
    def __init__(self, app: RestApp, request: Request, form: Form, status: int) -> None:
        self._app = app
        self._send = request.send
        self._form = form
        self._status = status
        self._turn = time.perf_counter()
        self._waiting = False  # for the next item, with nothing under way to the client
        self._timer: Timer | None = None
        self._beating: asyncio.Task[None] | None = None

    async def run(self, items: AsyncIterator[Any], empty: Response | None) -> Response | None:
        try:
            first = await anext(items, _END)
            if first is _END and empty is not None:
                return empty
            await self._begin()
            await self._all(items, first)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._beating is not None:
                self._beating.cancel()
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()
        return None

    async def _begin(self) -> None:
        headers = stream_headers(self._form.media_type)
        await self._send({"type": "http.response.start", "status": self._status, "headers": headers})
        if self._form.events:
            self._arm()

    async def _all(self, items: AsyncIterator[Any], item: Any) -> None:
        last = self._form.end
        try:
            while item is not _END:
                await self._piece(self._form.shown(item))
                await self._breathe()
                self._waiting = True
                item = await anext(items, _END)
                self._waiting = False
        except PolywireError as error:
            self._app.counters.errors += 1
            last = self._form.error(error)
        finally:
            self._waiting = False
        await self._send({"type": "http.response.body", "body": last})

    async def _piece(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _breathe(self) -> None:
        """An operation and a client that never keep each other waiting would keep everybody else."""
        now = time.perf_counter()
        if now - self._turn > _LONGEST_TURN:
            await asyncio.sleep(0)
            self._turn = time.perf_counter()

    # A connection on which nothing is sent for long is cut by many proxies.

    def _arm(self) -> None:
        clock = self._app.core.clock
        self._timer = clock.call_at(clock.now() + self._app.settings.heartbeat, self._beat)

    def _beat(self) -> None:
        if self._waiting and (self._beating is None or self._beating.done()):
            self._beating = asyncio.ensure_future(self._piece(_HEARTBEAT))
        self._arm()
