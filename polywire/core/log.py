"""The log: appends in, commits, and what is committed out to subscriptions and followers.

One commit is under way at a time. While it runs, appends and settlements gather in the open transaction, which goes
next (group commit). Offsets and sequence numbers are given when an append is taken, so a commit that fails leaves a
gap. Only what is committed is published; publication is routing (into pending lists) and fan-out (to live followers),
in the order of appends, in slices of about a millisecond so that no commit, however large, holds the loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from polywire.core.clock import Clock
from polywire.core.engine import Commit, Engine, PendingChunk, Retained, StateChange
from polywire.core.errors import Internal, LimitExceeded, PolywireError, Unavailable
from polywire.core.limits import Limits
from polywire.core.message import Batch, Flag, Message, Record
from polywire.core.position import Position
from polywire.core.routing import route
from polywire.core.tail import Run

if TYPE_CHECKING:
    from polywire.core.streams import Follower
    from polywire.core.subscription import Subscription
    from polywire.core.topics import Topic

__all__ = ["Log", "TiedChange", "Transaction"]

Told = Callable[["PolywireError | None"], None]

_logger = logging.getLogger("polywire.log")
_BATCH_RECORDS = 1_024
_BATCH_SIZE = 256 << 10
_RECORD_OVERHEAD = 400  # bytes a record costs in memory beside its own, about
_TURN = 0.001  # seconds of publication per loop turn
_FANOUT_SLICE = 64
_TRUTHS = frozenset({"topic", "epoch", "subscription", "wire"})


class TiedChange(StateChange):
    """One that is true only together with what else is in its commit."""

    __slots__ = ()


class Transaction(Commit):
    """A commit and who waits for it."""

    __slots__ = ("checkpoint", "late", "retained_before", "routed", "snapshots", "told")

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Told] = []
        self.late: dict[object, Callable[[], StateChange]] = {}
        """What is written down when the transaction goes, as it stands then."""
        self.checkpoint = False
        self.routed = 0
        self.retained_before: dict[tuple[Topic, bytes], bool] = {}
        """Of keys whose retained message changes: whether they had one before."""
        self.snapshots: list[tuple[Subscription, list[int]]] = []


class Log:
    def __init__(self, engine: Engine, limits: Limits, clock: Clock) -> None:
        self.engine = engine
        self.limits = limits
        self.clock = clock
        self.by_id: dict[int, Topic] = {}
        self.next_seq = 1
        self.routed = 1  # everything stored below this is routed
        self.tail = Run()
        self.tail_size = 0
        self.volatile = Run()
        self._forgotten = 0
        self.uncommitted = 0  # bytes that wait for the disk
        self.unpublished = 0  # bytes that are committed and wait for their turn to be published
        self.full: str | None = None  # why nothing may be appended
        self.expiring = False  # some message has an expiry
        self.commits = 0
        self.failures = 0
        self.on_overflow: Callable[[Topic], None] = lambda _topic: None
        self.offer_live: Callable[[Topic, Batch], Iterator[None]] = lambda _topic, _batch: iter(())
        self.tell_published: Callable[[Topic, Batch], None] | None = None  # before anybody gets it
        self._open = Transaction()
        self._writing: Transaction | None = None
        self._open_volatile: list[Batch] = []
        self._volatile_told: list[Told] = []
        self._flushing = False
        self.unsaved: dict[Subscription, None] = {}  # changed since the last checkpoint; no commit is under way with it
        self.holding: dict[Subscription, None] = {}  # all that have something pending, and some that had
        self.kept = Commit()  # of commits that failed, what must be stored all the same
        self._settled: dict[Subscription, None] = {}
        self._published: deque[Batch] = deque()
        self._publishing: Iterator[None] | None = None
        self._relief: list[Callable[[], None]] = []
        self._idle: list[asyncio.Future[None]] = []

    # Appending

    @property
    def congested(self) -> bool:
        return self.uncommitted + self.unpublished > self.limits.uncommitted_size

    def on_relief(self, callback: Callable[[], None]) -> None:
        """``callback`` runs once, when the log has caught up with its publishers."""
        if self.congested:
            self._relief.append(callback)
        else:
            callback()

    def admit(self, topic: Topic, size: int) -> None:
        """Whether so many bytes have room. Raises `Unavailable`, `LimitExceeded`."""
        if self.full is not None:
            raise Unavailable(
                self.full, retry_after=5, hint="free space, or raise the limit; reading and acknowledging go on"
            )
        if self.uncommitted > 4 * self.limits.uncommitted_size:
            raise Unavailable("publishes arrive faster than the disk takes them", retry_after=1)
        if topic.size + topic.uncommitted + size > topic.hard_limit:
            self.on_overflow(topic)
            if topic.settings.overflow == "refuse" and not topic.volatile:  # memory topics drop and count
                raise LimitExceeded(
                    f"topic {topic.name!r} holds its limit of {topic.hard_limit} bytes",
                    hint="let its subscriptions catch up, purge them, or raise hard_limit",
                    retry_after=5,
                )

    def append(self, topic: Topic, records: Sequence[Record], size: int, told: Told | None = None) -> tuple[int, int]:
        """Take records that were admitted; ``told`` hears of the commit. Returns the first seq and offset."""
        seq, offset = self.next_seq, topic.next
        self.next_seq += len(records)
        topic.next += len(records)
        batches = self._open_volatile if topic.volatile else self._open.appends
        if len(records) <= _BATCH_RECORDS:
            self._join(batches, topic, seq, offset, list(records), size)
        else:
            for first in range(0, len(records), _BATCH_RECORDS):
                part = list(records[first : first + _BATCH_RECORDS])
                self._join(batches, topic, seq + first, offset + first, part, sum(record.size() for record in part))
        if topic.volatile:
            self._take_volatile(topic, records, seq, offset, told)
        else:
            self._take_durable(topic, records, seq, offset, size, told)
        self._schedule()
        return seq, offset

    def _join(
        self, batches: list[Batch], topic: Topic, seq: int, offset: int, records: list[Record], size: int
    ) -> None:
        """Let appends of one topic that follow each other share a batch: one row, one frame, one look-up for many."""
        last = batches[-1] if batches else None
        if (
            last is not None
            and last.topic_id == topic.id
            and last.seq + len(last.records) == seq
            and len(last.records) + len(records) <= _BATCH_RECORDS
            and last.size + size <= _BATCH_SIZE
        ):
            last.records.extend(records)
            last.size += size
            return
        batch = Batch(
            topic=topic.name,
            topic_id=topic.id,
            epoch=topic.epoch,
            seq=seq,
            offset=offset,
            appended=self.clock.now(),
            records=records,
        )
        batch.size = size
        batches.append(batch)

    def _take_durable(
        self, topic: Topic, records: Sequence[Record], seq: int, offset: int, size: int, told: Told | None
    ) -> None:
        transaction = self._open
        if told is not None:
            transaction.told.append(told)
        transaction.messages += len(records)
        waiting = size + _RECORD_OVERHEAD * len(records)
        transaction.size += waiting
        self.uncommitted += waiting
        topic.uncommitted += size
        for index, record in enumerate(records):
            if record.flags & Flag.RETAINED:
                kept = record if record.payload else None
                key = stored_key(record.key)
                transaction.retained_before.setdefault((topic, key), key in topic.retained_keys)
                if kept is None:
                    topic.retained_keys.discard(key)
                else:
                    topic.retained_keys.add(key)
                transaction.retained[topic.id, key] = Retained(
                    topic.id, key, seq + index, offset + index, self.clock.now(), kept
                )

    def _take_volatile(self, topic: Topic, records: Sequence[Record], seq: int, offset: int, told: Told | None) -> None:
        if told is not None:
            self._volatile_told.append(told)
        for index, record in enumerate(records):
            if record.flags & Flag.RETAINED:
                key = stored_key(record.key)
                if not record.payload:
                    topic.kept.pop(key, None)
                    topic.retained_keys.discard(key)
                else:
                    topic.retained_keys.add(key)
                    position = Position(topic.epoch, 0, offset + index)
                    topic.kept[key] = Message(topic.name, record, seq + index, position, self.clock.now())

    # Other changes that go into the next commit

    def change(self, *changes: StateChange, told: Told | None = None) -> Transaction:
        """Put state into the open transaction, which is returned for more."""
        self._open.state.extend(changes)
        if told is not None:
            self._open.told.append(told)
        self._schedule()
        return self._open

    def change_once(self, whose: object, make: Callable[[], StateChange], told: Told | None = None) -> None:
        """As `change`, for what may change many times in a transaction and is worth writing down once: as it is then,
        in the order of the last calls."""
        late = self._open.late
        late.pop(whose, None)
        late[whose] = make
        self.change(told=told)

    def open_transaction(self) -> Transaction:
        """The transaction that goes next, to add to in this loop turn."""
        self._schedule()
        return self._open

    def settled(self, subscription: Subscription) -> None:
        """Its pending list changed in a way that the next commit must carry."""
        self._settled[subscription] = None
        self._schedule()

    async def committed(self) -> None:
        """Wait for everything that was put in before this call. Raises what the commit raised."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open.told.append(_tell(waiter))
        self._schedule()
        await waiter

    async def checkpoint(self) -> int:
        """Store the pending lists that changed and how far routing has come, which is returned."""
        transaction = self._open
        transaction.checkpoint = True
        await self.committed()
        return transaction.routed

    async def published(self) -> None:
        """Wait until nothing is being committed or published."""
        while (
            self._writing
            or self._open
            or self._open.told
            or self._settled
            or self._published
            or self._publishing
            or self._flushing
        ):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            await waiter

    # Committing

    def _schedule(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._open_volatile or self._volatile_told:
            self._flush_volatile()
        if self._writing is not None:
            return
        transaction = self._open
        if transaction.late:
            transaction.state.extend(make() for make in transaction.late.values())
        if self._settled:
            self._snapshot(transaction, list(self._settled))
        if transaction.checkpoint:
            # Only now: what was in a commit that failed meanwhile is among the unsaved again.
            self._snapshot(transaction, list(self.unsaved))
            transaction.routed = self.routed
            transaction.state.append(StateChange("meta", "routed", str(self.routed).encode()))
        if not transaction:
            self._open = Transaction()
            self._tell_all(transaction, None)
            self._rest()
            return
        if self.kept:
            self._take_kept(transaction)
        self._open = Transaction()
        self._writing = transaction
        self.engine.submit(transaction, self._done)

    def _snapshot(self, transaction: Transaction, subscriptions: Sequence[Subscription]) -> None:
        """Put the changed chunks of these pending lists into ``transaction``."""
        for subscription in subscriptions:
            self._settled.pop(subscription, None)
            self.unsaved.pop(subscription, None)
            if not subscription.stored:
                subscription.pending.dirty.clear()
            else:
                chunks = subscription.pending.take_dirty()
                transaction.snapshots.append((subscription, [chunk for chunk, _, _ in chunks]))
                transaction.pending.extend(
                    PendingChunk(subscription.id, chunk, self.routed, bits, extras) for chunk, bits, extras in chunks
                )

    def _done(self, commit: Commit, failure: BaseException | None) -> None:
        transaction, self._writing = self._writing, None
        if transaction is None or transaction is not commit:
            raise RuntimeError("the engine finished a commit that it was not given")
        self.uncommitted -= transaction.size
        error = None
        if failure is None:
            self.commits += 1
            self._take_in(transaction)
        else:
            error = failure if isinstance(failure, PolywireError) else Internal(f"the commit failed: {failure}")
            self._undo(transaction, error)
            # Before the next commit, which may carry the same pending lists: what was settled here is pending again.
            self._tell_all(transaction, error)
        # The next commit starts before this one is published, so that the disk and the loop work at the same time.
        self._flush()
        if error is None:
            self._tell_all(transaction, None)
        self._relieve()
        self._publish()

    @staticmethod
    def _tell_all(transaction: Transaction, error: PolywireError | None) -> None:
        for told in transaction.told:
            _guarded(told, error)

    def _take_in(self, transaction: Transaction) -> None:
        for batch in transaction.appends:
            topic = self.by_id.get(batch.topic_id)
            if topic is None:
                continue
            topic.uncommitted -= batch.size
            topic.head = batch.offset + len(batch)
            topic.count += len(batch)
            topic.size += batch.size
            topic.appended += len(batch)
            topic.tail.push(batch.offset, batch)
            self.tail.push(batch.seq, batch)
            self.tail_size += weight(batch)
            self._queue(batch)
        while self.tail_size > self.limits.tail_size and self.tail:
            batch = self.tail.pop_front()
            self.tail_size -= weight(batch)
            topic = self.by_id.get(batch.topic_id)
            if topic is not None:
                topic.tail.pop_front()

    def _undo(self, transaction: Transaction, error: PolywireError) -> None:
        self.failures += 1
        _logger.error("commit of %d messages failed: %s", transaction.messages, error)
        for batch in transaction.appends:
            if (topic := self.by_id.get(batch.topic_id)) is not None:
                topic.uncommitted -= batch.size
        self._undo_retained(transaction)
        for subscription, chunks in transaction.snapshots:
            # Not at once: the fault is likely to last, and each try costs the disk. The next checkpoint takes them
            # along.
            subscription.pending.dirty.update(chunks)
            self.unsaved[subscription] = None
        self._keep_truths(transaction)

    def _undo_retained(self, failed: Transaction) -> None:
        """The keys that topics retain are as before, or as the next transaction makes them."""
        following = self._open.retained_before
        for (topic, key), before in failed.retained_before.items():
            if (topic, key) in following:
                following[topic, key] = before
            elif before:
                topic.retained_keys.add(key)
            else:
                topic.retained_keys.discard(key)

    def _keep_truths(self, failed: Transaction) -> None:
        """Topics, epochs, subscriptions and what wires keep, which memory goes on from, must be stored with the next
        commit."""
        truths = (c for c in failed.state if c.kind in _TRUTHS and not isinstance(c, TiedChange))
        # A fault may last, and the same things change again and again: only the last change of each is kept.
        self.kept.state[:] = {(c.kind, c.key): c for c in (*self.kept.state, *truths)}.values()
        self.kept.dropped_topics.extend(failed.dropped_topics)
        self.kept.dropped_subscriptions.extend(failed.dropped_subscriptions)

    def _take_kept(self, transaction: Transaction) -> None:
        kept, self.kept = self.kept, Commit()
        transaction.state[:0] = kept.state  # of two changes the later counts
        transaction.dropped_topics[:0] = kept.dropped_topics
        transaction.dropped_subscriptions[:0] = kept.dropped_subscriptions

    def _flush_volatile(self) -> None:
        batches, self._open_volatile = self._open_volatile, []
        told, self._volatile_told = self._volatile_told, []
        for batch in batches:
            topic = self.by_id.get(batch.topic_id)
            if topic is None:
                continue
            topic.head = batch.offset + len(batch)
            topic.count += len(batch)
            topic.size += weight(batch)
            topic.appended += len(batch)
            topic.tail.push(batch.offset, batch)
            self.volatile.push(batch.seq, batch)
            self._queue(batch)
            if topic.size > topic.hard_limit:
                self.on_overflow(topic)
        for callback in told:
            _guarded(callback, None)
        self._publish()

    def _relieve(self) -> None:
        if self._relief and not self.congested:
            relieved, self._relief = self._relief, []
            for callback in relieved:
                _guarded(callback)

    # Publishing

    def _queue(self, batch: Batch) -> None:
        self._published.append(batch)
        self.unpublished += weight(batch)

    def _publish(self) -> None:
        if self._publishing is None and self._published:
            self._publishing = self._publication()
            self._step()
        elif self._publishing is None:
            self._rest()

    def _step(self) -> None:
        deadline = time.perf_counter() + _TURN
        try:
            for _ in self._publishing or ():
                if time.perf_counter() > deadline:
                    asyncio.get_running_loop().call_soon(self._step)
                    return
        except Exception:
            # Our fault, and one message's: everybody else's go on. Followers that were left out notice the gap.
            _logger.exception("publishing a batch failed")
            self._publishing = self._publication()
            asyncio.get_running_loop().call_soon(self._step)
            return
        self._publishing = None
        self._rest()

    def _publication(self) -> Iterator[None]:
        while self._published:
            batch = self._published.popleft()
            self.unpublished -= weight(batch)
            self._relieve()
            topic = self.by_id.get(batch.topic_id)
            if topic is None:
                continue
            woken: dict[Subscription, None] = {}
            route(topic, batch, woken)
            self.unsaved.update(woken)
            if self.tell_published is not None:
                self.tell_published(topic, batch)
            if not topic.volatile:
                self.routed = batch.seq + len(batch)
            yield
            for subscription in woken:
                subscription.pump()
                yield
            yield from _fan_out(topic, batch)
            yield from self.offer_live(topic, batch)
            waiting, topic.waiting = topic.waiting, []
            for wake in waiting:
                wake()

    def _rest(self) -> None:
        """Tell `published` when there is nothing left to do."""
        if self._idle and not (self._writing or self._flushing or self._publishing or self._published):
            idle, self._idle = self._idle, []
            for waiter in idle:
                if not waiter.done():
                    waiter.set_result(None)

    # Finding

    @property
    def uncommitted_from(self) -> int:
        """Every message with a lower seq is committed, or never will be."""
        waiting = [transaction.appends for transaction in (self._writing, self._open) if transaction is not None]
        return min((batches[0].seq for batches in (*waiting, self._open_volatile) if batches), default=self.next_seq)

    def lookup(self, seqs: Sequence[int]) -> tuple[list[Message], list[int]]:
        """Messages in memory by ascending seq, and the seqs that are not there."""
        found: list[Message] = []
        missing: list[int] = []
        batch: Batch | None = None
        for seq in seqs:
            if batch is None or not batch.seq <= seq < batch.seq + len(batch.records):
                batch = self._batch_of(seq)
            if batch is None:
                missing.append(seq)
            else:
                found.append(batch.message(seq - batch.seq))
        return found, missing

    def _batch_of(self, seq: int) -> Batch | None:
        for run in (self.tail, self.volatile):
            batch = run.find(seq)
            if batch is not None and seq < batch.seq + len(batch.records):
                return batch
        return None

    async def fetch(self, seqs: Sequence[int]) -> list[Message]:
        """Messages by ascending seq, from memory or the disk; those that are gone are left out."""
        found, missing = self.lookup(seqs)
        if missing:
            for batch in await self.engine.read_seqs(missing):
                topic = self.by_id.get(batch.topic_id)
                if topic is not None:
                    batch.topic = topic.name
                    batch.epoch = topic.epoch
                    found.extend(batch.message(index) for index in range(len(batch)))
            found.sort(key=lambda message: message.seq)
        return found

    def forget_topic(self, topic: Topic) -> None:
        """A dropped topic: its batches stay in the tail until they leave it by age, but nothing finds them."""
        topic.tail = Run()
        self.by_id.pop(topic.id, None)

    def forget_volatile(self, topic: Topic) -> Batch:
        """Drop the oldest batch of a memory topic; its place in the run by seq is emptied later, many at a time."""
        batch = topic.tail.pop_front()
        topic.size -= weight(batch)
        topic.count -= len(batch)
        topic.oldest = batch.offset + len(batch)
        self.volatile.discard(batch.seq)
        self._forgotten += 1
        if self._forgotten > 64 and self._forgotten * 2 > len(self.volatile):
            self.volatile.keep({id(b) for t in self.by_id.values() if t.volatile for b in t.tail})
            self._forgotten = 0
        return batch


def _fan_out(topic: Topic, batch: Batch) -> Iterator[None]:
    if topic.followers:
        for number, follower in enumerate(list(topic.followers)):
            follower.offer(batch, None)
            if number % _FANOUT_SLICE == _FANOUT_SLICE - 1:
                yield
    if topic.filtering:
        hits: dict[Follower, list[int]] = {}
        for index, record in enumerate(batch.records):
            for follower in topic.filtering.match(record.key):
                hits.setdefault(follower, []).append(index)
        for number, (follower, indexes) in enumerate(hits.items()):
            follower.offer(batch, indexes)
            if number % _FANOUT_SLICE == _FANOUT_SLICE - 1:
                yield


def weight(batch: Batch) -> int:
    """Bytes a batch takes in memory, about: a million empty messages are not nothing."""
    return batch.size + _RECORD_OVERHEAD * len(batch)


def _guarded(callback: Callable[..., object], *arguments: object) -> None:
    """Who waits for a commit may fail by itself; the log and the others who wait go on."""
    try:
        callback(*arguments)
    except Exception:
        _logger.exception("a callback after a commit failed")


def stored_key(key: bytes | None) -> bytes:
    """How the table of retained messages knows a key: none and the empty key differ."""
    return b"" if key is None else b"." + key


def loaded_key(stored: bytes) -> bytes | None:
    return stored[1:] if stored else None


def _tell(waiter: asyncio.Future[None]) -> Told:
    def told(error: PolywireError | None) -> None:
        if waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)

    return told
