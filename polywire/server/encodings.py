"""What a wire made of batches, kept with them for further readers, as long as those are likely to come.

A batch lives in the hub's tail much longer than that; so what is kept at one time is bounded.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from polywire.core.message import Batch

__all__ = ["Encodings"]

_BATCH = 200  # bytes that a batch takes beside its records,
_RECORD = 400  # and a record beside its own, about: what is kept with it keeps it, too


class Encodings:
    def __init__(self, kept_size: int) -> None:
        self._kept_size = kept_size
        self._size = 0
        self._kept: deque[tuple[Batch, Any, int]] = deque()

    def keep(self, batch: Batch, name: Any, value: Any, size: int) -> None:
        """``batch.encoded[name] = value``, of so many bytes; what was kept longest makes room."""
        batch.encoded[name] = value
        size += _BATCH + _RECORD * len(batch)
        self._kept.append((batch, name, size))
        self._size += size
        while self._size > self._kept_size and len(self._kept) > 1:
            oldest, its_name, its_size = self._kept.popleft()
            oldest.encoded.pop(its_name, None)
            self._size -= its_size
