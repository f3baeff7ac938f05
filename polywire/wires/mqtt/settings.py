"""What can be set about the MQTT wire. Sizes are bytes, times milliseconds, except where MQTT itself counts seconds.

Every listener of MQTT shares these: TCP, TLS, and WebSocket, which is mounted on HTTP and has that listener's bounds,
too.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from polywire.core.units import count, milliseconds, size, text
from polywire.server.settings import TlsSettings

__all__ = ["MqttSettings"]

KIB, MIB = 1 << 10, 1 << 20
SECOND, DAY = 1_000, 86_400_000
LARGEST_PACKET = 268_435_460
"""A Remaining Length of 268,435,455 and the fixed header in front of it (MQTT 5 §1.5.5)."""


def _positive(description: str) -> Meta:
    return Meta(ge=1, description=description)


def _two_bytes(description: str) -> Meta:
    """What MQTT itself writes in two bytes, and where 0 is no value."""
    return Meta(ge=1, le=65_535, description=description)


class MqttSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``host`` None and ``max_packet_size`` 0 stand for what other settings say; `polywire.serving` fills them in."""

    host: Annotated[str | None, text("address or name to listen on; not given: that of http")] = None
    port: Annotated[int, Meta(ge=0, le=65_535, description="TCP port without TLS; 0 takes a free one")] = 1883
    tls_port: Annotated[
        int,
        Meta(ge=0, le=65_535, description="TCP port with TLS, once a certificate is configured; 0 takes a free one"),
    ] = 8883
    backlog: Annotated[int, _positive("connections the system keeps until they are accepted")] = 2_048
    max_connections: Annotated[
        int, _positive("open connections, WebSocket too; above it those over TCP and TLS are closed at once")
    ] = 10_000
    max_connections_per_principal: Annotated[
        int, _positive("open connections of one principal, WebSocket too, once API keys exist")
    ] = 1_000
    connect_timeout: Annotated[
        int, milliseconds("from the accepted connection, or the end of the TLS handshake, to the end of CONNECT")
    ] = 10 * SECOND
    max_keepalive: Annotated[
        int,
        Meta(
            ge=1,
            le=65_535,
            description="the longest keep-alive; below 65535, MQTT 5 clients with a longer one or none are told it",
            extra={"unit": "s"},
        ),
    ] = 65_535
    max_packet_size: Annotated[
        int,
        Meta(
            ge=0,
            le=LARGEST_PACKET,
            description="of one packet from a client; 0: limits.message_size and 128 KiB more",
            extra={"unit": "bytes"},
        ),
    ] = 0
    max_request_size: Annotated[
        int,
        Meta(ge=64, description="of a packet that carries no message, such as SUBSCRIBE", extra={"unit": "bytes"}),
    ] = 128 * KIB
    receive_maximum: Annotated[
        int, _two_bytes("QoS 1 and 2 messages from a client that are not acknowledged yet; more end its connection")
    ] = 1_000
    in_flight: Annotated[
        int, _two_bytes("QoS 1 and 2 messages to a client that it has not acknowledged; more wait")
    ] = 1_000
    topic_alias_maximum: Annotated[
        int, Meta(ge=0, le=65_535, description="topic aliases of a connection, in each direction; 0: none")
    ] = 100
    max_queued: Annotated[
        int, count("messages kept for a session whose client is away; above it the newest are dropped, and counted")
    ] = 1_000
    max_subscriptions: Annotated[int, _positive("subscriptions of one session")] = 1_000
    session_expiry: Annotated[
        int, milliseconds("the longest a session outlives its connection; 3.1 and 3.1.1 clients always ask for it")
    ] = 30 * DAY
    max_calls: Annotated[int, _positive("calls of operations by a connection that run at the same time")] = 256
    max_sessions: Annotated[int, _positive("stored sessions; above it a client that wants one is refused")] = 100_000
    out_buffer: Annotated[
        int, size("what may wait to be sent on a connection before its reading from topics pauses")
    ] = MIB
    slow_timeout: Annotated[int, milliseconds("a client that reads nothing for this long, its buffer full, is cut")] = (
        30 * SECOND
    )
    held_size: Annotated[
        int, size("packets kept per connection while publishing waits for the log, before reading stops")
    ] = 256 * KIB
    encoded_size: Annotated[int, size("encoded batches kept for further readers, of all topics together")] = 8 * MIB
    sys_interval: Annotated[int, milliseconds("between two publications of $SYS/broker; 0: none")] = 10 * SECOND
    tls: Annotated[TlsSettings | None, text("certificate and key of this listener; not given: those of [tls]")] = None

    def replace(self, **changes: Any) -> MqttSettings:
        return msgspec.structs.replace(self, **changes)
