"""The sources of all subscriptions:

which topics they take in, from when until when (docs/promises.md, "Subscriptions").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from polywire.core.address import is_pattern
from polywire.core.routing import FOREVER, Binding, Source, StoredBinding

if TYPE_CHECKING:
    from polywire.core.core import Core
    from polywire.core.subscription import Subscription
    from polywire.core.topics import Topic

__all__ = ["Bindings"]

_PATTERNS = "#"


class Bindings:
    """Binding and unbinding take their place in the order of appends: the ``start`` and ``end`` of a `Binding`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._log = core.log
        self._by_topic: dict[str, dict[Binding, None]] = {}  # by the topic they name; patterns under _PATTERNS
        self._closing: dict[Binding, None] = {}  # those with an end that no checkpoint has passed

    def add(self, subscription: Subscription, source: Source) -> None:
        """From now on."""
        self._add(Binding(subscription, source, self._log.next_seq), self._core.catalog.of(source))

    def restore(self, subscription: Subscription, stored: StoredBinding) -> None:
        """What a topic held when it lost its name may still have to be routed, so those are taken in too."""
        binding = Binding(subscription, stored.source, stored.start, stored.end)
        self._add(binding, self._core.catalog.of(stored.source, deleted=True))
        if stored.end != FOREVER:
            self._closing[binding] = None

    def _add(self, binding: Binding, topics: Sequence[Topic]) -> None:
        binding.subscription.bindings.append(binding)
        self._by_topic.setdefault(_place(binding.source), {})[binding] = None
        for topic in topics:
            binding.attach(topic)

    def end(self, binding: Binding) -> None:
        """What was appended before now is still routed to it."""
        if binding.end == FOREVER:
            binding.end = self._log.next_seq
            self._closing[binding] = None

    def go_on(self, binding: Binding) -> bool:
        """Take back the end of one, if nothing was appended since. Whether it was so."""
        if binding.end != self._log.next_seq or binding not in self._closing:
            return False
        binding.end = FOREVER
        del self._closing[binding]
        return True

    def remove(self, binding: Binding) -> None:
        self._closing.pop(binding, None)
        place = _place(binding.source)
        same = self._by_topic.get(place, {})
        same.pop(binding, None)
        if not same:
            self._by_topic.pop(place, None)
        if binding in binding.subscription.bindings:
            binding.subscription.bindings.remove(binding)
        for topic in self._core.catalog.of(binding.source, deleted=True):
            binding.detach(topic)

    def close(self, routed: int) -> list[Subscription]:
        """Remove those that ended below ``routed``, which must have been stored: a restart routes again from there.
        Returns whose they were."""
        done = [binding for binding in self._closing if binding.end <= routed]
        for binding in done:
            self.remove(binding)
        return list(dict.fromkeys(binding.subscription for binding in done))

    def taking(self, name: str) -> list[Binding]:
        """Those that take in a topic of this name."""
        patterns = [binding for binding in self._by_topic.get(_PATTERNS, ()) if binding.source.takes_topic(name)]
        return [*self._by_topic.get(name, ()), *patterns]


def _place(source: Source) -> str:
    return _PATTERNS if is_pattern(source.topic) else source.topic
