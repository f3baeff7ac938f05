"""Readers of whatever is published from now on, over any number of topics and patterns, without a cursor.

A reader has patterns of whole addresses, each with a value of its own choice. Every batch that is published is looked
up in one index of all patterns; each reader is offered, in the order of the log, runs of records that match the same of
its patterns. So a publish costs its matches, not the patterns there are, and a reader that keeps up costs nothing.

A publisher never waits for a reader. One that does not take all is behind in that topic: nothing of the topic is
offered to it until it has room; then it goes on where it stood (`polywire.core.lagging`). With a lossless pattern that
is from memory and from the log; without, from what memory still has. What is gone is told: `LiveReader.missed`.

The life of a reader: `Live.add` → `deliver`, `resume` → `Live.leave`, or `ended`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from polywire.core.access import Action, Principal
from polywire.core.address import is_own
from polywire.core.admission import check_pattern
from polywire.core.errors import Internal, Invalid, PolywireError
from polywire.core.lagging import Lagging
from polywire.core.message import Batch
from polywire.core.patterns import ANY_PLAIN, ANY_REST, ANY_WORD, Pattern, PatternIndex, Runs, Wild, lives_in_other
from polywire.core.reading import ALL, Entry, Hits, LiveReader, Reading, cut

if TYPE_CHECKING:
    from polywire.core.core import Core
    from polywire.core.topics import Topic

__all__ = ["ANY_REST", "ANY_WORD", "Live", "LiveReader", "Pattern", "Wild"]

_logger = logging.getLogger("polywire.live")
_FANOUT_SLICE = 64
_What = TypeVar("_What")


class Live:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._log = core.log
        self._index: PatternIndex[Entry] = PatternIndex()
        self._lagging = Lagging(core.log, self._index, self._fail)
        self._readings: dict[LiveReader, Reading] = {}
        self._owners: dict[Principal, tuple[dict[Reading, None], Callable[[], None]]] = {}
        self._patterns = 0

    # Readers

    def add(self, principal: Principal, pattern: Pattern, reader: LiveReader, value: Any, *, lossless: bool) -> None:
        """Deliver what matches and is committed from now on.

        ``pattern``: the topic's name as a whole, then the words of the key; one word alone means the messages without a
        key, `ANY_REST` takes those too. An address in topic ``_other`` is its key's words alone: ``("", "a")`` means
        its key ``.a``. The hub's own topics are never delivered; topics made later are, from their first message. A
        pattern that the reader has gets the new value and ``lossless`` without losing anything.

        Raises `Denied`, `Unauthenticated`, `Invalid`, `TooLarge`, `Unavailable`. All patterns of a reader are added
        by one principal.
        """
        self._core.require_running(principal)
        placed = self.allowed(principal, pattern)
        reading = self._readings.get(reader)
        if reading is None:
            reading = self._enter(reader, principal)
        elif reading.principal is not principal:
            raise ValueError("a reader belongs to the principal of its first pattern")
        entry = reading.entries.get(pattern)
        if entry is None:
            entry = Entry(reading, reading.added, self._log.uncommitted_from)
            reading.added += 1
            reading.entries[pattern] = entry
            entry.stand_at(self._index.add(placed, entry))
            self._patterns += 1
        entry.values = (value,)
        entry.lossless = lossless
        reading.sets = None

    def remove(self, pattern: Pattern, reader: LiveReader) -> None:
        """What is not known is ignored. With its last pattern the reader leaves."""
        reading = self._readings.get(reader)
        if reading is not None and pattern in reading.entries:
            self._take_away(reading, pattern)
            if not reading.entries:
                self.leave(reader)

    def leave(self, reader: LiveReader) -> None:
        """Nothing is delivered to it from now on."""
        reading = self._readings.pop(reader, None)
        if reading is None:
            return
        for pattern in list(reading.entries):
            self._take_away(reading, pattern)
        self._lagging.leave(reading)
        readings, forget = self._owners[reading.principal]
        readings.pop(reading, None)
        if not readings:
            forget()
            del self._owners[reading.principal]

    def resume(self, reader: LiveReader) -> None:
        """It has room again: what it did not take comes, soon. Without effect for one that is not behind."""
        reading = self._readings.get(reader)
        if reading is not None:
            self._lagging.resume(reading)

    def forget(self, topic: Topic) -> None:
        """It was deleted."""
        self._lagging.forget(topic)

    def end(self, error: PolywireError) -> None:
        """All readers."""
        for reader in list(self._readings):
            self._end(reader, error)
        self._lagging.stop()

    def metrics(self) -> dict[str, float]:
        return {
            "live_readers": len(self._readings),
            "live_patterns": self._patterns,
            "live_readers_behind": len(self._lagging),
            "live_messages_missed": self._lagging.missed,
        }

    def _enter(self, reader: LiveReader, principal: Principal) -> Reading:
        reading = self._readings[reader] = Reading(reader, principal)
        if principal not in self._owners:
            self._owners[principal] = {}, principal.on_revoked(lambda: self._narrowed(principal))
        self._owners[principal][0][reading] = None
        return reading

    def _take_away(self, reading: Reading, pattern: Pattern) -> None:
        entry = reading.entries.pop(pattern)
        entry.go()
        self._step_off(entry)
        reading.sets = None
        self._patterns -= 1

    def _step_off(self, entry: Entry) -> None:
        if entry.step_off():
            self._index.emptied(entry.node)

    def _fail(self, reading: Reading, error: Exception) -> None:
        if not isinstance(error, PolywireError):
            _logger.error("a live reader failed", exc_info=error)
            error = Internal(f"the reader failed: {error}")
        self._end(reading.reader, error)

    def _end(self, reader: LiveReader, error: PolywireError) -> None:
        if reader in self._readings:
            self.leave(reader)
            _guarded(reader.ended, error)

    # Access

    def allowed(self, principal: Principal, pattern: Pattern) -> Pattern:
        """The pattern as it is looked up for this principal. Raises `Denied`, `Unauthenticated`, `Invalid`, `TooLarge`.

        "Any topic" is one word of a pattern, but several of the dotted address where the topic's name has dots. Who may
        see ``*.x`` alone gets the topics with one word.
        """
        _check(pattern, self._core)
        first, rest = pattern[0], pattern[1:]
        access = self._core.access
        access.require(principal, Action.SUBSCRIBE, _dotted(pattern))
        # "*.#" means every address there is, since all have a first word.
        if first is not ANY_WORD or rest == (ANY_REST,):
            return pattern
        wide = access.allows(principal, Action.SUBSCRIBE, _dotted((ANY_REST, *rest)))
        return pattern if wide else (ANY_PLAIN, *rest)

    def _narrowed(self, principal: Principal) -> None:
        """Permissions were taken away: first all that falls with them goes, then the readers are told."""
        removed: list[tuple[LiveReader, Pattern, tuple[Any, ...], PolywireError]] = []
        for reading in list(self._owners[principal][0]):
            for pattern, entry in list(reading.entries.items()):
                try:
                    placed = self.allowed(principal, pattern)
                except PolywireError as error:
                    removed.append((reading.reader, pattern, entry.values, error))
                    self.remove(pattern, reading.reader)
                else:
                    if placed[0] is ANY_PLAIN:  # perhaps it saw more before
                        self._step_off(entry)
                        entry.stand_at(self._index.add(placed, entry))
        for reader, pattern, (value,), why in removed:
            _guarded(reader.removed, pattern, value, why)

    # Publication

    def publish(self, topic: Topic, batch: Batch) -> Iterator[None]:
        """Offer a batch to who wants it. Called by the log once for each batch, in order; yields between slices."""
        if topic.offered < batch.offset:
            # Between are commits that failed, or what a fault kept from being published.
            for earlier in list(topic.tail.from_(topic.offered)):
                if topic.offered <= earlier.offset < batch.offset:
                    yield from self._publish(topic, earlier)
        yield from self._publish(topic, batch)

    def _publish(self, topic: Topic, batch: Batch) -> Iterator[None]:
        self._lagging.publishing = topic
        try:
            if self._readings and not is_own(topic.name):
                hits = yield from self._index.runs(topic.name, batch.records, 0, len(batch))
                yield from self._fan_out(topic, batch, hits)
                yield from self._lagging.hand_over(topic, batch, hits)
        finally:
            topic.offered = batch.offset + len(batch)
            self._lagging.published()

    def _fan_out(self, topic: Topic, batch: Batch, hits: Hits) -> Iterator[None]:
        """Whoever comes or goes between slices: each reader gets a record once, and nothing once it has left."""
        several: dict[Reading, list[tuple[Entry, Runs]]] = {}  # readers that more than one of the nodes may lead to
        number = 0
        for node, runs in hits.items():
            for entry in node.entries.copy():
                if entry.start > batch.seq:
                    continue
                reading = entry.reading
                if len(reading.entries) > 1:
                    several.setdefault(reading, []).append((entry, runs))
                elif reading.lags is None or topic not in reading.lags:
                    self._offer(reading, topic, batch, entry.give, runs)
                number += 1
                if number % _FANOUT_SLICE == 0:
                    yield
        for reading, wanted in several.items():
            if reading.lags is None or topic not in reading.lags:
                self._offer(reading, topic, batch, reading.give, cut(wanted, batch.seq, 0))
            number += 1
            if number % _FANOUT_SLICE == 0:
                yield

    def _offer(
        self, reading: Reading, topic: Topic, batch: Batch, give: Callable[[Batch, _What], int], what: _What
    ) -> None:
        """One reader's fault must not reach the others, nor the log that calls."""
        try:
            stop = give(batch, what)
        except Exception as error:  # noqa: BLE001 - logged there
            self._fail(reading, error)
            return
        if stop != ALL and reading.entries:
            self._lagging.begin(reading, topic, batch.offset + stop)


def _check(pattern: Pattern, core: Core) -> None:
    """Raises `Invalid`, `TooLarge`."""
    if not pattern or any(word is ANY_REST for word in pattern[:-1]):
        raise Invalid(f"not a pattern of addresses: {pattern!r:.80}", hint="only the last word may mean all the rest")
    first = pattern[0]
    of_key = pattern if isinstance(first, str) and lives_in_other(first) else pattern[1:]
    check_pattern(_joined(of_key), core.limits)


def _dotted(pattern: Pattern) -> str:
    """As access is asked about it. What lies in topic `_other` is named so."""
    first = pattern[0]
    return f"_other.{_joined(pattern)}" if isinstance(first, str) and lives_in_other(first) else _joined(pattern)


def _joined(words: Pattern) -> str:
    return ".".join([word if isinstance(word, str) else word.text for word in words])


def _guarded(callback: Callable[..., None], *arguments: object) -> None:
    try:
        callback(*arguments)
    except Exception:
        _logger.exception("a live reader failed")
