"""What MQTT clients publish, on its way into the log; and the core's errors in MQTT's words.

At levels 3 and 4 a PUBLISH is acknowledged or its connection is closed, there is no refusal (MQTT 3.1.1 §3.3.5.2). So
there a message that is wrong for good is acknowledged and kept among the dead letters; one that may be stored later is
not acknowledged, the connection is closed, and the client sends it again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from polywire.core.access import Action, Principal
from polywire.core.address import key_text
from polywire.core.errors import Invalid, PolywireError, Unauthenticated
from polywire.core.message import Flag, Origin, Record
from polywire.formats.cloudevents import deduplicate
from polywire.wires.mqtt.names import Name, read_name
from polywire.wires.mqtt.packets import Publish
from polywire.wires.mqtt.reasons import MqttError, Reason
from polywire.wires.mqtt.records import record_of

if TYPE_CHECKING:
    from polywire.wires.mqtt.connection import Connection
    from polywire.wires.mqtt.server import Mqtt

__all__ = ["CONNECT_REASONS", "PUBLISH_REASONS", "SUBSCRIBE_REASONS", "Publisher", "reason_of", "said"]

_logger = logging.getLogger("polywire.mqtt")

API_KEY_HINT: Final = "send an API key as the password, with any user name"
PUBLISH_REASONS: Final[dict[str, int]] = {
    "invalid": Reason.PAYLOAD_FORMAT_INVALID,
    "unauthenticated": Reason.NOT_AUTHORIZED,
    "denied": Reason.NOT_AUTHORIZED,
    "not_found": Reason.TOPIC_NAME_INVALID,
    "conflict": Reason.IMPLEMENTATION_SPECIFIC_ERROR,
    "too_large": Reason.QUOTA_EXCEEDED,
    "limit_exceeded": Reason.QUOTA_EXCEEDED,
    "unsupported": Reason.IMPLEMENTATION_SPECIFIC_ERROR,
    "unavailable": Reason.IMPLEMENTATION_SPECIFIC_ERROR,
    "deadline_exceeded": Reason.IMPLEMENTATION_SPECIFIC_ERROR,
    "internal": Reason.UNSPECIFIED_ERROR,
}
"""From the core's errors to reason codes of PUBACK and PUBREC (MQTT 5 §3.4.2.1, §3.5.2.1)."""

SUBSCRIBE_REASONS: Final[dict[str, int]] = {
    "invalid": Reason.TOPIC_FILTER_INVALID,
    "unauthenticated": Reason.NOT_AUTHORIZED,
    "denied": Reason.NOT_AUTHORIZED,
    "not_found": Reason.TOPIC_FILTER_INVALID,
    "conflict": Reason.IMPLEMENTATION_SPECIFIC_ERROR,
    "too_large": Reason.QUOTA_EXCEEDED,
    "limit_exceeded": Reason.QUOTA_EXCEEDED,
    "unsupported": Reason.IMPLEMENTATION_SPECIFIC_ERROR,
    "unavailable": Reason.IMPLEMENTATION_SPECIFIC_ERROR,
    "deadline_exceeded": Reason.IMPLEMENTATION_SPECIFIC_ERROR,
    "internal": Reason.UNSPECIFIED_ERROR,
}
"""The same of SUBACK and UNSUBACK (§3.9.3, §3.11.3)."""

CONNECT_REASONS: Final[dict[str, int]] = {
    "invalid": Reason.CLIENT_IDENTIFIER_NOT_VALID,
    "unauthenticated": Reason.BAD_USER_NAME_OR_PASSWORD,
    "denied": Reason.NOT_AUTHORIZED,
    "not_found": Reason.NOT_AUTHORIZED,
    "conflict": Reason.IMPLEMENTATION_SPECIFIC_ERROR,
    "too_large": Reason.PACKET_TOO_LARGE,
    "limit_exceeded": Reason.QUOTA_EXCEEDED,
    "unsupported": Reason.IMPLEMENTATION_SPECIFIC_ERROR,
    "unavailable": Reason.SERVER_UNAVAILABLE,
    "deadline_exceeded": Reason.SERVER_BUSY,
    "internal": Reason.UNSPECIFIED_ERROR,
}
"""The same of CONNACK and DISCONNECT (§3.2.2.2, §3.14.2.1)."""


def reason_of(error: PolywireError, reasons: dict[str, int]) -> int:
    return reasons.get(error.code, Reason.UNSPECIFIED_ERROR)


