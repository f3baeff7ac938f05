"""Settings of the HTTP listener. Times are ms, sizes bytes; each field's doc and unit stand in its annotation."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

__all__ = ["HttpSettings", "TlsSettings", "WebSocketSettings"]

KIB, MIB = 1 << 10, 1 << 20


def _count(description: str) -> Meta:
    return Meta(ge=1, description=description)


def _ms(description: str) -> Meta:
    return Meta(ge=1, description=description, extra={"unit": "ms"})


def _bytes(description: str) -> Meta:
    return Meta(ge=1, description=description, extra={"unit": "bytes"})


def _text(description: str) -> Meta:
    return Meta(description=description)


def _list(description: str) -> Meta:
    return Meta(description=description, extra={"unit": "list"})


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With these listeners speak TLS: https and wss on the port of HTTP, and stream protocols on a second port."""

    certificate: Annotated[str, _text("path of the certificate chain, PEM")]
    key: Annotated[str, _text("path of the private key, PEM")]
    password: Annotated[str | None, _text("of the private key, if it is encrypted")] = None
    client_ca: Annotated[
        str | None, _text("path of certificates, PEM; a client must have a certificate of one of these authorities")
    ] = None


class WebSocketSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_message_size: Annotated[int, _bytes("a longer message, decompressed, closes the connection with 1009")] = MIB
    ping_interval: Annotated[int, _ms("between the hub's pings on a connection")] = 20_000
    ping_timeout: Annotated[int, _ms("a peer that sends nothing for this long after a ping is gone")] = 20_000
    out_buffer: Annotated[int, _bytes("what may wait to be sent on a connection before its reader is paused")] = MIB
    slow_timeout: Annotated[int, _ms("a peer that reads nothing for this long, its buffer full, is closed")] = 30_000
    close_timeout: Annotated[int, _ms("the peer has this long to answer a close")] = 5_000
    held_size: Annotated[int, _bytes("messages kept per connection while publishing waits, before reading stops")] = (
        256 * KIB
    )
    encoded_size: Annotated[int, _bytes("encoded batches kept for further readers, of all topics together")] = 8 * MIB
    compression: Annotated[bool, _text("offer permessage-deflate")] = True
    compress_from: Annotated[int, _bytes("shorter messages are sent as they are")] = KIB


class HttpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: Annotated[str, _text("address or name to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="TCP port; 0 takes a free one")] = 8000
    backlog: Annotated[int, _count("connections the system keeps until they are accepted")] = 2_048
    head_timeout: Annotated[int, _ms("from a request's first byte to the end of its head")] = 10_000
    body_timeout: Annotated[int, _ms("from the end of a request's head to the end of its body")] = 30_000
    idle_timeout: Annotated[int, _ms("a connection without a request is closed")] = 75_000
    max_head_size: Annotated[int, _bytes("request line and headers; and again chunk extensions and trailers")] = (
        64 * KIB
    )
    max_body_size: Annotated[int, _bytes("of one request, as it comes over the network")] = 16 * MIB
    max_pipelined: Annotated[int, _count("requests on a connection that wait for the one before them")] = 64
    max_connections: Annotated[int, _count("open connections, HTTP and WebSocket together")] = 10_000
    max_connections_per_principal: Annotated[
        int, _count("long-lived connections (WebSocket, event streams) of one principal, once API keys exist")
    ] = 1_000
    origins: Annotated[
        tuple[str, ...], _list("web origins other than the hub's own that may use it, as https://a.example; * for all")
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...], _list("names in the Host header that are the hub's, besides loopback; * for all")
    ] = ()
    tls: Annotated[TlsSettings | None, _text("certificate and key of this listener; not given: those of [tls]")] = None
    websocket: WebSocketSettings = WebSocketSettings()

    def replace(self, **changes: Any) -> HttpSettings:
        return msgspec.structs.replace(self, **changes)
