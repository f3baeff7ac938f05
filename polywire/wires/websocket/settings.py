"""What can be set about JSON-RPC on ``/ws``. Sizes are bytes.

What belongs to every WebSocket (pings, out-buffer, compression) is set with the HTTP listener's `WebSocketSettings`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ["JsonRpcSettings"]

KIB, MIB = 1 << 10, 1 << 20


def _count(description: str) -> Meta:
    return Meta(ge=1, description=description)


def _size(description: str) -> Meta:
    return Meta(ge=1, description=description, extra={"unit": "bytes"})


class JsonRpcSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    message_size: Annotated[
        int,
        _size("of one frame, decompressed; a longer one closes the connection. Base64 is a third longer than bytes"),
    ] = 2 * MIB
    batch: Annotated[int, _count("requests in one batch")] = 100
    in_flight: Annotated[int, _count("requests of a connection that have no answer yet; more are refused")] = 256
    subscriptions: Annotated[int, _count("subscriptions and consumers of a connection")] = 100
    unsettled: Annotated[int, _count("credit of a connection's consumers together")] = 10_000
    notification_size: Annotated[int, _size("up to which messages are put together in one notification")] = 256 * KIB
    held_size: Annotated[
        int, _size("publishes that wait for the log, and answers that wait for the peer, before reading stops")
    ] = 256 * KIB