class Publisher:
    """Everything that one connection publishes. Answers are given to the connection's session."""

    def __init__(self, wire: Mqtt, connection: Connection, principal: Principal, client_id: str) -> None:
        self._wire = wire
        self._core = wire.core
        self._connection = connection
        self._principal = principal
        self._origin = Origin(principal.name, "mqtt", client_id)
        self._exactly_once: list[int] = []

    def publish(self, publishes: Sequence[Publish]) -> list[int]:
        """Neighbours on one topic are stored together: a batch costs little more than a message.

        Returns the ids of QoS 2 whose messages are in the transaction that is open now.
        """
        self._exactly_once = []
        now = self._core.clock.now()
        topic, records, acked = "", list[Record](), list[Publish]()
        for publish in publishes:
            try:
                name = read_name(publish.topic)
                if name.operation is not None:
                    self._store(topic, records, acked)
                    records, acked = [], []
                    if self._connection.ended:
                        self._connection.protocol.abandon([publish])
                    else:
                        self._wire.calls.publish(self._connection, self._principal, name.operation, publish)
                    continue
                record = record_of(publish, name.key, self._origin, now)
            except (MqttError, PolywireError) as error:
                self._store(topic, records, acked)
                records, acked = [], []
                self._refuse(publish, error)
                if self._connection.ended:
                    self._give_up(publishes, publish)
                    break
                continue
            if name.topic != topic:
                self._store(topic, records, acked)
                topic, records, acked = name.topic, [], []
            records.append(record)
            if publish.qos:
                acked.append(publish)
        self._store(topic, records, acked)
        return self._exactly_once

    def _store(self, topic: str, records: list[Record], acked: list[Publish]) -> None:
        if not records:
            return
        if self._connection.ended:  # by what came before: the client sends it all again, in its order
            self._connection.protocol.abandon(acked)
            return
        told = partial(self._connection.stored, acked) if acked else None
        place = self._core.catalog.get(topic)
        if place is not None and place.settings.dedup:
            for record in records:
                if not record.flags & Flag.DEDUP:
                    deduplicate(record)
        try:
            self._core.send(self._principal, topic, records, told)
        except PolywireError as error:
            if len(records) == 1:
                self._refuse_record(topic, records[0], acked, error)
            else:
                self._one_by_one(topic, records, acked)
        else:
            if acked:
                self._exactly_once += [publish.id for publish in acked if publish.qos == 2]

    def _give_up(self, publishes: Sequence[Publish], last: Publish) -> None:
        """With ``last`` the connection ended: what stands behind it never came."""
        seen = next(index for index, one in enumerate(publishes) if one is last)
        self._connection.protocol.abandon(publishes[seen + 1 :])

    def _one_by_one(self, topic: str, records: Sequence[Record], acked: Sequence[Publish]) -> None:
        """One of them is wrong. To the peer they are single messages."""
        waiting = iter(acked)
        for record in records:
            self._store(topic, [record], [] if record.flags & Flag.VOLATILE else [next(waiting)])

    def _refuse_record(self, topic: str, record: Record, acked: Sequence[Publish], error: PolywireError) -> None:
        """The core did not take it."""
        self._wire.counters.errors += 1
        if not self._can_say(len(acked)) and isinstance(error, Invalid):
            self._core.subscriptions.dead_letter(topic, record, said(error))
        if acked:
            self._answer(acked, error)

    def _can_say(self, qos: int) -> bool:
        return qos > 0 and self._connection.level >= 5

    def _keep_unsaid(self, publish: Publish, error: PolywireError) -> None:
        """What cannot be read, be it a message or the arguments of a call, as far as it goes; of those who may send it
        at all."""
        if self._can_say(publish.qos) or not isinstance(error, Invalid):
            return
        name = read_name(publish.topic)
        if not self._may_send(name):
            return
        topic = name.topic if name.operation is None else f"{name.topic}/{name.operation}"
        record = Record(publish.payload, name.key, origin=self._origin)
        self._core.subscriptions.dead_letter(topic, record, said(error))

    def _may_send(self, name: Name) -> bool:
        may = partial(self._core.access.allows, self._principal)
        if name.operation is not None:
            return may(Action.CALL, name.operation)
        return may(Action.PUBLISH, name.topic if name.key is None else f"{name.topic}.{key_text(name.key)}")

    def _answer(self, acked: Sequence[Publish], error: PolywireError) -> None:
        connection = self._connection
        if not self._core.ready:  # to be refused would be final: so the client sends it to the hub that comes next
            connection.protocol.abandon(acked)
            connection.end(Reason.SERVER_SHUTTING_DOWN, said(error))
        elif connection.level >= 5:
            connection.acknowledge(acked, reason_of(error, PUBLISH_REASONS), said(error))
        elif error.retryable or error.blame == "hub":
            connection.protocol.abandon(acked)
            connection.end(reason_of(error, CONNECT_REASONS), said(error))
        else:
            connection.acknowledge(acked, Reason.SUCCESS)

    def _refuse(self, publish: Publish, error: MqttError | PolywireError) -> None:
        """What stands in the packet cannot be published."""
        self._wire.counters.errors += 1
        if isinstance(error, PolywireError):
            self._keep_unsaid(publish, error)
            if publish.qos:
                self._answer([publish], error)
            return
        if error.reason == Reason.TOPIC_NAME_INVALID:
            if publish.qos:
                self._connection.acknowledge([publish], error.reason, error.detail)
        else:
            self._connection.protocol.abandon([publish])
            self._connection.end(error.reason, error.detail)


def said(error: PolywireError) -> str:
    """In one line, with all fields that are wrong."""
    fields = ", ".join(f"{field.path} {field.message}" for field in error.fields)
    hint = API_KEY_HINT if isinstance(error, Unauthenticated) else error.hint
    parts = (error.detail, fields if len(error.fields) > 1 else None, hint)
    return ": ".join([part for part in parts if part])
