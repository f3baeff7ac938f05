"""What ``ordered`` means: one message of each key is on its way at a time, the others of the key wait behind it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping

__all__ = ["KeyTurns"]


class KeyTurns:
    """``waiting``: how many messages wait behind another of their key."""

    __slots__ = ("_behind", "_first", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self._first: dict[bytes | None, int] = {}
        self._behind: dict[bytes | None, list[int]] = {}  # heaps

    def take(self, key: bytes | None, seq: int) -> bool:
        """Whether no other message of this key is on its way; if one is, this one waits for it."""
        if self._first.setdefault(key, seq) == seq:
            return True
        heapq.heappush(self._behind.setdefault(key, []), seq)
        self.waiting += 1
        return False

    def holds(self, key: bytes | None, seq: int) -> bool:
        return self._first.get(key) == seq

    def keys_of(self, seqs: Collection[int]) -> list[tuple[bytes | None, int]]:
        """The keys whose message on its way is one of these."""
        return [(key, seq) for key, seq in self._first.items() if seq in seqs]

    def free(self, key: bytes | None, alive: Callable[[int], bool]) -> int | None:
        """The next message of the key has its turn, if there is one still alive: so none fetched later overtakes it."""
        del self._first[key]
        behind = self._behind.get(key, [])
        following = None
        while behind and following is None:
            seq = heapq.heappop(behind)
            self.waiting -= 1
            if alive(seq):
                following = self._first[key] = seq
        if not behind:
            self._behind.pop(key, None)
        return following

    def begin_again(self, on_their_way: Mapping[bytes | None, int]) -> None:
        self.waiting = 0
        self._behind.clear()
        self._first = dict(on_their_way)
