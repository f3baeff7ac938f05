"""Every packet at every level, as it says and as it is written. The bytes are by hand: no codec made them."""

from __future__ import annotations

from typing import NamedTuple

from polywire.wires.mqtt.packets import (
    Acks,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionOptions,
    Unsuback,
    Unsubscribe,
    Will,
)

__all__ = ["ALL", "READ_ONLY", "WRITTEN", "Sample"]


class Sample(NamedTuple):
    name: str
    level: int
    packet: Packet
    data: bytes

    @property
    def opens(self) -> bool:
        """It is a CONNECT: a decoder learns its level from it."""
        return isinstance(self.packet, Connect)


Q0, Q1, Q2 = SubscriptionOptions(), SubscriptionOptions(1), SubscriptionOptions(2)
USER = {Property.USER_PROPERTY: [("a", "1"), ("a", "2")]}
USER_BYTES = b"\x26\0\x01a\0\x011" + b"\x26\0\x01a\0\x012"
SAID = {Property.REASON_STRING: "why"}
SAID_BYTES = b"\x1f\0\x03why"

# --- at every level --------------------------------------------------------------------------------------------------

_CONNECTS = [
    Sample("connect", 3, Connect(3, "c"), b"\x10\x0f\0\x06MQIsdp\x03\x02\0\0\0\x01c"),
    Sample("connect", 4, Connect(4, "c"), b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c"),
    Sample("connect", 5, Connect(5, "c"), b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01c"),
    Sample("connect-nameless", 4, Connect(4, ""), b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0"),
    Sample("connect-resumes", 4, Connect(4, "c", False, 60), b"\x10\x0d\0\x04MQTT\x04\x00\0\x3c\0\x01c"),
    Sample("connect-bridge", 3, Connect(3, "c", bridge=True), b"\x10\x0f\0\x06MQIsdp\x83\x02\0\0\0\x01c"),
    Sample("connect-bridge", 4, Connect(4, "c", bridge=True), b"\x10\x0d\0\x04MQTT\x84\x02\0\0\0\x01c"),
    Sample("connect-user", 3, Connect(3, "c", username="u"), b"\x10\x12\0\x06MQIsdp\x03\x82\0\0\0\x01c\0\x01u"),
    Sample(
        "connect-login",
        4,
        Connect(4, "c", username="ü", password=b"\xff\0"),
        b"\x10\x15\0\x04MQTT\x04\xc2\0\0\0\x01c" + b"\0\x02\xc3\xbc" + b"\0\x02\xff\0",
    ),
    Sample(
        "connect-empty-login",
        4,
        Connect(4, "c", username="", password=b""),
        b"\x10\x11\0\x04MQTT\x04\xc2\0\0\0\x01c" + b"\0\0\0\0",
    ),
    Sample(
        "connect-password-alone",
        5,
        Connect(5, "c", password=b"p"),
        b"\x10\x11\0\x04MQTT\x05\x42\0\0\0\0\x01c\0\x01p",
    ),
    Sample(
        "connect-will",
        3,
        Connect(3, "c", will=Will(b"w", b"gone", 1, True), username="u", password=b"p"),
        b"\x10\x1e\0\x06MQIsdp\x03\xee\0\0\0\x01c\0\x01w\0\x04gone\0\x01u\0\x01p",
    ),
    Sample(
        "connect-will",
        4,
        Connect(4, "c", will=Will(b"w", b"", 2, False)),
        b"\x10\x12\0\x04MQTT\x04\x16\0\0\0\x01c\0\x01w\0\0",
    ),
    Sample(
        "connect-everything",
        5,
        Connect(
            5,
            "c",
            False,
            65_535,
            "u",
            b"p",
            Will(
                b"w",
                b"gone",
                2,
                True,
                {
                    Property.WILL_DELAY_INTERVAL: 5,
                    Property.PAYLOAD_FORMAT_INDICATOR: 1,
                    Property.MESSAGE_EXPIRY_INTERVAL: 60,
                    Property.CONTENT_TYPE: "t",
                    Property.RESPONSE_TOPIC: "r",
                    Property.CORRELATION_DATA: b"\0",
                    **USER,
                },
            ),
            {
                Property.SESSION_EXPIRY_INTERVAL: 0xFFFFFFFF,
                Property.RECEIVE_MAXIMUM: 20,
                Property.MAXIMUM_PACKET_SIZE: 0x01000000,
                Property.TOPIC_ALIAS_MAXIMUM: 10,
                Property.REQUEST_RESPONSE_INFORMATION: 1,
                Property.REQUEST_PROBLEM_INFORMATION: 0,
                **USER,
                Property.AUTHENTICATION_METHOD: "m",
                Property.AUTHENTICATION_DATA: b"\xff",
            },
        ),
        (
            b"\x10\x6e\0\x04MQTT\x05\xf4\xff\xff"
            + (b"\x2a\x11\xff\xff\xff\xff\x21\0\x14\x27\x01\0\0\0\x22\0\x0a\x19\x01\x17\0" + USER_BYTES)
            + (b"\x15\0\x01m\x16\0\x01\xff" + b"\0\x01c")
            + (b"\x26\x18\0\0\0\x05\x01\x01\x02\0\0\0\x3c\x03\0\x01t\x08\0\x01r\x09\0\x01\0" + USER_BYTES)
            + b"\0\x01w\0\x04gone\0\x01u\0\x01p"
        ),
    ),
]

_CONNACKS = [
    Sample("connack", 3, Connack(), b"\x20\x02\0\0"),
    Sample("connack", 4, Connack(), b"\x20\x02\0\0"),
    Sample("connack", 5, Connack(), b"\x20\x03\0\0\0"),
    Sample("connack-resumed", 4, Connack(0, True), b"\x20\x02\x01\0"),
    Sample("connack-resumed", 5, Connack(0, True), b"\x20\x03\x01\0\0"),
    *(
        Sample(f"connack-refused-{code}", level, Connack(reason), bytes((0x20, 2, 0, code)))
        for level in (3, 4)
        for code, reason in enumerate((0x84, 0x85, 0x88, 0x86, 0x87), 1)
    ),
    Sample("connack-refused", 5, Connack(0x8A, False, SAID), b"\x20\x09\0\x8a\x06" + SAID_BYTES),
    Sample(
        "connack-everything",
        5,
        Connack(
            0,
            False,
            {
                Property.SESSION_EXPIRY_INTERVAL: 1,
                Property.RECEIVE_MAXIMUM: 2,
                Property.MAXIMUM_QOS: 1,
                Property.RETAIN_AVAILABLE: 0,
                Property.MAXIMUM_PACKET_SIZE: 3,
                Property.ASSIGNED_CLIENT_IDENTIFIER: "id",
                Property.TOPIC_ALIAS_MAXIMUM: 0,
                Property.REASON_STRING: "why",
                **USER,
                Property.WILDCARD_SUBSCRIPTION_AVAILABLE: 1,
                Property.SUBSCRIPTION_IDENTIFIER_AVAILABLE: 0,
                Property.SHARED_SUBSCRIPTION_AVAILABLE: 1,
                Property.SERVER_KEEP_ALIVE: 30,
                Property.RESPONSE_INFORMATION: "r",
                Property.SERVER_REFERENCE: "s",
                Property.AUTHENTICATION_METHOD: "m",
                Property.AUTHENTICATION_DATA: b"",
            },
        ),
        (
            b"\x20\x48\0\0\x45\x11\0\0\0\x01\x21\0\x02\x24\x01\x25\0\x27\0\0\0\x03\x12\0\x02id\x22\0\0"
            + (SAID_BYTES + USER_BYTES)
            + b"\x28\x01\x29\0\x2a\x01\x13\0\x1e\x1a\0\x01r\x1c\0\x01s\x15\0\x01m\x16\0\0"
        ),
    ),
]

_PUBLISHES = [
    *(
        sample
        for level, none in ((3, b""), (4, b""), (5, b"\0"))
        for sample in (
            Sample(
                "publish-0", level, Publish(b"a/b", b"hi"), bytes((0x30, 7 + len(none))) + b"\0\x03a/b" + none + b"hi"
            ),
            Sample(
                "publish-1",
                level,
                Publish(b"a/b", b"hi", 1, 10),
                bytes((0x32, 9 + len(none))) + b"\0\x03a/b\0\x0a" + none + b"hi",
            ),
            Sample(
                "publish-2-dup-retain",
                level,
                Publish(b"t", b"", 2, 0xFFFF, True, True),
                bytes((0x3D, 5 + len(none))) + b"\0\x01t\xff\xff" + none,
            ),
            Sample(
                "publish-retain",
                level,
                Publish(b"t", b"x", 0, 0, True),
                bytes((0x31, 4 + len(none))) + b"\0\x01t" + none + b"x",
            ),
            Sample("publish-nothing", level, Publish(b"", b""), bytes((0x30, 2 + len(none))) + b"\0\0" + none),
            Sample(
                "publish-unchecked-topic",
                level,
                Publish(b"\xff\0#", b"x"),
                bytes((0x30, 6 + len(none))) + b"\0\x03\xff\0#" + none + b"x",
            ),
        )
    ),
    Sample("publish-127", 4, Publish(b"t", bytes(124)), b"\x30\x7f\0\x01t" + bytes(124)),
    Sample("publish-128", 4, Publish(b"t", bytes(125)), b"\x30\x80\x01\0\x01t" + bytes(125)),
    Sample("publish-16383", 4, Publish(b"t", bytes(16_380)), b"\x30\xff\x7f\0\x01t" + bytes(16_380)),
    Sample("publish-16384", 4, Publish(b"t", bytes(16_381)), b"\x30\x80\x80\x01\0\x01t" + bytes(16_381)),
    Sample(
        "publish-properties",
        5,
        Publish(b"t", b"x", 1, 1, properties=b"\x23\0\x05" + USER_BYTES),
        b"\x32\x18\0\x01t\0\x01\x11\x23\0\x05" + USER_BYTES + b"x",
    ),
    Sample(
        "publish-properties-127",
        5,
        Publish(b"t", b"x", properties=b"\x09\0\x7c" + bytes(124)),
        b"\x30\x84\x01\0\x01t\x7f\x09\0\x7c" + bytes(124) + b"x",
    ),
    Sample(
        "publish-properties-128",
        5,
        Publish(b"t", b"x", properties=b"\x09\0\x7d" + bytes(125)),
        b"\x30\x86\x01\0\x01t\x80\x01\x09\0\x7d" + bytes(125) + b"x",
    ),
]

_FLOW = [
    sample
    for level in (3, 4, 5)
    for sample in (
        Sample("puback", level, Acks([1]), b"\x40\x02\0\x01"),
        Sample("pubrec", level, Pubrec(0x0102), b"\x50\x02\x01\x02"),
        Sample("pubrel", level, Pubrel(0xFFFF), b"\x62\x02\xff\xff"),
        Sample("pubcomp", level, Pubcomp(5), b"\x70\x02\0\x05"),
        Sample("pingreq", level, Pingreq(), b"\xc0\0"),
        Sample("pingresp", level, Pingresp(), b"\xd0\0"),
        Sample("disconnect", level, Disconnect(), b"\xe0\0"),
    )
] + [
    Sample("puback-reason", 5, Puback(1, 0x10), b"\x40\x03\0\x01\x10"),
    Sample("puback-said", 5, Puback(1, 0x87, SAID), b"\x40\x0a\0\x01\x87\x06" + SAID_BYTES),
    Sample("puback-properties", 5, Puback(1, 0, USER), b"\x40\x12\0\x01\0\x0e" + USER_BYTES),
    Sample("pubrec-reason", 5, Pubrec(1, 0x97), b"\x50\x03\0\x01\x97"),
    Sample("pubrec-said", 5, Pubrec(1, 0x99, SAID), b"\x50\x0a\0\x01\x99\x06" + SAID_BYTES),
    Sample("pubrel-reason", 5, Pubrel(1, 0x92), b"\x62\x03\0\x01\x92"),
    Sample("pubrel-said", 5, Pubrel(1, 0x92, SAID), b"\x62\x0a\0\x01\x92\x06" + SAID_BYTES),
    Sample("pubcomp-reason", 5, Pubcomp(1, 0x92), b"\x70\x03\0\x01\x92"),
    Sample("pubcomp-said", 5, Pubcomp(1, 0x92, SAID), b"\x70\x0a\0\x01\x92\x06" + SAID_BYTES),
    Sample("disconnect-will", 5, Disconnect(4), b"\xe0\x01\x04"),
    Sample(
        "disconnect-everything",
        5,
        Disconnect(0x9D, {Property.SESSION_EXPIRY_INTERVAL: 0, **SAID, **USER, Property.SERVER_REFERENCE: "s"}),
        b"\xe0\x1f\x9d\x1d\x11\0\0\0\0" + SAID_BYTES + USER_BYTES + b"\x1c\0\x01s",
    ),
    Sample("disconnect-properties", 5, Disconnect(0, SAID), b"\xe0\x08\0\x06" + SAID_BYTES),
    Sample("auth", 5, Auth(), b"\xf0\0"),
    Sample(
        "auth-continues",
        5,
        Auth(0x18, {Property.AUTHENTICATION_METHOD: "m", Property.AUTHENTICATION_DATA: b"d", **SAID, **USER}),
        b"\xf0\x1e\x18\x1c\x15\0\x01m\x16\0\x01d" + SAID_BYTES + USER_BYTES,
    ),
]

_SUBSCRIPTIONS = [
    *(
        sample
        for level in (3, 4)
        for sample in (
            # The example of 3.1.1 §3.8.3: a/b at QoS 1, c/d at QoS 2.
            Sample(
                "subscribe",
                level,
                Subscribe(10, [("a/b", Q1), ("c/d", Q2)]),
                b"\x82\x0e\0\x0a\0\x03a/b\x01\0\x03c/d\x02",
            ),
            Sample(
                "subscribe-anything",
                level,
                Subscribe(1, [("", Q0), ("#/ü", Q0)]),
                b"\x82\x0c\0\x01\0\0\0\0\x04#/\xc3\xbc\0",
            ),
            Sample("unsubscribe", level, Unsubscribe(10, ["a/b", "c/d"]), b"\xa2\x0c\0\x0a\0\x03a/b\0\x03c/d"),
            Sample("suback", level, Suback(10, [0, 1, 2, 0x80]), b"\x90\x06\0\x0a\0\x01\x02\x80"),
            Sample("unsuback", level, Unsuback(10), b"\xb0\x02\0\x0a"),
        )
    ),
    Sample("subscribe", 5, Subscribe(10, [("a/b", Q1)]), b"\x82\x09\0\x0a\0\0\x03a/b\x01"),
    Sample(
        "subscribe-everything",
        5,
        Subscribe(
            0xFFFF,
            [("$share/g/+/#", SubscriptionOptions(2, True, True, 2)), ("t", SubscriptionOptions(0, False, False, 1))],
            {Property.SUBSCRIPTION_IDENTIFIER: [268_435_455], **USER},
        ),
        b"\x82\x29\xff\xff\x13\x0b\xff\xff\xff\x7f" + USER_BYTES + b"\0\x0c$share/g/+/#\x2e\0\x01t\x10",
    ),
    Sample("unsubscribe", 5, Unsubscribe(1, ["t"], USER), b"\xa2\x14\0\x01\x0e" + USER_BYTES + b"\0\x01t"),
    Sample(
        "suback",
        5,
        Suback(1, [0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2], SAID),
        b"\x90\x15\0\x01\x06" + SAID_BYTES + b"\0\x01\x02\x80\x83\x87\x8f\x91\x97\x9e\xa1\xa2",
    ),
    Sample("unsuback", 5, Unsuback(1, [0, 0x11, 0x80], USER), b"\xb0\x14\0\x01\x0e" + USER_BYTES + b"\0\x11\x80"),
]

WRITTEN = [*_CONNECTS, *_CONNACKS, *_PUBLISHES, *_FLOW, *_SUBSCRIPTIONS]
"""As we write them."""

# --- other ways to say it --------------------------------------------------------------------------------------------

READ_ONLY = [
    Sample("acks", 4, Acks([1, 0xFFFF, 3]), b"\x40\x02\0\x01\x40\x02\xff\xff\x40\x02\0\x03"),
    Sample("acks-long", 5, Acks([1, 0xFF00]), b"\x40\x04\0\x01\0\0\x40\x04\xff\0\0\0"),
    Sample("puback-reason-alone", 5, Puback(1), b"\x40\x03\0\x01\0"),
    Sample("puback-no-properties", 5, Puback(1, 0x10), b"\x40\x04\0\x01\x10\0"),
    Sample("pubrec-long", 5, Pubrec(1), b"\x50\x04\0\x01\0\0"),
    Sample("pubrel-long", 5, Pubrel(1), b"\x62\x04\0\x01\0\0"),
    Sample("pubcomp-long", 5, Pubcomp(1), b"\x70\x04\0\x01\0\0"),
    Sample("disconnect-long", 5, Disconnect(), b"\xe0\x02\0\0"),
    Sample("auth-long", 5, Auth(), b"\xf0\x02\0\0"),
    # 3.1.1 does not ask for the shortest remaining length, and CONNECT of 3.1.1 and 3.1 neither.
    Sample("publish-long-length", 4, Publish(b"t", b"x"), b"\x30\x84\x80\x00\0\x01tx"),
    Sample("ping-long-length", 3, Pingreq(), b"\xc0\x80\x80\x80\x00"),
    Sample("connect-long-length", 4, Connect(4, "c"), b"\x10\x8d\x00\0\x04MQTT\x04\x02\0\0\0\x01c"),
    # 3.1: flags that are "not used", DUP of what has QoS 1, options' upper bits, and fields left out at the end.
    Sample("puback-unused-flags", 3, Puback(1), b"\x4f\x02\0\x01"),
    Sample("pingreq-unused-flags", 3, Pingreq(), b"\xc9\0"),
    Sample("pubrel-dup", 3, Pubrel(1), b"\x6a\x02\0\x01"),
    Sample("subscribe-dup", 3, Subscribe(1, [("t", Q1)]), b"\x8b\x06\0\x01\0\x01t\xfd"),
    Sample("unsubscribe-dup", 3, Unsubscribe(1, ["t"]), b"\xaa\x05\0\x01\0\x01t"),
    Sample("connect-unused-flag", 3, Connect(3, "c"), b"\x10\x0f\0\x06MQIsdp\x03\x03\0\0\0\x01c"),
    Sample("connect-unused-will", 3, Connect(3, "c"), b"\x10\x0f\0\x06MQIsdp\x03\x3a\0\0\0\x01c"),
    Sample("connect-user-left-out", 3, Connect(3, "c"), b"\x10\x0f\0\x06MQIsdp\x03\xc2\0\0\0\x01c"),
    Sample(
        "connect-password-left-out",
        3,
        Connect(3, "c", username="u"),
        b"\x10\x12\0\x06MQIsdp\x03\xc2\0\0\0\x01c\0\x01u",
    ),
    Sample("connack-unused-flags", 3, Connack(), b"\x20\x02\xff\0"),
]

ALL = [*WRITTEN, *READ_ONLY]
