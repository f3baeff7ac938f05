"""Batches in memory in ascending order, found by offset or by sequence number."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from polywire.core.message import Batch

__all__ = ["Run"]


_GONE = Batch(topic="", topic_id=-1, epoch=0, seq=-1, offset=-1, appended=0, records=[])


class Run:
    """A queue of batches with look-up by number. Taking from the front is amortised O(1)."""

    __slots__ = ("_batches", "_first", "_numbers")

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._batches: list[Batch] = []  # taken ones are `_GONE` until they are cut off: they may be large
        self._first = 0

    def __len__(self) -> int:
        return len(self._batches) - self._first

    def push(self, number: int, batch: Batch) -> None:
        """``number`` is greater than all before it."""
        self._numbers.append(number)
        self._batches.append(batch)

    def front(self) -> Batch:
        return self._batches[self._first]

    def pop_front(self) -> Batch:
        batch = self.front()
        self._batches[self._first] = _GONE
        self._first += 1
        if self._first > 64 and self._first * 2 > len(self._batches):
            del self._batches[: self._first]
            del self._numbers[: self._first]
            self._first = 0
        return batch

    def first_number(self) -> int | None:
        return self._numbers[self._first] if self else None

    def find(self, number: int) -> Batch | None:
        """The batch that begins at or last before ``number``; whether it reaches so far is the caller's question."""
        at = bisect_right(self._numbers, number, self._first) - 1
        return self._batches[at] if at >= self._first else None

    def discard(self, number: int) -> None:
        """Let go of the batch pushed under this number; its place is cut off later, by `keep` or at the front."""
        at = bisect_right(self._numbers, number, self._first) - 1
        if at >= self._first and self._numbers[at] == number:
            self._batches[at] = _GONE

    def from_(self, number: int) -> Iterator[Batch]:
        """Batches from the one that `find` gives on, or from the front."""
        at = max(self._first, bisect_right(self._numbers, number, self._first) - 1)
        while at < len(self._batches):
            yield self._batches[at]
            at += 1

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches[self._first :])

    def keep(self, wanted: set[int]) -> None:
        """Forget all batches but those whose ``id()`` is wanted."""
        kept = [(n, b) for n, b in zip(self._numbers[self._first :], self, strict=True) if id(b) in wanted]
        self._numbers = [n for n, _ in kept]
        self._batches = [b for _, b in kept]
        self._first = 0
