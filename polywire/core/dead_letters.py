"""What a dead letter tells of its life, and how a redriven message gets its old shape back.

A dead letter is a copy of the message in topic ``_dead``, under the name of its subscription (`dead_name`) as key, with
a trail of headers. Which of them wait to be looked at is the pending list of a subscription of kind ``dead``: so they
are listed, purged and moved like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from polywire.core.errors import Invalid
from polywire.core.message import Flag, Header, Message, Record
from polywire.core.position import Position

if TYPE_CHECKING:
    from polywire.core.subscription import Delivery

__all__ = ["DEAD", "RETRY", "dead_letter", "dead_name", "original", "restored", "unrefusable", "whose"]

DEAD = "_dead"
"""The topic of dead letters; the key is the `dead_name` of the subscription."""
RETRY = "_retry"
"""The topic by which a redriven message reaches its subscription, and no other; the key is as in `DEAD`."""
_TRAIL = frozenset(
    f"polywire-{name}" for name in ("topic", "key", "position", "reason", "attempts", "subscription", "kind", "time")
)
_KINDS = frozenset(("queue", "group", "session", "share", "webhook", "dead", "jobs"))
_TOPIC = "topic"  # in place of a kind: what no topic could take
_REASON = 1_000  # characters kept of a reason


def dead_name(kind: str, name: str) -> str:
    """How dead letters of a subscription are known: by its name if it is a queue, else as ``share:NAME``.

    A queue whose own name looks like that is ``queue:NAME``, so that no two subscriptions share one.
    """
    prefix, colon, _ = name.partition(":")
    mistakable = colon and (prefix in _KINDS or prefix == _TOPIC)
    return name if kind == "queue" and not mistakable else f"{kind}:{name}"


def whose(dead_name: str) -> tuple[str, str]:
    """The kind and name of the subscription."""
    kind, colon, name = dead_name.partition(":")
    return (kind, name) if colon and kind in _KINDS else ("queue", dead_name)


def dead_letter(delivery: Delivery, reason: str, now: int) -> Record:
    message, subscription = delivery.message, delivery.subscription
    kind = subscription.settings.kind
    trail: list[Header] = [
        ("polywire-subscription", subscription.name),
        ("polywire-topic", message.topic),
        ("polywire-position", str(message.position)),
        ("polywire-reason", reason[:_REASON]),
        ("polywire-attempts", delivery.attempt),
        ("polywire-time", now),
    ]
    if kind != "queue":
        trail.append(("polywire-kind", kind))
    return _copy(message.record, trail, dead_name(kind, subscription.name).encode())


def unrefusable(topic: str, record: Record, reason: str, now: int) -> Record:
    """What a wire could not refuse and a topic could not take."""
    trail: list[Header] = [("polywire-topic", topic), ("polywire-reason", reason[:_REASON]), ("polywire-time", now)]
    return _copy(record, trail, f"{_TOPIC}:{topic}".encode())


def _copy(record: Record, trail: list[Header], key: bytes) -> Record:
    """Retained, idempotency and expiry belong to the first publish; a dead letter must not have them."""
    copy = msgspec.structs.replace(record)
    if record.key is not None:
        trail.append(("polywire-key", _readable(record.key)))
    copy.headers = [*_without_trail(record), *trail]
    copy.key = key
    copy.flags &= ~(Flag.DEDUP | Flag.RETAINED)
    copy.expires = None
    return copy


def original(message: Message) -> Message:
    """The message as it was first published: a redriven one shows its old topic, key and position again."""
    return restored(message) if message.topic == RETRY else message


def restored(message: Message) -> Message:
    """A dead letter or redriven message without its trail, under the topic, key and position it had."""
    trail = dict(header for header in message.record.headers if header[0] in _TRAIL)
    key = trail.get("polywire-key")
    record = msgspec.structs.replace(message.record)
    record.key = key.encode() if isinstance(key, str) else key
    record.headers = _without_trail(record)
    try:
        position = Position.parse(str(trail.get("polywire-position")))
    except Invalid:
        position = message.position
    return Message(str(trail.get("polywire-topic", message.topic)), record, message.seq, position, message.appended)


def _readable(key: bytes) -> str | bytes:
    """Text wherever a key is text, for those who read the headers."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key


def _without_trail(record: Record) -> list[Header]:
    return [header for header in record.headers if header[0] not in _TRAIL]
