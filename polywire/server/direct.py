"""Short requests answered without a task: what a wire and the HTTP protocol say to each other about them.

ASGI gives every request a scope, an event, a task and two coroutines that wait for each other; for a request of a few
hundred bytes that is most of the work. A wire may mount a `DirectHandler` (`Router.mount_direct`): a plain function
that is handed a whole request and either takes it, and answers now or later, or declines. What is declined, and every
request that is not plain (`plain_length`), goes through ASGI as if there were no direct handler; so each rule that only
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

__all__ = ["LONGEST_BODY", "Answer", "DirectHandler", "DirectHead", "Exchange", "is_short", "plain_length"]

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
        "client", "handler", "headers", "length_at", "method", "note", "opened", "path", "principal", "wanted",
    )  # fmt: skip

    def __init__(
        self,
        handler: DirectHandler,
        method: bytes,
        path: bytes,
        headers: list[Header],
        principal: Principal,
        client: str,
        *,
        length_at: int,
        opened: bool,
    ) -> None:
        self.handler = handler
        self.method = method
        self.path = path  # as it came; there is no query
        self.headers = headers[:length_at] + headers[length_at + 1 :]
        """Without Content-Length. Names are lower case; none comes twice."""
        self.length_at = length_at  # where Content-Length stood
        self.principal = principal
        self.client = client  # its address, or empty
        self.opened = opened  # whether the hub was open to all when the guard let this in
        self.note: Any = None
        """The handler's own: what it has read out of this head and need not read again."""
        self.wanted = True
        """False, once the handler has said so, if it would decline every request with this head: none is offered."""

    def is_of(self, method: bytes, path: bytes, headers: list[Header]) -> bool:
        """Whether a request with these has this head."""
        at = self.length_at
        return (
            len(headers) > at
            and headers[at][0] == b"content-length"
            and headers[:at] + headers[at + 1 :] == self.headers
            and path == self.path
            and method == self.method
        )


DirectHandler = Callable[[DirectHead, bytes, Answer], bool]
"""``handle(head, body, answer)``, on the event loop: True takes the request, False declines. It has done nothing when
it declines. The guard has let the request in. Raising is a fault of the handler, and answered as one."""


def plain_length(headers: Sequence[Header]) -> int | None:
    """Where Content-Length stands in the headers of a request that has it and nothing special; None in any other."""
    names = [name for name, _ in headers]
    seen = set(names)
    if len(seen) != len(names) or len(names) > _MOST_HEADERS or not _UNUSUAL.isdisjoint(seen):
        return None
    return names.index(b"content-length") if b"content-length" in seen else None


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

    __slots__ = ("_connection", "disconnected", "keep_alive", "response_complete")

    message_event = _Unheard()
    response_started = False

    def __init__(self, connection: HttpProtocol) -> None:
        self._connection: HttpProtocol | None = connection  # until the answer: the connection holds this object
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False

    def offer(self, head: DirectHead, body: bytes) -> bool:
        """Whether the handler takes the request."""
        try:
            return head.handler(head, body, self.answer)
        except Exception:
            log.exception("%s %s failed", head.method.decode(), head.path.decode())
            if self._connection is not None:
                error = Internal("the hub could not answer this request", hint="its log says why")
                status, headers, told = problem(error)
                self.answer(status, [pair for pair in headers if pair[0] != b"content-length"], told)
            return True

    def answer(self, status: int, headers: Iterable[Header], body: bytes) -> None:
        """See `Answer`. Raises `RuntimeError` the second time."""
        connection, self._connection = self._connection, None
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
