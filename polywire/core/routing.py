"""Which subscriptions hold a message, decided once, when it is appended (docs/promises.md, "Subscriptions")."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from polywire.core.address import covers, is_reserved
from polywire.core.message import Batch, Record

if TYPE_CHECKING:
    from polywire.core.subscription import Subscription
    from polywire.core.topics import Topic

__all__ = ["Binding", "Source", "route"]

FOREVER = (1 << 63) - 1


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a subscription takes in.

    ``topic``: a name or a pattern of names; ``key``: a pattern of keys, None for all; ``headers``: names and values
    that must be there.
    """

    topic: str
    key: str | None = None
    headers: dict[str, str] = {}

    def takes_topic(self, name: str) -> bool:
        """Patterns leave out the hub's own topics, whose names are reserved."""
        return self.topic == name or (not is_reserved(name) and covers(self.topic, name))

    def takes_headers(self, record: Record) -> bool:
        return all((name, value) in record.headers for name, value in self.headers.items())


class StoredBinding(msgspec.Struct, frozen=True):
    source: Source
    start: int
    end: int = FOREVER


class Binding:
    """A source of a subscription, for the messages with ``start <= seq < end``."""

    __slots__ = ("end", "filters", "source", "start", "subscription")

    def __init__(self, subscription: Subscription, source: Source, start: int, end: int = FOREVER) -> None:
        self.subscription = subscription
        self.source = source
        self.start = start
        self.end = end
        self.filters = source.key is not None or bool(source.headers)

    def stored(self) -> StoredBinding:
        return StoredBinding(self.source, self.start, self.end)

    def attach(self, topic: Topic) -> None:
        if self.source.key is not None:
            topic.filtered.add(self.source.key, self)
        else:
            topic.bindings[self] = None

    def detach(self, topic: Topic) -> None:
        if self.source.key is not None:
            topic.filtered.remove(self.source.key, self)
        else:
            topic.bindings.pop(self, None)


Wanted = Callable[["Subscription", int], bool]
"""Whether this seq may still be routed to this subscription; recovery leaves out what it has already."""


def route(topic: Topic, batch: Batch, woken: dict[Subscription, None], wanted: Wanted | None = None) -> None:
    """Add the batch to the pending list of every subscription that takes it; they are added to ``woken``."""
    for binding in topic.bindings:
        if wanted is None and not binding.filters:
            _route_whole(binding, batch, topic.volatile, woken)
        else:
            for index in range(len(batch)):
                _route_one(binding, batch, index, topic.volatile, woken, wanted)
    if topic.filtered:
        match = topic.filtered.match
        for index, record in enumerate(batch.records):
            for binding in match(record.key):
                _route_one(binding, batch, index, topic.volatile, woken, wanted)


def _route_whole(binding: Binding, batch: Batch, volatile: bool, woken: dict[Subscription, None]) -> None:
    first = max(batch.seq, binding.start)
    end = min(batch.seq + len(batch), binding.end)
    if first < end:
        binding.subscription.hold(first, end - first, volatile=volatile)
        woken[binding.subscription] = None


def _route_one(
    binding: Binding, batch: Batch, index: int, volatile: bool, woken: dict[Subscription, None], wanted: Wanted | None
) -> None:
    seq = batch.seq + index
    if not binding.start <= seq < binding.end:
        return
    if binding.source.headers and not binding.source.takes_headers(batch.records[index]):
        return
    if wanted is None or wanted(binding.subscription, seq):
        binding.subscription.hold(seq, 1, volatile=volatile)
        woken[binding.subscription] = None
