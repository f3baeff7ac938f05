"""Keys in order, of which some come and go: in runs, so that a change moves few of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

__all__ = ["SortedKeys"]

_RUN = 1_024


class SortedKeys:
    def __init__(self) -> None:
        self._runs: list[list[bytes]] = []
        self._last: list[bytes] = []  # of each run, which is never empty

    def __iter__(self) -> Iterator[bytes]:
        return self.from_(b"")

    def add(self, key: bytes) -> None:
        """One that is there already is ignored."""
        if not self._runs:
            self._runs, self._last = [[key]], [key]
            return
        at = min(bisect_left(self._last, key), len(self._runs) - 1)
        run = self._runs[at]
        place = bisect_left(run, key)
        if place < len(run) and run[place] == key:
            return
        run.insert(place, key)
        self._last[at] = run[-1]
        if len(run) > _RUN:
            half = len(run) // 2
            self._runs[at : at + 1] = [run[:half], run[half:]]
            self._last[at : at + 1] = [run[half - 1], run[-1]]

    def discard(self, key: bytes) -> None:
        at = bisect_left(self._last, key)
        run = self._runs[at] if at < len(self._runs) else []
        place = bisect_left(run, key)
        if place == len(run) or run[place] != key:
            return
        del run[place]
        if run:
            self._last[at] = run[-1]
        else:
            del self._runs[at], self._last[at]

    def from_(self, first: bytes) -> Iterator[bytes]:
        """Keys from ``first`` on; they must not change meanwhile."""
        at = bisect_left(self._last, first)
        if at < len(self._runs):
            run = self._runs[at]
            yield from run[bisect_left(run, first) :]
            for run in self._runs[at + 1 :]:
                yield from run
