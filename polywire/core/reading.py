"""One live reader as the core knows it: its patterns, and what of a batch is for it (see `polywire.core.live`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from polywire.core.errors import PolywireError
from polywire.core.message import Batch
from polywire.core.patterns import Node, Pattern, Runs

if TYPE_CHECKING:
    from polywire.core.access import Principal
    from polywire.core.lagging import Lag
    from polywire.core.topics import Topic

__all__ = ["ALL", "Entry", "Hits", "LiveReader", "Piece", "Reading"]

ALL = -1
"""In place of the index of the first record that was not taken: all were."""
_GONE = (1 << 63) - 1
_SETS = 256


class LiveReader(Protocol):
    """Takes what is published. Known by its identity; nothing it raises reaches others."""

    def deliver(self, batch: Batch, first: int, end: int, values: tuple[Any, ...]) -> int:
        """Take records ``[first, end)`` of the batch, which all match the patterns added with exactly these values, in
        the order they were added; the same tuple for the same patterns, as long as they stay.

        Returns how many were taken, from ``first`` on. Fewer than all: there is no room; what follows in this topic
        comes after `Live.resume`, said when this call is over. Records that have expired are among them.
        """
        ...

    def missed(self, topic: str, count: int) -> None:
        """Up to ``count`` messages of the topic can no longer be had; it goes on behind them."""
        ...

    def removed(self, pattern: Pattern, value: Any, error: PolywireError) -> None:
        """The right to this pattern was taken away; the others stay."""
        ...

    def ended(self, error: PolywireError) -> None:
        """Nothing comes any more: the hub stops, a read failed, or this reader raised something."""
        ...


class Entry:
    """A pattern of a reader, for messages from seq ``start`` on. ``at`` is its place among the entries of its node."""

    __slots__ = ("at", "lossless", "node", "number", "reading", "start", "values")

    def __init__(self, reading: Reading, number: int, start: int) -> None:
        self.reading = reading
        self.number = number
        self.start = start
        self.values: tuple[Any, ...] = ()
        self.lossless = False
        self.node: Node[Entry]
        self.at = 0

    @property
    def gone(self) -> bool:
        return self.start == _GONE

    def stand_at(self, node: Node[Entry]) -> None:
        self.node = node
        self.at = len(node.entries) - 1

    def step_off(self) -> bool:
        """Leave the node; whether it is empty now. The last entry takes this one's place: nobody has to search."""
        entries = self.node.entries
        last = entries.pop()
        if last is not self:
            entries[self.at] = last
            last.at = self.at
        return not entries

    def go(self) -> None:
        """Nothing is delivered for it any more, whoever holds it still."""
        self.start = _GONE

    def give(self, batch: Batch, runs: Runs) -> int:
        """Deliver these records to a reader with no other pattern. Returns the index of the first not taken, `ALL`."""
        for first, end in runs:
            if self.start == _GONE:
                break
            taken = self.reading.reader.deliver(batch, first, end, self.values)
            if taken < end - first:
                return first + taken
        return ALL


Hits = Mapping[Node[Entry], Runs]
Piece = tuple[int, int, tuple[Entry, ...]]
"""Records ``[first, end)`` match the patterns of these entries and no other of the reader's."""


class Reading:
    """``lags``: where it is behind; None where that is nowhere. ``busy``: it is being helped to catch up, or waits for
    that."""

    __slots__ = ("added", "busy", "entries", "lags", "principal", "reader", "sets")

    def __init__(self, reader: LiveReader, principal: Principal) -> None:
        self.reader = reader
        self.principal = principal
        self.entries: dict[Pattern, Entry] = {}
        self.added = 0
        self.lags: dict[Topic, Lag] | None = None
        self.busy = False
        self.sets: dict[tuple[Entry, ...], tuple[Any, ...]] | None = None

    @property
    def lossless(self) -> bool:
        return any(entry.lossless for entry in self.entries.values())

    def lag(self, topic: Topic) -> Lag | None:
        return self.lags.get(topic) if self.lags is not None else None

    def pieces(self, hits: Hits, seq: int, first: int) -> Iterable[Piece]:
        """What of a batch that begins with ``seq`` is for this reader, from index ``first`` on."""
        return cut([(e, runs) for e in self.entries.values() if (runs := hits.get(e.node))], seq, first)

    def give(self, batch: Batch, pieces: Iterable[Piece]) -> int:
        """Deliver the pieces. Returns the index of the first record not taken, or `ALL`."""
        for first, end, entries in pieces:
            values = self._values(entries)
            if values:
                taken = self.reader.deliver(batch, first, end, values)
                if taken < end - first:
                    return first + taken
        return ALL

    def _values(self, entries: tuple[Entry, ...]) -> tuple[Any, ...]:
        if any(entry.gone for entry in entries):
            entries = tuple(entry for entry in entries if not entry.gone)
        if len(entries) <= 1:
            return entries[0].values if entries else ()
        if self.sets is None or len(self.sets) > _SETS:
            self.sets = {}
        values = self.sets.get(entries)
        if values is None:
            values = self.sets[entries] = tuple(value for entry in entries for value in entry.values)
        return values


def cut(wanted: Sequence[tuple[Entry, Runs]], seq: int, first: int) -> Iterable[Piece]:
    """The runs of several entries as pieces, in order."""
    changes: dict[int, list[Entry]] = {}
    for entry, runs in wanted:
        low = max(first, entry.start - seq)
        for begin, end in runs:
            if end > low:
                changes.setdefault(max(begin, low), []).append(entry)
                changes.setdefault(end, []).append(entry)
    pieces: list[Piece] = []
    matching: dict[Entry, None] = {}
    before = 0
    for place in sorted(changes):
        if matching:
            pieces.append((before, place, tuple(sorted(matching, key=_number))))
        for entry in changes[place]:
            if entry in matching:
                del matching[entry]
            else:
                matching[entry] = None
        before = place
    return pieces


def _number(entry: Entry) -> int:
    return entry.number
