"""paho's client with its loop in a thread, as its documentation shows it; what its callbacks are told waits here."""

from __future__ import annotations

import itertools
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

__all__ = ["Connack", "PahoClient", "properties"]

PATIENCE = 10
"""Seconds that anything may take before a test gives up."""
FENCE = "~fence"
_fences = itertools.count()


def properties(packet: int, **values: Any) -> Properties | None:
    """As paho names them: ``MessageExpiryInterval=3``; a list of pairs for ``UserProperty``."""
    if not values:
        return None
    made = Properties(packet)
    for name, value in values.items():
        setattr(made, name, value)
    return made


class Connack(NamedTuple):
    reason: int
    session_present: bool
    properties: Properties | None


def _send_at_once(opened: Any) -> None:
    connection: socket.socket = getattr(opened, "_socket", opened)  # within paho's WebSocket
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _Answers:
    """What acknowledged which packet id, however early it came."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._answers: dict[int, Any] = {}

    def put(self, mid: int, answer: Any) -> None:
        with self._changed:
            self._answers[mid] = answer
            self._changed.notify_all()

    def take(self, mid: int | None) -> Any:
        assert mid is not None, "paho did not send the packet"
        with self._changed:
            assert self._changed.wait_for(lambda: mid in self._answers, PATIENCE), f"packet {mid} was not answered"
            return self._answers.pop(mid)


class PahoClient:
    """``level``: 3 (MQTT 3.1), 4 (3.1.1) or 5. ``clean``: Clean Session, at level 5 Clean Start. ``connecting``:
    properties of CONNECT, as paho names them. It never reconnects by itself.
    """

    def __init__(
        self, host: str, port: int, client_id: str = "", *, level: int = 5, clean: bool = True, transport: str = "tcp",
        keep_alive: int = 60, login: tuple[str, str] | None = None, connecting: dict[str, Any] | None = None,
        manual_ack: bool = False,
    ) -> None:  # fmt: skip
        self.level = level
        self.messages: queue.SimpleQueue[mqtt.MQTTMessage] = queue.SimpleQueue()
        self._connacks: queue.SimpleQueue[Connack] = queue.SimpleQueue()
        self._disconnects: queue.SimpleQueue[tuple[bool, int]] = queue.SimpleQueue()
        self._acknowledged, self._subscribed, self._unsubscribed = _Answers(), _Answers(), _Answers()
        self._address = (host, port, keep_alive)
        self._clean = clean
        self._connecting = connecting or {}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if level == 5 else clean,
            protocol=mqtt.MQTTProtocolVersion(level),
            transport=transport,  # type: ignore[arg-type] - one of its literals
            reconnect_on_failure=False,
            manual_ack=manual_ack,
        )
        if login is not None:
            self.client.username_pw_set(*login)
        self._set_callbacks(self.client)

    def _set_callbacks(self, client: mqtt.Client) -> None:
        client.on_connect = lambda _c, _u, flags, reason, properties: self._connacks.put(
            Connack(reason.value, flags.session_present, properties)
        )
        client.on_disconnect = lambda _c, _u, flags, reason, _p: self._disconnects.put(
            (flags.is_disconnect_packet_from_server, reason.value)
        )
        client.on_message = lambda _c, _u, message: self.messages.put(message)
        # Small packets one after the other: Nagle's algorithm would hold each second one back for 40 ms.
        client.on_socket_open = lambda _c, _u, opened: _send_at_once(opened)
        client.on_publish = lambda _c, _u, mid, reason, _p: self._acknowledged.put(mid, reason.value)
        client.on_subscribe = lambda _c, _u, mid, reasons, _p: self._subscribed.put(mid, [r.value for r in reasons])
        client.on_unsubscribe = lambda _c, _u, mid, reasons, _p: self._unsubscribed.put(mid, [r.value for r in reasons])

    def will(self, topic: str, payload: bytes, qos: int = 0, *, retain: bool = False, **values: Any) -> Self:
        made = properties(PacketTypes.WILLMESSAGE, **values)
        self.client.will_set(topic, payload, qos, retain, made)
        return self

    def connect(self) -> Connack:
        self.client.connect(
            *self._address,
            clean_start=self._clean if self.level == 5 else mqtt.MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties(PacketTypes.CONNECT, **self._connecting),
        )
        self.client.loop_start()
        return self._connacks.get(timeout=PATIENCE)

    def subscribe(self, *filters: str, qos: int = 0, identifier: int | None = None, **options: Any) -> list[int]:
        """``options``: those of paho's `SubscribeOptions`. Returns the reason codes."""
        made = None if identifier is None else properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=identifier)
        if self.level == 5:
            wanted: list[Any] = [(name, SubscribeOptions(qos, **options)) for name in filters]
        else:
            wanted = [(name, qos) for name in filters]
        reasons: list[int] = self._subscribed.take(self.client.subscribe(wanted, properties=made)[1])
        return reasons

    def unsubscribe(self, *filters: str) -> list[int]:
        reasons: list[int] = self._unsubscribed.take(self.client.unsubscribe(list(filters))[1])
        return reasons

    def publish(
        self, topic: str, payload: bytes | str = b"", qos: int = 1, *, retain: bool = False, **values: Any
    ) -> int:
        """Returns once it is acknowledged (QoS 0: written), with the reason code; ``values`` are properties."""
        made = properties(PacketTypes.PUBLISH, **values)
        reason: int = self._acknowledged.take(self.client.publish(topic, payload, qos, retain, made).mid)
        return reason

    def next(self) -> mqtt.MQTTMessage:
        """The next message."""
        while True:
            message = self.messages.get(timeout=PATIENCE)
            if FENCE not in message.topic:
                return message

    def until_fence(self, level: str, publisher: PahoClient | None = None) -> list[mqtt.MQTTMessage]:
        """Everything that came before what ``publisher`` (this client, if not given) publishes now below ``level``:
        what it had published has been delivered by then, and what was retained, since the fence is retained first."""
        fence, publisher = f"{level}/{FENCE}{next(_fences)}", publisher or self
        publisher.publish(fence, b"kept", retain=True)
        self.subscribe(fence, qos=1)
        found = self._until(lambda message: message.topic == fence and message.retain)
        publisher.publish(fence, b"", retain=True)
        found += self._until(lambda message: message.topic == fence and not message.payload)
        self.unsubscribe(fence)
        return found

    def _until(self, last: Callable[[mqtt.MQTTMessage], bool]) -> list[mqtt.MQTTMessage]:
        found = []
        while not last(message := self.messages.get(timeout=PATIENCE)):
            if FENCE not in message.topic:
                found.append(message)
        return found

    def payloads(self, level: str, publisher: PahoClient | None = None) -> list[bytes]:
        """Those of `until_fence`."""
        return [message.payload for message in self.until_fence(level, publisher)]

    def disconnected(self) -> tuple[bool, int]:
        """Waits for the end of the connection: whether the broker sent DISCONNECT, and the reason code."""
        return self._disconnects.get(timeout=PATIENCE)

    def disconnect(self, reason: int = 0, **values: Any) -> None:
        """DISCONNECT, and wait until the connection is closed."""
        made = properties(PacketTypes.DISCONNECT, **values)
        code = ReasonCode(PacketTypes.DISCONNECT, identifier=reason) if self.level == 5 and (reason or made) else None
        self.client.disconnect(code, made)
        self.client.loop_stop()

    def cut(self) -> None:
        """The connection ends without a DISCONNECT."""
        connection = self.client.socket()
        assert isinstance(connection, socket.socket)
        connection.shutdown(socket.SHUT_RDWR)
        self.disconnected()
        self.client.loop_stop()

    def close(self) -> None:
        if self.client.is_connected():
            self.client.disconnect()
        self.client.loop_stop()
