"""The opening handshake of a WebSocket: what websockets, the guard and the router make of a request head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from polywire.core.errors import Invalid, PolywireError
from polywire.server.frames import WINDOW_BITS
from polywire.server.problems import problem, raw_response
from polywire.server.websocket import WebSocketRequest

if TYPE_CHECKING:
    from polywire.server.guard import Guard

__all__ = ["DEFLATE", "accept", "deflates", "read_request", "refusal", "request_head"]

DEFLATE = ServerPerMessageDeflateFactory(
    # Without context takeover an idle connection holds no zlib state, and one encoding suits every peer.
    server_no_context_takeover=True,
    client_no_context_takeover=True,
    server_max_window_bits=WINDOW_BITS,
)


def accept(conn: ServerProtocol, scope: Any, url: bytes) -> Response | bytes:
    """The 101 response, not yet sent; or the bytes of a refusal (RFC 6455 §4.2)."""
    conn.receive_data(request_head(scope, url))
    events = conn.events_received()
    if not events or not isinstance(events[0], Request):
        # websockets has its own bounds on lines and their number, and may have answered already.
        return b"".join(conn.data_to_send()) or refusal(Invalid("the WebSocket handshake is not valid"))
    response = conn.accept(events[0])
    return response if response.status_code == 101 else response.serialize()


def request_head(scope: Any, url: bytes) -> bytes:
    """What the peer sent, as websockets wants to read it."""
    head = [scope["method"].encode(), b" ", url, b" HTTP/", scope["http_version"].encode(), b"\r\n"]
    for name, value in scope["headers"]:
        head += (name, b": ", value, b"\r\n")
    return b"".join([*head, b"\r\n"])


def refusal(error: PolywireError) -> bytes:
    return raw_response(*problem(error))


def read_request(scope: Any, url: bytes, guard: Guard) -> WebSocketRequest:
    """Who asks for what. Raises what `Guard.admit` raises."""
    raw_path, _, query = url.partition(b"?")
    scope["type"] = "websocket"
    scope["path"] = unquote(raw_path.decode("latin-1"))
    scope["query_string"] = query
    guard.admit(scope)
    return WebSocketRequest(
        path=scope["path"],
        query=query,
        headers=scope["headers"],
        subprotocols=_subprotocols(scope["headers"]),
        principal=scope["principal"],
        client="{}:{}".format(*scope["client"]) if scope["client"] else "",
    )


def deflates(conn: ServerProtocol) -> bool:
    """Whether the peer can inflate what `frames.encode_deflated` makes."""
    return any(
        isinstance(extension, PerMessageDeflate) and extension.local_max_window_bits >= WINDOW_BITS
        for extension in conn.extensions
    )


def _subprotocols(headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    """What the peer offers, in its order."""
    values = [value.decode("latin-1") for name, value in headers if name == b"sec-websocket-protocol"]
    return [token.strip() for token in ",".join(values).split(",") if token.strip()]
