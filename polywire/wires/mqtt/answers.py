"""What the hub answers a client, in the words that the packet has and in no more bytes than the client takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from polywire.wires.mqtt.codec import PACKET_IDS, encode
from polywire.wires.mqtt.packets import (
    Connack,
    Disconnect,
    Property,
    Puback,
    Pubcomp,
    Pubrec,
    Pubrel,
    Suback,
    Unsuback,
)
from polywire.wires.mqtt.reading import REASONS
from polywire.wires.mqtt.reasons import Reason

__all__ = ["ANY_SIZE", "Acknowledgement", "Answer", "encode_answer", "legal_reason", "successes"]

Acknowledgement = Puback | Pubrec | Pubrel | Pubcomp
Answer = Acknowledgement | Connack | Suback | Unsuback | Disconnect

ANY_SIZE: Final = 268_435_460
"""Bytes of the largest packet there can be (MQTT 5 §2.1.4)."""

_NEAREST: Final[dict[tuple[type, int], int]] = {
    (Connack, Reason.SERVER_SHUTTING_DOWN): Reason.SERVER_UNAVAILABLE,
    (Disconnect, Reason.SERVER_UNAVAILABLE): Reason.SERVER_BUSY,
    (Disconnect, Reason.BAD_USER_NAME_OR_PASSWORD): Reason.NOT_AUTHORIZED,
    (Disconnect, Reason.BANNED): Reason.NOT_AUTHORIZED,
}
"""For reasons that a packet has no code for. Any other such is an unspecified error."""

_ALWAYS_EXPLAINED: Final = (Connack, Disconnect)
"""They may have a reason string even where CONNECT says Request Problem Information 0 [MQTT-3.1.2-29]."""

_LONGEST_TEXT: Final = 512
_COST_OF_TEXT: Final = 8
"""Bytes that come with a reason string, at most: identifier, length, and what it adds to three other lengths."""


_HEADS: Final[dict[type[Acknowledgement], bytes]] = {
    packet: encode(packet(1), 5)[:2] for packet in (Puback, Pubrec, Pubrel, Pubcomp)
}


def successes(packet: type[Acknowledgement], ids: Iterable[int]) -> bytes:
    """One such packet for each id, that says success and no more: the same bytes at every level."""
    head = _HEADS[packet]
    return b"".join([head + PACKET_IDS[packet_id] for packet_id in ids])


def legal_reason(packet: type, reason: int) -> int:
    """The reason, or what such a packet can say in its place, at level 5 [MQTT-3.2.2-8, MQTT-3.14.2-1]."""
    if reason in REASONS[packet]:
        return reason
    return _NEAREST.get((packet, reason), Reason.UNSPECIFIED_ERROR)


def encode_answer(answer: Answer, level: int, most: int, text: str | None, *, explains: bool) -> bytes | None:
    """At most ``most`` bytes; None if it has more [MQTT-3.1.2-24].

    ``text`` becomes its reason string, at level 5 and as far as there is room for it [MQTT-3.4.2-2, MQTT-3.14.2-3];
    ``explains``: whether the client asks for problem information.
    """
    data = encode(answer, level)
    if text and level == 5 and (explains or isinstance(answer, _ALWAYS_EXPLAINED)):
        said = _cut(text, min(most - len(data) - _COST_OF_TEXT, _LONGEST_TEXT))
        if said:
            answer.properties = {**answer.properties, Property.REASON_STRING: said}
            return encode(answer, level)
    return data if len(data) <= most else None


def _cut(text: str, size: int) -> str:
    """At most so many bytes, and nothing that a string of MQTT cannot be [MQTT-1.5.4-1, MQTT-1.5.4-2]."""
    sound = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace")
    return sound[: max(0, size)].decode(errors="ignore")
