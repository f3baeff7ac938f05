"""Which subscriptions hold a message, decided once, when it is appended (docs/promises.md, "Subscriptions")."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from polywire.core.address import covers, is_reserved
from polywire.core.dead_letters import RETRY
from polywire.core.message import Batch, Flag, Record

if TYPE_CHECKING:
    from polywire.core.subscription import Subscription
    from polywire.core.topics import Topic

__all__ = ["Binding", "Source", "route"]

FOREVER = (1 << 63) - 1


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a subscription takes in.

    ``topic``: a name or a pattern of names; ``key``: a pattern of keys, None for all; ``headers``: names and values
    that must be there. ``keyless``: only messages without a key (``key`` is None then). ``skip_volatile``: none that
    was published without a wish for durability.
    """

    topic: str
    key: str | None = None
    headers: dict[str, str] = {}
    keyless: bool = False
    skip_volatile: bool = False

    @property
    def address(self) -> str:
        """The dotted pattern of what it means, as permissions know it."""
        return self.topic if self.keyless else f"{self.topic}.{'#' if self.key is None else self.key}"

    @property
    def by_key(self) -> bool:
        """Whether keys decide what it takes."""
        return self.keyless or self.key is not None

    def takes_topic(self, name: str) -> bool:
        """Patterns leave out the hub's own topics, whose names are reserved."""
        return self.topic == name or (not is_reserved(name) and covers(self.topic, name))

    def takes(self, record: Record) -> bool:
        """Whether a record whose key it means is taken."""
        if self.skip_volatile and record.flags & Flag.VOLATILE:
            return False
        return not self.headers or all((name, value) in record.headers for name, value in self.headers.items())


class StoredBinding(msgspec.Struct, frozen=True):
    source: Source
    start: int
    end: int = FOREVER


class Binding:
    """A source of a subscription, for the messages with ``start <= seq < end``."""

    __slots__ = ("end", "picks", "source", "start", "subscription")

    def __init__(self, subscription: Subscription, source: Source, start: int, end: int = FOREVER) -> None:
        self.subscription = subscription
        self.source = source
        self.start = start
        self.end = end
        self.picks = bool(source.headers) or source.skip_volatile
        """Whether it takes only some of what its key pattern means."""

    def stored(self) -> StoredBinding:
        return StoredBinding(self.source, self.start, self.end)

    def attach(self, topic: Topic) -> None:
        if self.source.by_key:
            topic.filtered.add(self.source.key, self)
        else:
            topic.bindings[self] = None
        if self.subscription.settings.kind != "session":
            topic.shown[self] = None

    def detach(self, topic: Topic) -> None:
        if self.source.by_key:
            topic.filtered.remove(self.source.key, self)
        else:
            topic.bindings.pop(self, None)
        topic.shown.pop(self, None)


def route(topic: Topic, batch: Batch, woken: dict[Subscription, None], *, again: bool = False) -> None:
    """Add the batch to the pending list of every subscription that takes it; they are added to ``woken``.

    ``again``: recovery routes what was routed before. A subscription is left what it has already, and has no limit for
    the time that it is away: what its consumer may have had then must not be lost.
    """
    routing = _Routing(batch, topic, woken, again)
    for binding in topic.bindings:
        routing.offer(binding, 0, len(batch))
    if topic.filtered:
        _by_key(topic.filtered.match, batch, routing)
    for subscription, seqs in routing.away.items():
        if subscription.hold_while_away(sorted(seqs), volatile=topic.volatile):
            woken[subscription] = None


def _by_key(match: Callable[[bytes | None], tuple[Binding, ...]], batch: Batch, routing: _Routing) -> None:
    """Neighbours that mean the same to all sources are offered together."""
    first = 0
    matched: tuple[Binding, ...] = ()
    for index, record in enumerate(batch.records):
        found = match(record.key)
        if found is not matched:
            for binding in matched:
                routing.offer(binding, first, index)
            matched, first = found, index
    for binding in matched:
        routing.offer(binding, first, len(batch))


class _Routing:
    """Of one batch. ``away``: what subscriptions with a limit for the time without consumers are offered."""

    __slots__ = ("_again", "_batch", "_limited", "_volatile", "_woken", "away")

    def __init__(self, batch: Batch, topic: Topic, woken: dict[Subscription, None], again: bool) -> None:
        self._batch = batch
        self._volatile = topic.volatile
        self._woken = woken
        self._again = again
        self._limited = not again and topic.name != RETRY  # what is redriven was held before
        self.away: dict[Subscription, set[int]] = {}

    def offer(self, binding: Binding, first: int, end: int) -> None:
        """The records ``[first, end)`` of the batch, whose keys the binding means."""
        subscription, seq = binding.subscription, self._batch.seq
        start = binding.start if not self._again else max(binding.start, subscription.through)
        first, end = max(first, start - seq), min(end, binding.end - seq)
        if first >= end:
            return
        if not binding.picks:
            self._hold(subscription, seq + first, end - first)
            return
        takes, records = binding.source.takes, self._batch.records
        held = first
        for index in range(first, end):
            if not takes(records[index]):
                if held < index:
                    self._hold(subscription, seq + held, index - held)
                held = index + 1
        if held < end:
            self._hold(subscription, seq + held, end - held)

    def _hold(self, subscription: Subscription, seq: int, count: int) -> None:
        if self._limited and subscription.away:
            # All its sources are asked first: a message that several take is held, or dropped, once.
            self.away.setdefault(subscription, set()).update(range(seq, seq + count))
        else:
            subscription.hold(seq, count, volatile=self._volatile)
            self._woken[subscription] = None
