"""What the WebSocket protocol and those who use it say to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from polywire.core.access import Principal

__all__ = ["Frames", "WebSocket", "WebSocketHandler", "WebSocketRequest", "WebSocketRoute"]

Frames = Sequence[tuple[bool, bytes]]
"""Messages as they came: whether it is text (then it is valid UTF-8), and its bytes."""


@dataclass(frozen=True, slots=True)
class WebSocketRequest:
    """The handshake. ``path`` is decoded, ``query`` is not (see `query.parse_query`), header names are lower case."""

    path: str
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    subprotocols: Sequence[str]
    principal: Principal
    client: str


class WebSocket(Protocol):
    """One open WebSocket, as its handler sees it."""

    @property
    def deflates(self) -> bool:
        """Whether frames made with `frames.encode_deflated` may be sent to this peer."""
        ...

    @property
    def subprotocol(self) -> str | None: ...
    @subprotocol.setter
    def subprotocol(self, value: str | None) -> None:
        """Only while the route is being opened."""
        ...

    def limit(self, size: int) -> None:
        """Take messages of up to ``size`` bytes, not what the listener's settings say. Only while the route is being
        opened."""
        ...

    def send(self, frames: bytes) -> bool:
        """Write encoded frames; taken in any case. False: wait for `WebSocketHandler.writable` before more."""
        ...

    @property
    def unsent(self) -> int:
        """Bytes that were written and wait for the peer."""
        ...

    def hold(self) -> None:
        """Hand over no more messages until `release`. Pings are answered as long as little is held back."""
        ...

    def release(self) -> None: ...

    def close(self, code: int, reason: str = "") -> None:
        """Start the closing handshake. Reasons are cut to 123 bytes; a second close does nothing."""
        ...


class WebSocketHandler(Protocol):
    """Everything is called on the event loop. What it raises closes the connection with 1011."""

    def opened(self) -> None:
        """The handshake is done; frames may be sent."""
        ...

    def received(self, messages: Frames) -> None:
        """Never empty; the messages of one read, in order."""
        ...

    def writable(self) -> None:
        """The peer has caught up, after `WebSocket.send` returned False."""
        ...

    def closed(self) -> None:
        """Called once, when no more messages come and nothing more can be sent."""
        ...


WebSocketRoute = Callable[[WebSocketRequest, WebSocket], WebSocketHandler]
"""Takes a handshake. Raises a `PolywireError`, which refuses it with that HTTP status and problem+json."""
