"""Readers that keep their own cursor:

pages, and followers of what is appended (docs/promises.md, "Positions and cursors").
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from polywire.core.address import is_pattern, key_text, matches
from polywire.core.errors import Conflict, Internal, Invalid, PolywireError
from polywire.core.message import Batch, Message
from polywire.core.position import Cursor

if TYPE_CHECKING:
    from polywire.core.log import Log
    from polywire.core.topics import Topic

__all__ = [
    "Earliest",
    "Follower",
    "Latest",
    "Page",
    "Reset",
    "Since",
    "Sink",
    "StaleCursor",
    "Start",
    "parse_start",
    "read_from",
    "resolve",
]

_logger = logging.getLogger("polywire.streams")
_READ_MESSAGES = 512
_READ_SIZE = 1 << 20


class Earliest(NamedTuple):
    pass


class Latest(NamedTuple):
    pass


class Since(NamedTuple):
    time: int  # ms since the Unix epoch, by append time


Start = Earliest | Latest | Since | Cursor


def parse_start(text: str) -> Start:
    """``earliest``, ``latest`` (or ``now``), an RFC 3339 time, or a cursor. Raises `Invalid`."""
    if text == "earliest":
        return Earliest()
    if text in ("latest", "now"):
        return Latest()
    if "T" in text or ":" in text:
        try:
            moment = datetime.fromisoformat(text.replace(" ", "+"))
        except ValueError:
            raise Invalid(f"not a time: {text[:64]!r}", hint="write it as in RFC 3339: 2026-01-31T12:00:00Z") from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return Since(int(moment.timestamp() * 1000))
    try:
        return Cursor.parse(text)
    except Invalid:
        raise Invalid(
            f"not a place to start from: {text[:64]!r}", hint="earliest, latest, an RFC 3339 time or a cursor"
        ) from None


class StaleCursor(Conflict):
    """What follows the cursor cannot be had: ``reason`` is ``epoch``, ``expired`` or ``ahead``."""

    code, title = "stale_cursor", "Stale cursor"

    def __init__(self, topic: str, reason: str, oldest: Cursor, newest: Cursor) -> None:
        self.reason = reason
        self.oldest = oldest
        self.newest = newest
        why = {
            "epoch": "it belongs to an earlier life of the topic",
            "expired": "messages after it have expired",
            "ahead": "it is ahead of the topic",
        }[reason]
        super().__init__(
            f"the cursor is of no use for topic {topic!r}: {why}",
            hint=f"start again from earliest ({oldest}) or latest ({newest})",
            extra={"reason": reason, "oldest": str(oldest), "newest": str(newest)},
        )


class Reset(NamedTuple):
    """Told to a follower that missed messages for good; it goes on after ``resumed``."""

    reason: str
    oldest: Cursor
    newest: Cursor
    resumed: Cursor


class Page(NamedTuple):
    messages: list[Message]
    next: Cursor


class Sink(Protocol):
    def deliver(self, batch: Batch, indexes: Sequence[int] | None) -> bool:
        """Take these records of the batch (None: all). False: full; nothing more comes until `Follower.resume`."""
        ...

    def reset(self, reset: Reset) -> None: ...

    def ended(self, error: PolywireError) -> None:
        """Nothing comes any more: the topic was deleted, the right revoked, the hub stops."""
        ...


async def resolve(log: Log, topic: Topic, start: Start) -> int:
    """The offset a reader begins at. Raises `StaleCursor`."""
    if isinstance(start, Earliest):
        return topic.oldest
    if isinstance(start, Latest):
        return topic.head
    if isinstance(start, Cursor):
        return check_cursor(topic, start)
    first = topic.tail.front() if topic.tail else None
    if topic.volatile or (first is not None and first.appended < start.time):
        later = (batch.offset for batch in topic.tail if batch.appended >= start.time)
        return max(topic.oldest, next(later, topic.head))
    stored = await log.engine.offset_at(topic.id, start.time)
    return topic.head if stored is None else max(topic.oldest, stored)


def check_cursor(topic: Topic, cursor: Cursor) -> int:
    if cursor.epoch != topic.epoch:
        raise _stale(topic, "epoch")
    if cursor.offset + 1 < topic.oldest:
        raise _stale(topic, "expired")
    if cursor.offset + 1 > topic.head:
        raise _stale(topic, "ahead")
    return cursor.offset + 1


def _stale(topic: Topic, reason: str) -> StaleCursor:
    return StaleCursor(topic.name, reason, topic.oldest_cursor, topic.newest_cursor)


async def read_from(log: Log, topic: Topic, offset: int, *, messages: int, size: int) -> list[Batch]:
    """Committed batches from ``offset`` on, from the tail where it reaches so far back; the first may begin before
    ``offset``."""
    in_memory = topic.tail.first_number()
    if topic.volatile or (in_memory is not None and offset >= in_memory):
        return _take(topic.tail.from_(offset), offset, messages, size)
    if offset >= topic.head:
        return []
    batches = await log.engine.read(topic.id, offset, messages=messages, size=size)
    for batch in batches:
        batch.topic = topic.name
        batch.epoch = topic.epoch
    return batches


def _take(batches: Iterable[Batch], offset: int, messages: int, size: int) -> list[Batch]:
    taken: list[Batch] = []
    for batch in batches:
        if batch.offset + len(batch) <= offset:
            continue
        taken.append(batch)
        messages -= len(batch)
        size -= batch.size
        if messages <= 0 or size <= 0:
            break
    return taken


def select(batch: Batch, offset: int, key: str | None, now: int) -> list[int] | None:
    """Indexes of the records at or after ``offset`` that match and have not expired; None if that is all of them."""
    first = max(0, offset - batch.offset)
    chosen = [
        index
        for index in range(first, len(batch))
        if ((expires := batch.records[index].expires) is None or expires > now)
        and (key is None or _key_matches(key, batch.records[index].key))
    ]
    return None if len(chosen) == len(batch) else chosen


def _key_matches(pattern: str, key: bytes | None) -> bool:
    if key is None:
        return pattern == "#"
    if not is_pattern(pattern):
        return pattern == key_text(key)
    return matches(pattern, key_text(key))


class Follower:
    """Gives a sink everything from its cursor on: first what is stored, then what is appended, as it is committed.

    ``next`` is the offset that comes next. A follower is live while it is registered with the topic and takes each
    batch from the log's hand; otherwise it reads by itself (`_catch_up`), or stands still until the sink has room.
    """

    def __init__(self, log: Log, topic: Topic, sink: Sink, key: str | None) -> None:
        self._log = log
        self._topic = topic
        self._sink = sink
        self._key = key
        self._live = False
        self._full = False
        self._task: asyncio.Task[None] | None = None
        self.closed = False
        self.next = topic.head
        self.on_close: Callable[[], None] | None = None

    @property
    def topic(self) -> str:
        return self._topic.name

    def reads(self, topic: Topic) -> bool:
        return self._topic is topic

    @property
    def cursor(self) -> Cursor:
        return Cursor(self._topic.epoch, self.next - 1)

    def begin(self, start: Start) -> None:
        """Start reading. A cursor that is of no use is told to the sink as a reset, not raised."""
        if isinstance(start, Cursor):
            try:
                self.next = check_cursor(self._topic, start)
            except StaleCursor as stale:
                self._reset(stale.reason, self._topic.oldest if stale.reason == "expired" else self._topic.head)
        elif isinstance(start, Earliest):
            self.next = self._topic.oldest
        if isinstance(start, Since):
            self._task = asyncio.create_task(self._begin_since(start))
        else:
            self._go_on()

    async def _begin_since(self, start: Since) -> None:
        try:
            self.next = await resolve(self._log, self._topic, start)
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader is told
            self._task = None
            self.end(error if isinstance(error, PolywireError) else Internal(f"reading failed: {error}"))
            return
        self._task = None
        self._go_on()

    def resume(self) -> None:
        """The sink has room again."""
        if self._full and not self.closed:
            self._full = False
            self._go_on()

    def give_back(self, offset: int) -> None:
        """Said by a sink that returns False: what is at ``offset`` and after it was not taken, and comes again after
        `resume`."""
        self.next = offset

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self.on_close is not None:
            self.on_close()
        self._detach()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def end(self, error: PolywireError) -> None:
        if not self.closed:
            self.close()
            self._sink.ended(error)

    def offer(self, batch: Batch, indexes: Sequence[int] | None) -> None:
        """A batch just committed, from the log; ``indexes`` are the records that match the filter."""
        end = batch.offset + len(batch)
        if not self._live or self.next >= end:
            return
        if indexes is None and self.next < batch.offset:
            # A gap: a commit failed, or a batch did not reach this follower. Memory knows which.
            self._detach()
            self._go_on()
            return
        if self.next > batch.offset:
            skipped = self.next - batch.offset
            indexes = [i for i in indexes if i >= skipped] if indexes is not None else range(skipped, len(batch))
        self.next = end
        if indexes is None or indexes:
            self._give(batch, indexes)
            if self._full:
                self._detach()

    def _give(self, batch: Batch, indexes: Sequence[int] | None) -> None:
        """One reader's fault must not reach the others, nor the log that calls."""
        try:
            self._full = not self._sink.deliver(batch, indexes)
        except Exception as error:
            _logger.exception("a reader of topic %s failed", self._topic.name)
            self.end(Internal(f"the reader failed: {error}"))

    def _go_on(self) -> None:
        """Deliver what memory holds, then be live; or read what it does not hold in a task."""
        while not (self.closed or self._full):
            topic = self._topic
            if self.next < topic.oldest:
                self._reset("expired", topic.oldest)
            if self.next >= topic.head:
                self._attach()
                return
            in_memory = topic.tail.first_number()
            if not topic.volatile and (in_memory is None or self.next < in_memory):
                self._task = asyncio.create_task(self._catch_up())
                return
            self._deliver(_take(topic.tail.from_(self.next), self.next, _READ_MESSAGES, _READ_SIZE))

    async def _catch_up(self) -> None:
        try:
            batches = await read_from(self._log, self._topic, self.next, messages=_READ_MESSAGES, size=_READ_SIZE)
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader is told
            self._task = None
            self.end(error if isinstance(error, PolywireError) else Internal(f"reading failed: {error}"))
            return
        self._task = None
        if not batches:
            self.next = self._after_gap()
        self._deliver(batches)
        self._go_on()

    def _after_gap(self) -> int:
        """Nothing is stored here (a commit failed, or retention was there): go to what is in memory."""
        in_memory = self._topic.tail.first_number()
        return max(self.next, in_memory if in_memory is not None else self._topic.head)

    def _deliver(self, batches: Sequence[Batch]) -> None:
        now = self._log.clock.now()
        for batch in batches:
            if self.closed or self._full:
                return
            indexes = select(batch, self.next, self._key, now)
            self.next = max(self.next, batch.offset + len(batch))
            if indexes is None or indexes:
                self._give(batch, indexes)
        if not batches:
            self.next = self._after_gap()

    def _reset(self, reason: str, resumed: int) -> None:
        self.next = resumed
        topic = self._topic
        self._sink.reset(Reset(reason, topic.oldest_cursor, topic.newest_cursor, self.cursor))

    def _attach(self) -> None:
        if self._live:
            return
        self._live = True
        if self._key is None:
            self._topic.followers[self] = None
        else:
            self._topic.filtering.add(self._key, self)

    def _detach(self) -> None:
        if not self._live:
            return
        self._live = False
        if self._key is None:
            self._topic.followers.pop(self, None)
        else:
            self._topic.filtering.remove(self._key, self)
