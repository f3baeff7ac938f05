"""What MQTT packets say, as plain data, for 3.1, 3.1.1 and 5 alike.

``level`` is the protocol level of CONNECT: 3 is MQTT 3.1 (``MQIsdp``), 4 is 3.1.1, 5 is 5. What a level cannot say has
its default. Properties (MQTT 5 §2.2.2) are a dict by `Property`; user properties are a list of pairs in their order,
subscription identifiers a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

__all__ = [
    "Acks", "Auth", "Connack", "Connect", "Disconnect", "Packet", "Pingreq", "Pingresp", "Properties", "Property",
    "Puback", "Pubcomp", "Publish", "Pubrec", "Pubrel", "Suback", "Subscribe", "SubscriptionOptions", "Unsuback",
    "Unsubscribe", "Will",
]  # fmt: skip

Properties = dict[int, Any]


class Property:
    """Identifiers of properties, MQTT 5 §2.2.2.2. Plain integers, as `polywire.core.message.Flag`."""

    PAYLOAD_FORMAT_INDICATOR: Final = 0x01
    MESSAGE_EXPIRY_INTERVAL: Final = 0x02
    CONTENT_TYPE: Final = 0x03
    RESPONSE_TOPIC: Final = 0x08
    CORRELATION_DATA: Final = 0x09
    SUBSCRIPTION_IDENTIFIER: Final = 0x0B
    SESSION_EXPIRY_INTERVAL: Final = 0x11
    ASSIGNED_CLIENT_IDENTIFIER: Final = 0x12
    SERVER_KEEP_ALIVE: Final = 0x13
    AUTHENTICATION_METHOD: Final = 0x15
    AUTHENTICATION_DATA: Final = 0x16
    REQUEST_PROBLEM_INFORMATION: Final = 0x17
    WILL_DELAY_INTERVAL: Final = 0x18
    REQUEST_RESPONSE_INFORMATION: Final = 0x19
    RESPONSE_INFORMATION: Final = 0x1A
    SERVER_REFERENCE: Final = 0x1C
    REASON_STRING: Final = 0x1F
    RECEIVE_MAXIMUM: Final = 0x21
    TOPIC_ALIAS_MAXIMUM: Final = 0x22
    TOPIC_ALIAS: Final = 0x23
    MAXIMUM_QOS: Final = 0x24
    RETAIN_AVAILABLE: Final = 0x25
    USER_PROPERTY: Final = 0x26
    MAXIMUM_PACKET_SIZE: Final = 0x27
    WILDCARD_SUBSCRIPTION_AVAILABLE: Final = 0x28
    SUBSCRIPTION_IDENTIFIER_AVAILABLE: Final = 0x29
    SHARED_SUBSCRIPTION_AVAILABLE: Final = 0x2A


class Will(msgspec.Struct):
    """``topic`` as it came: the binding checks it, as any topic that is published to."""

    topic: bytes
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = {}


class Connect(msgspec.Struct):
    """``clean_start`` is Clean Session at levels 3 and 4. ``keep_alive`` in seconds, 0: none."""

    level: int
    client_id: str
    clean_start: bool = True
    keep_alive: int = 0
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties = {}
    bridge: bool = False  # mosquitto's bridges set the highest bit of the level


class Connack(msgspec.Struct):
    reason: int = 0
    session_present: bool = False
    properties: Properties = {}


class Publish(msgspec.Struct, gc=False):
    """``topic`` as it came, unchecked; ``properties`` is the raw block without its length: `properties.read` reads it.

    ``id`` is 0 at QoS 0.
    """

    topic: bytes
    payload: bytes
    qos: int = 0
    id: int = 0
    retain: bool = False
    dup: bool = False
    properties: bytes = b""


class Acks(msgspec.Struct, gc=False):
    """A run of PUBACKs that say success and no more, which are most of what a subscriber sends."""

    ids: Sequence[int]


class Puback(msgspec.Struct, gc=False):
    id: int
    reason: int = 0
    properties: Properties = {}


class Pubrec(msgspec.Struct, gc=False):
    id: int
    reason: int = 0
    properties: Properties = {}


class Pubrel(msgspec.Struct, gc=False):
    id: int
    reason: int = 0
    properties: Properties = {}


class Pubcomp(msgspec.Struct, gc=False):
    id: int
    reason: int = 0
    properties: Properties = {}


class SubscriptionOptions(NamedTuple):
    """MQTT 5 §3.8.3.1. ``retain_handling``: 0 send retained messages, 1 only for a new subscription, 2 never."""

    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


class Subscribe(msgspec.Struct):
    """``filters``: UTF-8 is checked, what they mean is the binding's business."""

    id: int
    filters: list[tuple[str, SubscriptionOptions]]
    properties: Properties = {}


class Suback(msgspec.Struct):
    id: int
    reasons: list[int]
    properties: Properties = {}


class Unsubscribe(msgspec.Struct):
    id: int
    filters: list[str]
    properties: Properties = {}


class Unsuback(msgspec.Struct):
    """Levels 3 and 4 have no reasons."""

    id: int
    reasons: list[int] = []
    properties: Properties = {}


class Pingreq(msgspec.Struct):
    pass


class Pingresp(msgspec.Struct):
    pass


class Disconnect(msgspec.Struct):
    reason: int = 0
    properties: Properties = {}


class Auth(msgspec.Struct):
    reason: int = 0
    properties: Properties = {}


Packet = (
    Connect | Connack | Publish | Acks | Puback | Pubrec | Pubrel | Pubcomp | Subscribe | Suback | Unsubscribe
    | Unsuback | Pingreq | Pingresp | Disconnect | Auth
)  # fmt: skip
