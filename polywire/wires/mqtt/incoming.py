"""What a client publishes on one connection, from its PUBLISH to the answer: topic aliases, and how much waits."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final

from polywire.wires.mqtt.in_flight import Received, SessionState
from polywire.wires.mqtt.packets import Property, Publish
from polywire.wires.mqtt.properties import read
from polywire.wires.mqtt.reasons import MqttError, Reason

__all__ = ["ALIAS", "Incoming"]

ALIAS: Final = bytes((Property.TOPIC_ALIAS,))
"""A block of properties without this byte has no topic alias."""
_ALIAS_SIZE: Final = 256 << 10
"""Bytes of the names that a client's aliases stand for, all together: 65,535 aliases of 65,535 bytes were 4 GB."""


class Incoming:
    """Messages are handed over in the order they came, and acknowledged in any."""

    __slots__ = (
        "_alias_maximum",
        "_alias_size",
        "_aliases",
        "_most",
        "_on_qos_1",
        "_open",
        "_releases",
        "_unrecorded",
        "owed",
        "state",
    )

    def __init__(self, state: SessionState, alias_maximum: int, receive_maximum: int | None) -> None:
        """``receive_maximum`` None: the client's level has no such rule."""
        self.state = state
        self.owed: dict[int, int] = {}
        """How many repeats of a message wait for what becomes of the first, on this connection or an earlier one."""
        self._alias_maximum = alias_maximum
        self._aliases: dict[int, bytes] = {}
        self._alias_size = 0
        self._most = sys.maxsize if receive_maximum is None else receive_maximum
        self._on_qos_1 = 0  # handed over and not acknowledged
        self._unrecorded = 0  # the same of QoS 2
        self._releases = 0  # handed over and not complete
        self._open: dict[int, None] = {}  # ids of QoS 2 that came on this connection and are not over

    @property
    def unacknowledged(self) -> int:
        """What waits for the hub: PUBLISH for PUBACK and PUBREC, PUBREL for PUBCOMP."""
        return self._on_qos_1 + self._unrecorded + self._releases

    # PUBLISH

    def resolve(self, publish: Publish) -> None:
        """Put the topic in place of its alias (MQTT 5 §3.3.2.3.4, §3.3.4). Raises `MqttError` if it has none."""
        block, alias = publish.properties, None
        if ALIAS in block:  # or the byte stands for something else
            alias = block[1] << 8 | block[2] if len(block) == 3 else read(block, Publish).get(Property.TOPIC_ALIAS)
        if alias is None:
            if not publish.topic:
                raise MqttError(Reason.PROTOCOL_ERROR, "PUBLISH without a topic [MQTT-4.7.3-1]")
        elif not 0 < alias <= self._alias_maximum:
            most = self._alias_maximum
            raise MqttError(Reason.TOPIC_ALIAS_INVALID, f"topic alias {alias}: there are {most} [MQTT-3.3.2-9]")
        elif publish.topic:
            self._remember(alias, publish.topic)
        elif alias in self._aliases:
            publish.topic = self._aliases[alias]
        else:
            raise MqttError(Reason.PROTOCOL_ERROR, f"topic alias {alias} stands for nothing yet")

    def _remember(self, alias: int, topic: bytes) -> None:
        self._alias_size += len(topic) - len(self._aliases.get(alias, b""))
        if self._alias_size > _ALIAS_SIZE:
            raise MqttError(Reason.QUOTA_EXCEEDED, f"topic aliases stand for more than {_ALIAS_SIZE} bytes of names")
        self._aliases[alias] = topic

    def admit(self, publish: Publish) -> bool:
        """Of QoS 1 or 2. False: it came before and its PUBREL did not, so it does not count again [MQTT-4.3.3-10].

        Raises `MqttError` if the client does not keep to the Receive Maximum [MQTT-3.3.4-7].
        """
        if publish.qos == 2 and publish.id in self.state.received:
            return False
        if self._on_qos_1 + len(self._open) >= self._most:
            raise MqttError(Reason.RECEIVE_MAXIMUM_EXCEEDED, f"more than {self._most} messages are unacknowledged")
        if publish.qos == 1:
            self._on_qos_1 += 1
        else:
            self._unrecorded += 1
            self._open[publish.id] = None
            self.state.received[publish.id] = Received.HANDED
        return True

    def is_answered(self, id: int) -> bool:
        """Whether a repeat gets its PUBREC now. If not it gets it when the first has its own [MQTT-4.3.3-10]."""
        if self.state.received[id] == Received.ACKNOWLEDGED:
            return True
        self.owed[id] = self.owed.get(id, 0) + 1
        return False

    def due(self) -> list[int]:
        """Repeats that can be answered by now. Raises `MqttError` if what they repeat could not be stored."""
        received = self.state.received
        for packet_id in self.owed:
            if packet_id not in received:
                raise MqttError(Reason.UNSPECIFIED_ERROR, f"message {packet_id} is not stored: send it again")
        answered = [packet_id for packet_id in self.owed if received[packet_id] == Received.ACKNOWLEDGED]
        return [packet_id for packet_id in answered for _ in range(self.owed.pop(packet_id))]

    def acknowledged(self, ids: Sequence[int]) -> None:
        """At QoS 1."""
        self._on_qos_1 -= len(ids)

    def recorded(self, ids: Iterable[int]) -> None:
        """At QoS 2; if their connection is closed, too."""
        for packet_id in ids:
            self._unrecorded -= 1
            if packet_id in self.state.received:
                self.state.received[packet_id] = Received.ACKNOWLEDGED

    def forget(self, ids: Iterable[int]) -> None:
        """At QoS 2: what they said is not stored, a PUBLISH with such an id is another message [MQTT-4.3.3-9]."""
        for packet_id in ids:
            self._unrecorded -= 1
            if packet_id in self._open:
                del self._open[packet_id]
                self.owed.pop(packet_id, None)  # what repeats it is refused with it
            self.state.received.pop(packet_id, None)

    # PUBREL

    def release(self, id: int) -> bool:
        """Whether the id was known. Raises `MqttError` if its PUBREC was not sent."""
        stage = self.state.received.get(id)
        if stage is not None and stage != Received.ACKNOWLEDGED:
            raise MqttError(Reason.PROTOCOL_ERROR, f"PUBREL for message {id}, for which no PUBREC was sent")
        self._releases += 1
        return self.state.received.pop(id, None) is not None

    def complete(self, id: int) -> None:
        self._releases -= 1
        self._open.pop(id, None)
