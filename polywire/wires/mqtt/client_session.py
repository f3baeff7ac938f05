"""What the hub keeps of one client beyond its connection: Session State (MQTT 5 §4.1), and how it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from polywire.core.delivery import Delivery, SubscriptionSettings
from polywire.core.message import Message
from polywire.wires.mqtt.in_flight import SessionState
from polywire.wires.mqtt.names import Filter, read_filter
from polywire.wires.mqtt.packets import Properties, SubscriptionOptions, Will

if TYPE_CHECKING:
    from polywire.core.access import Principal
    from polywire.core.log import Told
    from polywire.wires.mqtt.connection import Connection

__all__ = ["ClientSession", "Granted", "StoredSession", "StoredWill", "share_settings"]

FOREVER = 0xFFFF_FFFF
"""A session expiry interval that never ends (MQTT 5 §3.1.2.11.2)."""


class StoredWill(msgspec.Struct, array_like=True, frozen=True):
    topic: bytes
    payload: bytes
    qos: int
    retain: bool
    properties: Properties

    def will(self) -> Will:
        return Will(self.topic, self.payload, self.qos, self.retain, self.properties)

    @classmethod
    def of(cls, will: Will) -> StoredWill:
        return cls(will.topic, will.payload, will.qos, will.retain, will.properties)


class StoredSubscription(msgspec.Struct, array_like=True, frozen=True):
    filter: str
    options: SubscriptionOptions
    identifier: int = 0
    queued_before: int = 0


class StoredSession(msgspec.Struct, array_like=True, frozen=True):
    """How a session stands in the hub's state, under its client id. ``expiry`` in seconds; times in ms since the epoch.

    ``left`` is None while its client is connected: found so at start, the hub was killed then.
    """

    owner: str
    level: int
    expiry: int
    subscriptions: list[StoredSubscription]
    left: int | None = None
    will: StoredWill | None = None
    will_due: int | None = None


class Granted:
    """One subscription of a session, as SUBACK granted it. Its identity is what readers of the log are told."""

    __slots__ = ("filter", "identifier", "options", "queued", "queued_before")

    def __init__(self, filter: Filter, options: SubscriptionOptions, identifier: int, *, lasting: bool) -> None:
        """``lasting``: of a session that outlives its connection."""
        self.filter = filter
        self.options = options
        self.identifier = identifier
        self.queued = filter.share is not None or (lasting and options.qos > 0 and not filter.direct)
        """Whether a queue of the hub holds what it takes in at QoS 1 and 2."""
        self.queued_before = 0
        """What has a lower seq is in the queue all the same: it took the place of one that was queued, of which nothing
        may be lost [MQTT-3.8.4-4]."""


class ClientSession:
    """``expiry`` 0: it ends with its connection. ``will`` is published when the client goes without saying so."""

    def __init__(self, client_id: str, principal: Principal, level: int) -> None:
        self.client_id = client_id
        self.principal = principal
        self.owner = principal.name
        self.level = level
        self.expiry = 0
        self.granted: dict[str, Granted] = {}
        self.state = SessionState()
        self.connection: Connection | None = None
        self.will: Will | None = None
        self.will_due: int | None = None
        self.left: int | None = None
        self.stored = False
        self.replaces = False
        """Whether another session of the client ended for it."""
        self.sent_stored: bytes | None = b""
        """Its outbound ids as they were put into the hub's state last; None: that failed."""
        self.sent_waiting: list[Told] | None = None
        """Who waits until that is stored; None: it is."""
        self.has_queue = False
        self.held: dict[int, tuple[Delivery, Granted]] = {}
        """What its client was sent of a share at QoS 2 and has not answered, by token. Nobody else is sent it, even
        when the session ends [MQTT-4.8.2-4, MQTT-4.8.2-5]."""
        self.replayed_size = 0
        self.replayed: dict[int, tuple[Message, Granted]] = {}
        """Retained messages in flight, by token, each with the subscription it is for: no queue holds them."""

    def replay(self, token: int, message: Message, granted: Granted) -> None:
        self.replayed[token] = message, granted
        self.replayed_size += message.record.size()

    def end_replay(self, token: int) -> None:
        """The client has answered it, or cannot be told it any more."""
        message, _ = self.replayed.pop(token, (None, None))
        if message is not None:
            self.replayed_size -= message.record.size()

    @property
    def persistent(self) -> bool:
        return self.expiry > 0

    def to_store(self) -> StoredSession:
        subscriptions = [
            StoredSubscription(text, one.options, one.identifier, one.queued_before)
            for text, one in self.granted.items()
        ]
        will = StoredWill.of(self.will) if self.will is not None else None
        return StoredSession(self.owner, self.level, self.expiry, subscriptions, self.left, will, self.will_due)

    def restore(self, stored: StoredSession) -> None:
        """Take over what was stored. Raises `MqttError` for a filter that cannot be."""
        self.owner = stored.owner
        self.expiry = stored.expiry
        self.left = stored.left
        self.will = stored.will.will() if stored.will is not None else None
        self.will_due = stored.will_due
        self.stored = True
        for one in stored.subscriptions:
            granted = Granted(read_filter(one.filter), one.options, one.identifier, lasting=self.persistent)
            granted.queued_before = one.queued_before
            self.granted[one.filter] = granted

    def queue_settings(self, offline_limit: int) -> SubscriptionSettings:
        """Of the queue that holds what comes at QoS 1 and 2 while the client is away."""
        return SubscriptionSettings(
            name=self.client_id, sources=[], kind="session", dead_letters=False, offline_limit=offline_limit, expires=0
        )


def share_settings(name: str, offline_limit: int) -> SubscriptionSettings:
    return SubscriptionSettings(name=name, sources=[], kind="share", offline_limit=offline_limit, expires=0)
