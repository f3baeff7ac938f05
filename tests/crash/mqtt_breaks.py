"""Wires that break a promise, each in one place: the tests that judge the wire have to see them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from polywire.core.core import Core
from polywire.core.message import Flag
from polywire.wires.mqtt.queue_feed import QueueFeed
from polywire.wires.mqtt.sessions import Sessions

__all__ = ["SEEN_AS", "Break"]

Break = Callable[[pytest.MonkeyPatch], None]
LATER = 0.004
"""Seconds, after which a broken wire does what it should have done at once."""


def later(work: Callable[..., object], *arguments: Any) -> None:
    asyncio.get_running_loop().call_later(LATER, work, *arguments)


def acknowledges_too_early(patch: pytest.MonkeyPatch) -> None:
    """PUBACK and PUBREC before the commit."""
    send = Core.send

    def sent(core: Core, who: Any, topic: str, records: Any, told: Any = None) -> None:
        send(core, who, topic, records)
        if told is not None:
            asyncio.get_running_loop().call_soon(told, None)

    patch.setattr(Core, "send", sent)


def stores_ids_after_their_messages(patch: pytest.MonkeyPatch) -> None:
    """What came at QoS 2 is not in the transaction of the message."""
    store = Sessions.store_received

    def stored(sessions: Sessions, session: Any, told: Any = None, *, tied: bool = False) -> None:
        later(store, sessions, session) if tied else store(sessions, session, told)

    patch.setattr(Sessions, "store_received", stored)


def stores_ids_before_their_messages(patch: pytest.MonkeyPatch) -> None:
    send = Core.send

    def sent(core: Core, *arguments: Any) -> None:
        later(send, core, *arguments)

    patch.setattr(Core, "send", sent)


def completes_too_early(patch: pytest.MonkeyPatch) -> None:
    """PUBCOMP before it is stored that the id may mean another message."""
    store = Sessions.store_received

    def stored(sessions: Sessions, session: Any, told: Any = None, *, tied: bool = False) -> None:
        if told is None:
            store(sessions, session, tied=tied)
        else:
            told(None)
            later(store, sessions, session)

    patch.setattr(Sessions, "store_received", stored)


def publishes_too_early(patch: pytest.MonkeyPatch) -> None:
    """PUBLISH before its id is stored."""
    send = QueueFeed._send

    class AtOnce(list[bytes]):
        def __init__(self, feed: QueueFeed) -> None:
            self._feed = feed

        def append(self, packet: bytes) -> None:
            self._feed._connection.write(packet)
            later(self._feed._wire.sessions.store_sent, self._feed._session)

    def sent(feed: QueueFeed, delivery: Any, granted: Any, exactly_once: list[bytes]) -> None:
        send(feed, delivery, granted, AtOnce(feed))

    patch.setattr(QueueFeed, "_send", sent)


def releases_too_early(patch: pytest.MonkeyPatch) -> None:
    """PUBREL before its PUBREC is stored."""
    settled = QueueFeed.settled

    def released(feed: QueueFeed, entries: Any) -> None:
        feed._protocol.release([entry.id for entry in entries if entry.released])
        later(settled, feed, entries)

    patch.setattr(QueueFeed, "settled", released)


def settles_apart(patch: pytest.MonkeyPatch) -> None:
    """An acknowledgement and what becomes of its id are two commits."""
    settle = QueueFeed._settle

    def settled(feed: QueueFeed, token: int) -> None:
        later(settle, feed, token)

    patch.setattr(QueueFeed, "_settle", settled)


def opens_too_early(patch: pytest.MonkeyPatch) -> None:
    """CONNACK before its session is stored."""
    opened = Sessions.opened

    def answered(sessions: Sessions, session: Any, told: Any) -> None:
        told(None)
        later(opened, sessions, session, lambda _error: None)

    patch.setattr(Sessions, "opened", answered)


def subscribes_too_early(patch: pytest.MonkeyPatch) -> None:
    """SUBACK before the subscription is stored."""
    changed = Sessions.changed

    def answered(sessions: Sessions, session: Any, told: Any = None) -> None:
        if told is not None:
            asyncio.get_running_loop().call_soon(told, None)
        later(changed, sessions, session)

    patch.setattr(Sessions, "changed", answered)


def publishes_wills_apart(patch: pytest.MonkeyPatch) -> None:
    """A will goes in one commit, and that it went in another."""
    publish = Sessions._publish_will

    def published(sessions: Sessions, session: Any) -> None:
        will = session.will
        publish(sessions, session)
        if will is not None:
            later(forgets, sessions, session)
            session.will = will

    def forgets(sessions: Sessions, session: Any) -> None:
        session.will = None

    patch.setattr(Sessions, "_publish_will", published)


def retains_apart(patch: pytest.MonkeyPatch) -> None:
    """A message is stored and acknowledged, and retained later."""
    send = Core.send

    def sent(core: Core, who: Any, topic: str, records: Any, told: Any = None) -> None:
        plain = [msgspec.structs.replace(record, flags=record.flags & ~Flag.RETAINED) for record in records]
        send(core, who, topic, plain, told)
        if any(record.flags & Flag.RETAINED for record in records):
            later(send, core, who, topic, records)

    patch.setattr(Core, "send", sent)


def settles_shares_too_early(patch: pytest.MonkeyPatch) -> None:
    """What a member of a share is sent is settled at once."""
    take = QueueFeed.take

    def taken(feed: QueueFeed, deliveries: Any, granted: Any) -> None:
        take(feed, deliveries, granted)
        if granted is not None:
            for delivery in deliveries:
                delivery.ack()

    patch.setattr(QueueFeed, "take", taken)


def forgets_ids(patch: pytest.MonkeyPatch) -> None:
    """Packet ids are only in memory."""

    def stored(sessions: Sessions, session: Any, told: Any = None, *, tied: bool = False) -> None:
        if told is not None:
            asyncio.get_running_loop().call_soon(told, None)

    patch.setattr(Sessions, "store_received", stored)
    patch.setattr(Sessions, "store_sent", stored)


SEEN_AS = [
    (acknowledges_too_early, "is not in the log"),
    (stores_ids_after_their_messages, "is in the log 2 times"),
    (stores_ids_before_their_messages, "is not in the log"),
    (completes_too_early, "is not in the log"),
    (publishes_too_early, "both have packet id"),
    pytest.param(publishes_too_early, "2 times", marks=pytest.mark.long),
    (releases_too_early, "2 times"),
    (settles_apart, "again after it was settled"),
    (settles_apart, "2 times"),
    (opens_too_early, "Session Present"),
    (subscribes_too_early, "did not get"),
    (publishes_wills_apart, "Life("),
    (retains_apart, "retains"),
    (settles_shares_too_early, "nobody of those that share"),
]
"""With what is said of what becomes of it."""
