"""Reason codes (MQTT 5 §2.4), what each means in words, and the return codes of 3.1 and 3.1.1 in their place."""

from __future__ import annotations

from typing import Final

__all__ = ["TEXTS", "MqttError", "Reason", "connack_code", "connack_reason"]


class Reason:
    """Plain integers: they are compared with bytes that came over the network."""

    SUCCESS: Final = 0x00
    GRANTED_QOS_1: Final = 0x01
    GRANTED_QOS_2: Final = 0x02
    DISCONNECT_WITH_WILL: Final = 0x04
    NO_MATCHING_SUBSCRIBERS: Final = 0x10
    NO_SUBSCRIPTION_EXISTED: Final = 0x11
    CONTINUE_AUTHENTICATION: Final = 0x18
    RE_AUTHENTICATE: Final = 0x19
    UNSPECIFIED_ERROR: Final = 0x80
    MALFORMED_PACKET: Final = 0x81
    PROTOCOL_ERROR: Final = 0x82
    IMPLEMENTATION_SPECIFIC_ERROR: Final = 0x83
    UNSUPPORTED_PROTOCOL_VERSION: Final = 0x84
    CLIENT_IDENTIFIER_NOT_VALID: Final = 0x85
    BAD_USER_NAME_OR_PASSWORD: Final = 0x86
    NOT_AUTHORIZED: Final = 0x87
    SERVER_UNAVAILABLE: Final = 0x88
    SERVER_BUSY: Final = 0x89
    BANNED: Final = 0x8A
    SERVER_SHUTTING_DOWN: Final = 0x8B
    BAD_AUTHENTICATION_METHOD: Final = 0x8C
    KEEP_ALIVE_TIMEOUT: Final = 0x8D
    SESSION_TAKEN_OVER: Final = 0x8E
    TOPIC_FILTER_INVALID: Final = 0x8F
    TOPIC_NAME_INVALID: Final = 0x90
    PACKET_IDENTIFIER_IN_USE: Final = 0x91
    PACKET_IDENTIFIER_NOT_FOUND: Final = 0x92
    RECEIVE_MAXIMUM_EXCEEDED: Final = 0x93
    TOPIC_ALIAS_INVALID: Final = 0x94
    PACKET_TOO_LARGE: Final = 0x95
    MESSAGE_RATE_TOO_HIGH: Final = 0x96
    QUOTA_EXCEEDED: Final = 0x97
    ADMINISTRATIVE_ACTION: Final = 0x98
    PAYLOAD_FORMAT_INVALID: Final = 0x99
    RETAIN_NOT_SUPPORTED: Final = 0x9A
    QOS_NOT_SUPPORTED: Final = 0x9B
    USE_ANOTHER_SERVER: Final = 0x9C
    SERVER_MOVED: Final = 0x9D
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED: Final = 0x9E
    CONNECTION_RATE_EXCEEDED: Final = 0x9F
    MAXIMUM_CONNECT_TIME: Final = 0xA0
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED: Final = 0xA1
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED: Final = 0xA2


TEXTS: Final[dict[int, str]] = {
    value: name.replace("_", " ").lower() for name, value in vars(Reason).items() if isinstance(value, int)
}


class MqttError(Exception):
    """What a peer did wrong, by the reason code that names it; ``detail`` says what and where, for the peer to read.

    Raised by the codec and the session. It ends the connection (MQTT 5 §4.13), and that one alone.
    """

    def __init__(self, reason: int, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


_CONNACK: Final[dict[int, int]] = {
    Reason.SUCCESS: 0,
    Reason.UNSUPPORTED_PROTOCOL_VERSION: 1,
    Reason.CLIENT_IDENTIFIER_NOT_VALID: 2,
    Reason.SERVER_UNAVAILABLE: 3,
    Reason.SERVER_BUSY: 3,
    Reason.SERVER_SHUTTING_DOWN: 3,
    Reason.UNSPECIFIED_ERROR: 3,
    Reason.QUOTA_EXCEEDED: 3,
    Reason.CONNECTION_RATE_EXCEEDED: 3,
    Reason.BAD_USER_NAME_OR_PASSWORD: 4,
    Reason.NOT_AUTHORIZED: 5,
    Reason.BANNED: 5,
}

_FROM_CONNACK: Final[dict[int, int]] = {
    0: Reason.SUCCESS,
    1: Reason.UNSUPPORTED_PROTOCOL_VERSION,
    2: Reason.CLIENT_IDENTIFIER_NOT_VALID,
    3: Reason.SERVER_UNAVAILABLE,
    4: Reason.BAD_USER_NAME_OR_PASSWORD,
    5: Reason.NOT_AUTHORIZED,
}


def connack_code(reason: int) -> int | None:
    """The return code of 3.1 and 3.1.1 (§3.2.2.3) for a reason; None: there is none, close without CONNACK."""
    return _CONNACK.get(reason)


def connack_reason(code: int) -> int | None:
    """The reason that a return code of 3.1 and 3.1.1 stands for; None: there is no such code."""
    return _FROM_CONNACK.get(code)
