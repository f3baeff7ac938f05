"""Deduplication where it was asked for (docs/promises.md, "Once"):

the ids of a topic's recent publishes, by principal.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

import msgspec

from polywire.core.engine import StateChange
from polywire.core.errors import Conflict, PolywireError
from polywire.core.message import Receipt, Record
from polywire.core.position import Position

__all__ = ["ORIGINAL_STATE", "DedupWindow", "Original", "StoredOriginal"]

ORIGINAL_STATE = "original"

Told = Callable[["PolywireError | None"], None]


class Original:
    """A publish that later ones with its id are compared to. ``waiting`` is None once it is committed."""

    __slots__ = ("digest", "receipt", "seen", "waiting")

    def __init__(self, digest: bytes, receipt: Receipt, seen: int) -> None:
        self.digest = digest
        self.receipt = receipt
        self.seen = seen
        self.waiting: list[Told] | None = []

    def when_committed(self, told: Told) -> None:
        if self.waiting is None:
            told(None)
        else:
            self.waiting.append(told)


class StoredOriginal(msgspec.Struct, array_like=True, frozen=True):
    """A delayed publish as the engine's state knows it, under the id by which it waits, until it leaves the window.

    The log cannot tell of it: it gets there later than it was published, or never if it is cancelled.
    """

    topic_id: int
    principal: str
    id: str  # the idempotency key
    digest: bytes
    seen: int
    key: bytes | None
    due: int


def _digest(record: Record) -> bytes:
    key = record.key or b""
    hashed = blake2b(b"%d:%b" % (len(key), key), digest_size=16)
    hashed.update(record.payload)
    return hashed.digest()


def _compare(record: Record, digest: bytes) -> None:
    if digest != _digest(record):
        raise Conflict(
            f"the id {record.id[:80]!r} was used with other content",
            hint="an idempotency key names one message; use a new one",
        )


class DedupWindow:
    """Bounded by time and count, whichever is reached first."""

    def __init__(self, window: int, ids: int) -> None:
        self._window = window
        self._ids = ids
        self._seen: OrderedDict[tuple[str, str], Original] = OrderedDict()
        self._outlived: list[StateChange] = []

    def __len__(self) -> int:
        return len(self._seen)

    def find(self, principal: str, record: Record, now: int) -> Original | None:
        """The original of a duplicate. Raises `Conflict` if the id was used with another body."""
        original = self._seen.get((principal, record.id))
        if original is None or original.seen < now - self._window:
            return None
        _compare(record, original.digest)
        return original

    @staticmethod
    def compare(record: Record, first: Record) -> None:
        """Two records of one batch with the same id. Raises `Conflict` if they differ."""
        _compare(record, _digest(first))

    def remember(self, principal: str, record: Record, receipt: Receipt, now: int) -> Original:
        original = Original(_digest(record), receipt, now)
        self._put(principal, record.id, original)
        return original

    def _put(self, principal: str, id: str, original: Original) -> None:
        replaced = self._seen.pop((principal, id), None)
        if replaced is not None:
            self._leaves(replaced)
        self._seen[principal, id] = original
        oldest = original.seen - self._window
        while len(self._seen) > self._ids or next(iter(self._seen.values())).seen < oldest:
            _, left = self._seen.popitem(last=False)
            self._leaves(left)

    def _leaves(self, original: Original) -> None:
        if original.receipt.position is None:
            self._outlived.append(StateChange(ORIGINAL_STATE, original.receipt.id, None))

    def take_outlived(self) -> list[StateChange]:
        """To be stored: delayed originals that have left the window since the last call."""
        outlived, self._outlived = self._outlived, []
        return outlived

    @staticmethod
    def stored(topic_id: int, principal: str, id: str, original: Original) -> StateChange:
        """To be stored with a delayed original."""
        receipt = original.receipt
        stored = StoredOriginal(topic_id, principal, id, original.digest, original.seen, receipt.key, receipt.time)
        return StateChange(ORIGINAL_STATE, receipt.id, msgspec.msgpack.encode(stored))

    def settle(self, principal: str, id: str, original: Original, error: PolywireError | None) -> None:
        """The original is committed, or it failed and is forgotten."""
        waiting, original.waiting = original.waiting or [], None
        if error is not None and self._seen.get((principal, id)) is original:
            del self._seen[principal, id]
        for told in waiting:
            told(error)

    def restore(self, record: Record, topic: str, position: Position | None, appended: int) -> None:
        """Take in a message found in the log after a restart."""
        principal = record.origin.principal if record.origin else ""
        receipt = Receipt(record.id, topic, record.key, position, appended)
        self.remember(principal, record, receipt, appended).waiting = None

    def restore_delayed(self, waits_as: str, stored: StoredOriginal, topic: str) -> None:
        """Take in a delayed original after a restart; its receipt is as it was."""
        original = Original(stored.digest, Receipt(waits_as, topic, stored.key, None, stored.due), stored.seen)
        original.waiting = None
        self._put(stored.principal, stored.id, original)
