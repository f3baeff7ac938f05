"""What a queue still holds: a sparse bitmap over the hub's sequence numbers.

Ten million pending messages in a row take about 2 MB; a message that nobody holds takes nothing. The bitmap is cut
into chunks of `CHUNK` numbers, and only chunks that changed are written (`polywire.core.engine.PendingChunk`). What is
known of single messages beyond "pending" (attempts, when it is due again) is kept beside it, for those messages only.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

import msgspec

__all__ = ["CHUNK", "Extra", "Pending"]

CHUNK = 1024
_BYTES = CHUNK // 8


class Extra(msgspec.Struct, array_like=True, gc=False):
    attempts: int = 0
    due: int = 0  # ms since the epoch; 0: at once


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[int, Extra]).decode


class Pending:
    __slots__ = ("_bits", "_chunks", "_volatile", "count", "dirty", "extras")

    def __init__(self) -> None:
        self.count = 0
        self.extras: dict[int, Extra] = {}
        self.dirty: set[int] = set()
        self._bits: dict[int, int] = {}
        self._volatile: dict[int, int] = {}  # messages of memory topics: never stored
        self._chunks: list[int] = []  # keys of _bits, ascending

    def __contains__(self, seq: int) -> bool:
        return bool(self._bits.get(seq // CHUNK, 0) >> (seq % CHUNK) & 1)

    def add(self, seq: int, *, volatile: bool = False) -> bool:
        """True if it was not pending before."""
        return self.add_range(seq, 1, volatile=volatile) == 1

    def add_range(self, seq: int, count: int, *, volatile: bool = False) -> int:
        """How many of ``[seq, seq + count)`` were not pending before."""
        added = 0
        while count > 0:
            chunk, first = divmod(seq, CHUNK)
            here = min(count, CHUNK - first)
            added += self._or(chunk, ((1 << here) - 1) << first, volatile)
            seq += here
            count -= here
        return added

    def _or(self, chunk: int, mask: int, volatile: bool) -> int:
        before = self._bits.get(chunk)
        if before is None:
            if self._chunks and chunk < self._chunks[-1]:
                insort(self._chunks, chunk)
            else:
                self._chunks.append(chunk)
            before = 0
        self._bits[chunk] = before | mask
        if volatile:
            self._volatile[chunk] = self._volatile.get(chunk, 0) | mask
        else:
            self.dirty.add(chunk)
        added = (mask & ~before).bit_count()
        self.count += added
        return added

    def discard(self, seq: int) -> bool:
        """True if it was pending."""
        return self.discard_range(seq, 1) == 1

    def discard_range(self, seq: int, count: int) -> int:
        removed = 0
        while count > 0:
            chunk, first = divmod(seq, CHUNK)
            here = min(count, CHUNK - first)
            removed += self._clear(chunk, ((1 << here) - 1) << first)
            seq += here
            count -= here
        return removed

    def _clear(self, chunk: int, mask: int) -> int:
        before = self._bits.get(chunk, 0)
        gone = before & mask
        if not gone:
            return 0
        left = before ^ gone
        if left:
            self._bits[chunk] = left
        else:
            del self._bits[chunk]
            del self._chunks[bisect_left(self._chunks, chunk)]
        self.dirty.add(chunk)
        if self._volatile:
            self._clear_volatile(chunk, gone)
        if self.extras:
            self._clear_extras(chunk, gone)
        removed = gone.bit_count()
        self.count -= removed
        return removed

    def _clear_volatile(self, chunk: int, gone: int) -> None:
        left = self._volatile.get(chunk, 0) & ~gone
        if left:
            self._volatile[chunk] = left
        else:
            self._volatile.pop(chunk, None)

    def _clear_extras(self, chunk: int, gone: int) -> None:
        if gone.bit_count() < len(self.extras):
            for seq in _ones(chunk, gone):
                self.extras.pop(seq, None)
        else:
            base = chunk * CHUNK
            for seq in [s for s in self.extras if 0 <= s - base < CHUNK and gone >> (s - base) & 1]:
                del self.extras[seq]

    def touch(self, seq: int) -> None:
        """What `extras` says of this message changed."""
        self.dirty.add(seq // CHUNK)

    def next_from(self, seq: int) -> int | None:
        """The least pending number that is not less than ``seq``."""
        chunk, first = divmod(seq, CHUNK)
        bits = self._bits.get(chunk, 0) >> first
        if bits:
            return seq + (bits & -bits).bit_length() - 1
        at = bisect_left(self._chunks, chunk + 1)
        if at == len(self._chunks):
            return None
        chunk = self._chunks[at]
        bits = self._bits[chunk]
        return chunk * CHUNK + (bits & -bits).bit_length() - 1

    def from_(self, seq: int) -> Iterator[int]:
        """Pending numbers from ``seq`` on; the list must not change meanwhile."""
        chunk, first = divmod(seq, CHUNK)
        for at in range(bisect_left(self._chunks, chunk), len(self._chunks)):
            number = self._chunks[at]
            bits = self._bits[number]
            yield from _ones(number, bits >> first << first if number == chunk else bits)

    def holds(self, seq: int, count: int) -> bool:
        """Whether any of ``[seq, seq + count)`` is pending."""
        following = self.next_from(seq)
        return following is not None and following < seq + count

    def clear(self, *, keep: Iterable[int] = ()) -> int:
        """Forget all but these. Returns how many were forgotten."""
        kept: dict[int, int] = {}
        for seq in keep:
            kept[seq // CHUNK] = kept.get(seq // CHUNK, 0) | 1 << seq % CHUNK
        return sum(self._clear(chunk, ~kept.get(chunk, 0)) for chunk in list(self._chunks))

    def take_dirty(self) -> list[tuple[int, bytes, bytes]]:
        """``(chunk, bits, extras)`` of what changed since the last call, as it is to be stored."""
        chunks = [(chunk, *self._stored(chunk)) for chunk in sorted(self.dirty)]
        self.dirty.clear()
        return chunks

    def _stored(self, chunk: int) -> tuple[bytes, bytes]:
        bits = self._bits.get(chunk, 0) & ~self._volatile.get(chunk, 0)
        if not bits:
            return b"", b""
        base = chunk * CHUNK
        kept = {s: e for s, e in self.extras.items() if 0 <= s - base < CHUNK and bits >> (s - base) & 1}
        return bits.to_bytes(_BYTES, "little"), _encode(kept) if kept else b""

    def load(self, chunk: int, bits: bytes, extras: bytes) -> None:
        """Take in a stored chunk; raises `ValueError` for bytes that are not one."""
        if len(bits) > _BYTES:
            raise ValueError(f"a pending chunk of {len(bits)} bytes")
        if bits:
            self._or(chunk, int.from_bytes(bits, "little"), False)
        if extras:
            self.extras.update(_decode(extras))
        self.dirty.discard(chunk)


def _ones(chunk: int, bits: int) -> Iterator[int]:
    base = chunk * CHUNK
    while bits:
        low = bits & -bits
        yield base + low.bit_length() - 1
        bits ^= low
