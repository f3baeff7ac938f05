"""Short requests answered without a task: what a wire and the HTTP protocol say to each other about them.

ASGI gives every request a scope, an event, a task and two coroutines that wait for each other; for a request of a few
hundred bytes that is most of the work. A wire may mount a `DirectHandler` (`Router.mount_direct`): a plain function
that is handed a whole request and either takes it, and answers now or later, or declines. What is declined, and every
request that is not plain (`is_plain`), goes through ASGI as if there were no direct handler; so each rule that only
unusual requests meet is written once, there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from polywire.core.access import Principal
from polywire.core.errors import Internal
from polywire.server.problems import Header, problem
from polywire.server.whole_response import response_bytes

if TYPE_CHECKING:
    from polywire.server.http_protocol import HttpProtocol

__all__ = [
    "LONGEST_BODY",
    "Abandon",
    "Answer",
    "DirectHandler",
    "DirectHead",
    "Exchange",
    "is_plain",
    "is_short",
    "length_at",
]

log = logging.getLogger("polywire.http")

LONGEST_BODY = 64 << 10
"""Bytes. A longer body takes so long itself that a task does not matter."""
_MOST_HEADERS = 64
_UNUSUAL = frozenset((
    b"content-encoding",
    b"expect",
    b"origin",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
))  # fmt: skip

Answer = Callable[[int, Iterable[Header], bytes], None]
"""``answer(status, headers, body)``, once. ``content-length``, Date and what ends a connection are added; the headers
are the handler's own, never a peer's word: they are not checked for line ends. Nothing happens if the client has
left."""


class DirectHead:
    """What a request says before its body. A head that a connection repeats, as nearly all do (but for the length of
    the body), is the same object."""

    __slots__ = (
        "client", "handler", "headers", "length_at", "method", "note", "opened", "path", "principal", "query", "target",
        "wanted",
    )  # fmt: skip

    def __init__(
        self,
        handler: DirectHandler,
        method: bytes,
        target: bytes,
        headers: list[Header],
        principal: Principal,
        client: str,
        *,
        length_at: int | None,
        opened: bool,
    ) -> None:
        self.handler = handler
        self.method = method
        self.target = target
        self.path, _, self.query = target.partition(b"?")  # as they came
        self.headers = headers if length_at is None else headers[:length_at] + headers[length_at + 1 :]
        """Without Content-Length. Names are lower case; none comes twice."""
        self.length_at = length_at  # where Content-Length stood; None: the request has no body
        self.principal = principal
        self.client = client  # its address, or empty
        self.opened = opened  # whether the hub was open to all when the guard let this in
        self.note: Any = None
        """The handler's own: what it has read out of this head and need not read again."""
        self.wanted = True
        """False, once the handler has said so, if it would decline every request with this head: none is offered."""

    def is_of(self, method: bytes, target: bytes, headers: list[Header]) -> bool:
        """Whether a request with these has this head."""
        at = self.length_at
        if target != self.target or method != self.method:
            return False
        if at is None:
            return headers == self.headers
        return (
            len(headers) > at
            and headers[at][0] == b"content-length"
            and headers[:at] + headers[at + 1 :] == self.headers
        )

    def is_short(self, headers: list[Header], longest: int) -> bool:
        """Whether the body of a request with this head and these headers is."""
        return self.length_at is None or is_short(headers[self.length_at][1], longest)


Abandon = Callable[[], object]
"""Called if the client leaves before it is answered."""
DirectHandler = Callable[[DirectHead, bytes, Answer], "bool | Abandon"]
"""``handle(head, body, answer)``, on the event loop: True takes the request, an `Abandon` takes it and wants to know of
a client that leaves, False declines. It has done nothing when it declines. The guard has let the request in. Raising is
a fault of the handler, and answered as one."""


def is_plain(headers: Sequence[Header]) -> bool:
    """Whether nothing in these headers is special."""
    seen = {name for name, _ in headers}
    return len(seen) == len(headers) <= _MOST_HEADERS and _UNUSUAL.isdisjoint(seen)


def length_at(headers: Sequence[Header]) -> int | None:
    """Where Content-Length stands."""
    return next((index for index, (name, _) in enumerate(headers) if name == b"content-length"), None)


def is_short(length: bytes, longest: int) -> bool:
    """Whether this Content-Length is a number, and at most ``longest``."""
    return length.isdigit() and len(length) < 10 and int(length) <= longest


class _Unheard:
    """The event that tells an ASGI application of its peer: here there is no application."""

    def set(self) -> None: ...


class Exchange:
    """A direct request until it is answered. It stands where uvicorn has a cycle (`HttpToolsProtocol.cycle`) and has
    what others look for there, so that pipelining, draining, refusals and lost connections need no second set of rules.
    """

    __slots__ = ("_abandon", "_connection", "disconnected", "keep_alive", "response_complete")

    message_event = _Unheard()
    response_started = False

    def __init__(self, connection: HttpProtocol) -> None:
        self._connection: HttpProtocol | None = connection  # until the answer: the connection holds this object
        self._abandon: Abandon | None = None
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False

    def offer(self, head: DirectHead, body: bytes) -> bool:
        """Whether the handler takes the request."""
        try:
            taken = head.handler(head, body, self.answer)
            if taken is False:
                return False
            if taken is not True and self._connection is not None:
                self._abandon = taken
        except Exception:
            log.exception("%s %s failed", head.method.decode(), head.path.decode())
            if self._connection is not None:
                error = Internal("the hub could not answer this request", hint="its log says why")
                status, headers, told = problem(error)
                self.answer(status, [pair for pair in headers if pair[0] != b"content-length"], told)
        return True

    def lost(self) -> None:
        """The connection has ended."""
        self.disconnected = True
        abandon, self._abandon = self._abandon, None
        if abandon is not None:
            abandon()

    def answer(self, status: int, headers: Iterable[Header], body: bytes) -> None:
        """See `Answer`. Raises `RuntimeError` the second time."""
        connection, self._connection, self._abandon = self._connection, None, None
        if connection is None:
            raise RuntimeError("a request has one answer")
        transport = connection.transport
        if self.disconnected or transport.is_closing():
            return
        self.response_complete = True
        added = connection.server_state.default_headers
        if not self.keep_alive:
            added = [*added, (b"connection", b"close")]
        transport.write(response_bytes(status, [*added, *headers], body))
        if not self.keep_alive:
            transport.close()
        connection.on_response_complete()
