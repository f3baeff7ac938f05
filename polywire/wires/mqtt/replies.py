"""Where the reply to a call goes (MQTT 5 §4.10): to a topic, or to its caller alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from polywire.core.access import Action
from polywire.core.address import key_text
from polywire.core.admission import check_record
from polywire.core.errors import Denied, LimitExceeded, NotFound, PolywireError, TooLarge
from polywire.core.message import Message, Origin, Record
from polywire.core.position import Position
from polywire.wires.mqtt.names import Filter, Name, read_name
from polywire.wires.mqtt.reasons import MqttError, Reason

if TYPE_CHECKING:
    from polywire.core.access import Principal
    from polywire.core.log import Told
    from polywire.wires.mqtt.client_session import ClientSession, Granted
    from polywire.wires.mqtt.server import Mqtt

__all__ = ["Replies", "replies_to", "reply_topic", "require_reply_filter"]

_REPLIES: Final = "operations/replies/"
_NOWHERE: Final = Position(0, 0, 0)


def reply_topic(client_id: str) -> str:
    """What the client's own response topics begin with."""
    return _REPLIES + quote(client_id, safe="")


def _is_own(topic: str, client_id: str) -> bool:
    own = reply_topic(client_id)
    return topic == own or topic.startswith(f"{own}/")


def require_reply_filter(client_id: str, filter: Filter) -> None:
    """Raises `MqttError` for a filter of calls, which nobody can read, `Denied` for another client's replies."""
    if not filter.text.startswith(_REPLIES):
        raise MqttError(Reason.TOPIC_FILTER_INVALID, "operations are called by publishing; they cannot be read")
    if not _is_own(filter.text, client_id):
        raise Denied(f"these are another client's replies; your own are {reply_topic(client_id)}/#")


class Replies(ABC):
    """To one call, one or many."""

    @abstractmethod
    async def send(self, record: Record) -> bool:
        """Wait until it is on its way. False: nobody is there to take it. Raises the core's errors."""

    @abstractmethod
    def post(self, record: Record, told: Told) -> None:
        """As `send`, without waiting: ``told`` hears when it is on its way."""


def replies_to(wire: Mqtt, session: ClientSession, principal: Principal, request: Record) -> Replies | None:
    """As the request asks for them; None: it does not. Raises `MqttError` for what is no response topic, the core's
    errors for a topic that the caller may not publish to: then nothing must be called."""
    topic = request.reply_to
    if topic is None:
        return None
    if topic.startswith(_REPLIES) and not _is_own(topic, session.client_id):
        raise MqttError(Reason.TOPIC_NAME_INVALID, "the response topic is another client's")
    name = read_name(topic.encode())
    if name.operation is None:
        return _OfTopic(wire, principal, name, request.correlation_id)
    if not _is_own(topic, session.client_id):
        raise MqttError(Reason.TOPIC_NAME_INVALID, "the response topic is an operation")
    return _OfClient(wire, session, topic.encode(), request.correlation_id)


class _OfTopic(Replies):
    """The caller publishes them, so to speak: it must have the right to. They are kept, as anything in a topic."""

    def __init__(self, wire: Mqtt, principal: Principal, name: Name, correlation: bytes | None) -> None:
        self._core = wire.core
        self._principal = principal
        self._name = name
        self._correlation = correlation
        self._require()
        check_record(Record(key=name.key, correlation_id=correlation), wire.core.limits)
        wire.core.catalog.ensure(name.topic)

    def _require(self) -> None:
        topic, key, _ = self._name
        self._core.access.require(self._principal, Action.PUBLISH, topic if key is None else f"{topic}.{key_text(key)}")

    async def send(self, record: Record) -> bool:
        await self._core.publish(self._core.access.system, self._name.topic, [self._addressed(record)])
        return True

    def post(self, record: Record, told: Told) -> None:
        self._core.post(self._core.access.system, self._name.topic, [self._addressed(record)], told)

    def _addressed(self, record: Record) -> Record:
        """To be published in the hub's name: what was called before the hub began to stop is still answered."""
        self._require()
        record.key = self._name.key
        record.correlation_id = self._correlation
        record.origin = Origin(self._principal.name)
        return record


class _OfClient(Replies):
    """Stored nowhere, at QoS 0, by whatever connection the client's session has by then."""

    def __init__(self, wire: Mqtt, session: ClientSession, name: bytes, correlation: bytes | None) -> None:
        self._wire = wire
        self._session = session
        self._name = name
        self._correlation = correlation

    async def send(self, record: Record) -> bool:
        while (connection := self._session.connection) is not None and connection.full:
            await connection.room()
        if connection is None or not self._granted():
            return False
        self.post(record, _ignore)
        return True

    def _granted(self) -> tuple[Granted, ...]:
        """The client's subscriptions that mean its response topic."""
        return tuple(one for one in self._session.granted.values() if one.filter.matches(self._name))

    def post(self, record: Record, told: Told) -> None:
        """Raises `NotFound` for a client that is gone or not subscribed, `LimitExceeded` for one that does not read,
        `TooLarge` for more than it takes."""
        connection, granted = self._session.connection, self._granted()
        if connection is None or not granted:
            raise NotFound("the caller is not subscribed to its response topic")
        if connection.full:
            self._wire.missed += 1
            raise LimitExceeded("the caller does not read")
        record.correlation_id = self._correlation
        message = Message("", record, 0, _NOWHERE, self._wire.core.clock.now())
        packet = self._wire.encoder.named(self._name, message, self._wire.form(granted, connection.level), 0)
        if packet is None or packet.size > connection.peer.maximum:
            self._wire.skipped += 1
            raise TooLarge(f"the reply is larger than the {connection.peer.maximum} bytes that the caller takes")
        self._wire.counters.delivered += 1
        connection.write(packet.whole())
        told(None)


def _ignore(error: PolywireError | None) -> None:
    pass
