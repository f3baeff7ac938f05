"""What a `session.Session` is told to ask of clients, and what it tells of one: the events of a connection."""

from __future__ import annotations

import msgspec

from polywire.wires.mqtt.in_flight import Sent
from polywire.wires.mqtt.packets import Connect, Publish, Subscribe, Unsubscribe
from polywire.wires.mqtt.reasons import MqttError

__all__ = ["Broken", "Completed", "Disconnected", "Eof", "Event", "Publishes", "Release", "Rules", "Settled"]


class Rules(msgspec.Struct, frozen=True):
    """What the hub asks of every client; at level 5 it is told so in CONNACK.

    ``receive_maximum``: messages of QoS 1 and 2 from a client that are not acknowledged yet (no rule at level 3 and 4);
    ``in_flight``: the same to a client, whose own Receive Maximum may be less; ``topic_alias_maximum``: each direction.
    """

    maximum_packet_size: int
    receive_maximum: int
    topic_alias_maximum: int
    in_flight: int
    maximum_request_size: int = 128 << 10
    """Bytes of a packet that carries no message: SUBSCRIBE, say."""


class Publishes(msgspec.Struct, gc=False):
    """A run of PUBLISH, in order, with topics in place of topic aliases. At QoS 2 none is here twice."""

    publishes: list[Publish]


class Release(msgspec.Struct, gc=False):
    """PUBREL: the id is forgotten. `Session.complete`, with both, once that is stored."""

    id: int
    reason: int


class Settled(msgspec.Struct, gc=False):
    """The client has taken these or refused to: PUBACK at QoS 1, PUBREC at QoS 2. `Session.release` for those that are
    ``released``, once that is stored."""

    entries: list[Sent]


class Completed(msgspec.Struct, gc=False):
    """PUBCOMP: these ids are free."""

    ids: list[int]


class Disconnected(msgspec.Struct, gc=False):
    """The client says that it goes. ``session_expiry`` (seconds) replaces what CONNECT said; None: that holds."""

    reason: int
    keeps_will: bool
    session_expiry: int | None = None


class Broken(msgspec.Struct):
    """The client broke the protocol, and was told so if its level can be."""

    error: MqttError


class Eof(msgspec.Struct, gc=False):
    """The bytes ended without DISCONNECT."""


Event = Connect | Publishes | Release | Settled | Completed | Subscribe | Unsubscribe | Disconnected | Broken | Eof
