"""Where topics live: the interface between the core and an engine.

The core runs on one event loop and holds what is hot (heads, tails, pending lists, indexes). An engine makes it
durable. The core fills a `Commit` on the loop; the engine writes it as one transaction and says so. One commit is
under way at a time; appends that arrive meanwhile join the next (group commit). Life of an engine, each step once:

    1. ``open()``     blocking; locks the data, recovers it, tells what is there
    2. ``load(...)``  blocking; state, pending chunks, retained keys
    3. ``start(loop)`` threads run; ``submit`` and the async reads are allowed from here on
    4. ``close()``    blocking; everything submitted is finished first

Every message has an offset in its topic and a hub-wide sequence number (``seq``); both are given by the core when it
takes an append, before the commit. A commit that fails leaves gaps in both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from polywire.core.message import Batch, Record

__all__ = [
    "Capabilities",
    "Commit",
    "Delayed",
    "Engine",
    "PendingChunk",
    "Retained",
    "RowSpan",
    "Space",
    "StateChange",
    "TopicStats",
]


class Capabilities(msgspec.Struct, frozen=True):
    """What declarations may count on. A declaration that needs more is refused at start."""

    name: str
    fsync: bool
    transactions: bool
    exact_counts: bool
    partitions: bool


class TopicStats(NamedTuple):
    """What the log holds of one topic: offsets ``[oldest, next)``, and the payload bytes of that."""

    oldest: int
    next: int
    messages: int
    size: int


class RowSpan(NamedTuple):
    """A stored run of messages of one topic, contiguous in ``seq`` and ``offset``; what retention removes at a time."""

    seq: int
    offset: int
    messages: int
    size: int
    appended: int


class Retained(NamedTuple):
    """The message kept for a key, or its removal where ``record`` is None."""

    topic_id: int
    key: bytes
    seq: int
    offset: int
    appended: int
    record: Record | None


class PendingChunk(NamedTuple):
    """A window of `polywire.core.pending.CHUNK` sequence numbers of one subscription.

    ``bits``: little-endian bitmap of what is pending. ``extras``: opaque bytes (attempts, due times), ``b""`` if none.
    ``through``: routing is reflected for every seq below this. An empty chunk (no bits) may be stored, for its
    ``through``.
    """

    subscription: int
    chunk: int
    through: int
    bits: bytes
    extras: bytes


class Delayed(NamedTuple):
    """A publish that waits for its time. ``due`` is in milliseconds since the Unix epoch."""

    id: str
    due: int
    topic_id: int
    record: Record | None


class StateChange(NamedTuple):
    """Put (value) or delete (None) of one small thing the core keeps: a topic, a subscription, an API key, a cursor.

    What ``kind``s there are and what their values mean is the core's business.
    """

    kind: str
    key: str
    value: bytes | None


class Space(NamedTuple):
    used: int  # bytes of the data folder's log
    free: int  # bytes left on its file system
    held: int  # bytes of ``used`` that are not free for new messages: log, retained, delayed, pending


class Commit:
    """One transaction, filled by the core, applied whole or not at all, in the order of the fields below."""

    __slots__ = (
        "appends",
        "delayed",
        "deleted_rows",
        "dropped_subscriptions",
        "dropped_topics",
        "messages",
        "pending",
        "retained",
        "size",
        "state",
        "undelayed",
    )

    def __init__(self) -> None:
        self.appends: list[Batch] = []
        """In order of ``seq``; batches that follow each other in seq and offset may be stored as one row."""
        self.retained: dict[tuple[int, bytes], Retained] = {}
        self.pending: list[PendingChunk] = []
        self.state: list[StateChange] = []
        self.delayed: list[Delayed] = []
        self.undelayed: list[str] = []
        """Ids of delayed publishes to remove: they are appended in this same commit, or cancelled."""
        self.deleted_rows: list[int] = []
        """``RowSpan.seq`` of rows that retention removes."""
        self.dropped_topics: list[int] = []
        """Topic ids whose log, retained and delayed messages go: in slices after the commit, at the latest before the
        next
        `load`, so that a large topic holds nobody up. Until then reads by these ids may find some."""
        self.dropped_subscriptions: list[int] = []
        """Subscription ids whose pending chunks go."""
        self.messages = 0
        self.size = 0

    def __bool__(self) -> bool:
        return bool(
            self.appends
            or self.pending
            or self.state
            or self.retained
            or self.delayed
            or self.undelayed
            or self.deleted_rows
            or self.dropped_topics
            or self.dropped_subscriptions
        )


Done = Callable[[Commit, "BaseException | None"], None]


class Engine(Protocol):
    """See the module's text for the life of an engine. Async methods are called on the loop given to `start`."""

    capabilities: Capabilities

    def open(self) -> None:
        """Lock and recover. Raises `Unavailable` (locked, read-only, no space), `Conflict` (a newer format) or
        `polywire.core.errors.Internal` (corrupt), each naming the path."""
        ...

    def load(self, kind: str) -> Iterator[tuple[str, bytes]]:
        """Every ``(key, value)`` of a kind of state, in order of key. Before `start`."""
        ...

    def load_pending(self) -> Iterator[PendingChunk]:
        """All chunks, by subscription and chunk. Before `start`."""
        ...

    def load_retained_keys(self) -> Iterator[tuple[int, bytes]]:
        """``(topic_id, key)`` of every retained message. Before `start`."""
        ...

    def stats(self) -> dict[int, TopicStats]:
        """By topic id, for topics with stored messages; from an index, without reading payloads. Before `start`."""
        ...

    def scan(self, seq: int) -> Iterator[Batch]:
        """Batches from ``seq`` on in order, for recovery (``Batch.topic`` is ``""``:

        the core names it). Before `start`.
        """
        ...

    def next_seq(self) -> int:
        """One more than the greatest stored seq, or 1. Before `start`."""
        ...

    def start(self, loop: asyncio.AbstractEventLoop) -> None: ...

    def submit(self, commit: Commit, done: Done) -> None:
        """Write ``commit`` durably, then call ``done(commit, None)`` on the loop; or ``done(commit, error)`` after
        nothing of
        it was written (`Unavailable` when the disk is full, `Internal` otherwise). Called only when no commit is under
        way."""
        ...

    async def read(self, topic_id: int, offset: int, *, messages: int, size: int) -> list[Batch]:
        """Stored batches of a topic from ``offset`` on (the first may begin at it, never before), up to about so many
        messages or payload bytes, at least one message if there is one. Raises `Internal` for a row whose checksum is
        wrong,
        naming topic and offset. ``Batch.topic`` is ``""``."""
        ...

    async def read_seqs(self, seqs: Sequence[int]) -> list[Batch]:
        """The messages with these ascending sequence numbers, as batches cut to exactly them; missing ones are left
        out."""
        ...

    async def rows(self, topic_id: int, *, offset: int = 0, limit: int = 1000) -> list[RowSpan]:
        """Stored runs of a topic from ``offset`` on in order, from an index, without reading payloads."""
        ...

    async def offset_at(self, topic_id: int, appended: int) -> int | None:
        """Offset of the first stored run appended at or after this time; None if there is none."""
        ...

    async def retained(self, topic_id: int, key: bytes) -> Retained | None: ...

    async def retained_keys(self, topic_id: int, *, after: bytes | None, limit: int) -> list[Retained]:
        """Retained messages of a topic in order of key, after ``after``."""
        ...

    async def retained_range(
        self,
        topic_id: int,
        first: bytes,
        before: bytes | None,
        *,
        wanted: Callable[[bytes], object] | None,
        limit: int,
        size: int,
    ) -> tuple[list[Retained], bytes | None]:
        """Retained messages of a topic in order of key from ``first`` on, below ``before``.

        Up to ``limit`` of those whose key is ``wanted`` (None: all), or about ``size`` bytes of them. It looks at a
        bounded number of keys, and reads no payload of others; so there may be none. Also the key to go on behind: None
        at the end. ``wanted`` is called in another thread.
        """
        ...

    async def next_due(self) -> int | None:
        """When the next delayed publish is due."""
        ...

    async def due(self, now: int, *, limit: int) -> list[Delayed]:
        """Delayed publishes due at or before ``now``, soonest first."""
        ...

    async def delayed(self, topic_id: int | None, *, after: tuple[int, str] | None, limit: int) -> list[Delayed]:
        """Waiting publishes by ``(due, id)``."""
        ...

    async def find_delayed(self, id: str) -> Delayed | None: ...

    async def count_delayed(self) -> int: ...

    async def next_expiry(self) -> int | None:
        """The least ``Record.expires`` among stored messages not yet reported by `expired`."""
        ...

    async def expired(self, now: int, *, limit: int) -> list[int]:
        """Sequence numbers of stored messages whose ``expires`` has come, each reported once per process run."""
        ...

    def dedup_since(self, appended: int) -> AsyncIterator[Batch]:
        """Batches appended since then that hold a record with `Flag.DEDUP`, oldest first, read when asked for."""
        ...

    async def space(self) -> Space: ...

    async def backup(self, folder: str) -> dict[str, Any]:
        """A consistent copy of the store, made while it runs, into a new folder. Returns counts."""
        ...

    def metrics(self) -> dict[str, float]:
        """Own figures: commits, fsync seconds (sum, max), wal bytes, reads, ..."""
        ...

    def close(self) -> None: ...
