"""The core: what every wire, and the application itself, may ask of the hub. It knows no protocol.

Every call takes the principal first and passes `Access` before it looks at anything else. All calls are made on the event loop
the core was started on.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

import msgspec

from polywire.core.access import KEY_STATE, Access, Action, Principal
from polywire.core.admission import check_record
from polywire.core.address import is_reserved, key_text, legal_topic, require_topic
from polywire.core.clock import Clock, SystemClock
from polywire.core.counters import Counters
from polywire.core.delays import Delays
from polywire.core.dedup import DedupWindow, Original
from polywire.core.engine import Delayed, Engine, StateChange
from polywire.core.errors import Conflict, FieldError, Invalid, LimitExceeded, NotFound, PolywireError, TooLarge, Unavailable
from polywire.core.limits import Limits
from polywire.core.log import Log, Told, stored_key
from polywire.core.message import Flag, Message, Origin, Receipt, Record, new_id
from polywire.core.position import Cursor, Position
from polywire.core.recovery import rebuild_dedup, recover
from polywire.core.routing import Source
from polywire.core.streams import Follower, Page, Sink, Start, read_from, resolve, select
from polywire.core.subscription import Delivery
from polywire.core.subscriptions import Subscriptions
from polywire.core.topics import Admit, StoredTopic, Topic, TopicInfo, TopicSettings
from polywire.core.upkeep import Upkeep

__all__ = ["Core", "Phase"]

Store = Callable[[Topic, Sequence[Record], int, Told], list[Receipt]]
Phase = Literal["new", "starting", "running", "draining", "stopped", "failed"]

TOPIC_STATE = "topic"
EPOCH_STATE = "epoch"
EVENTS = "_events"
_ON_USE_RESERVED = frozenset({"default", "_other"})
_SCAN = 20_000  # records one filtered read looks at
_WRONG = 100  # records of a refused batch that the error names
_logger = logging.getLogger("polywire.core")


class Core:
    """Life: declare → `start` → serve → `stop` (drains, then closes the engine)."""

    def __init__(
        self,
        engine: Engine,
        *,
        limits: Limits | None = None,
        clock: Clock | None = None,
        strict: bool = False,
        anonymous_allow: Sequence[str] = (),
    ) -> None:
        self.limits = limits or Limits()
        self.clock: Clock = clock or SystemClock()
        self.strict = strict
        self.phase: Phase = "new"
        self.access = Access(self.clock, anonymous_allow=anonymous_allow)
        self.counters = Counters()
        self.log = Log(engine, self.limits, self.clock)
        self.subscriptions = Subscriptions(self)
        self._engine = engine
        self._delays = Delays(self)
        self._upkeep = Upkeep(self)
        self._names: dict[str, Topic] = {}
        self._epochs: dict[str, int] = {}
        self._next_topic = 1
        self._declared: list[tuple[TopicSettings, Admit | None]] = []
        self._on_use = 0
        self._refused_on_use = 0
        self._followers: dict[Follower, Callable[[], None]] = {}
        self._origins: dict[str, Origin] = {}

    # Life

    def declare_topic(self, settings: TopicSettings, admit: Admit | None = None) -> None:
        """Before `start`. Raises `Invalid`."""
        require_topic(settings.name)
        if is_reserved(settings.name) and settings.name != "default":
            raise Invalid(f"the topic name {settings.name!r} is reserved")
        settings.check()
        self._declared.append((settings, admit))

    async def start(self) -> None:
        """Recover what the engine holds and begin to serve. Raises `Unavailable`, `Conflict`, `Internal` naming the folder."""
        self.phase = "starting"
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._engine.open)
            self.access.load([value for _, value in self._engine.load(KEY_STATE)], self._store)
            recover(self, self._engine)
            self._engine.start(asyncio.get_running_loop())
            for settings, admit in self._declared:
                self._declare(settings, admit)
            await rebuild_dedup(self, self._engine)
            await self._delays.start()
            self.log.expiring = await self._engine.next_expiry() is not None
            await self.log.committed()
        except BaseException:
            self.phase = "failed"
            self._engine.close()
            raise
        self._upkeep.start()
        self.phase = "running"
        self.subscriptions.resume_fills()

    async def drain(self) -> None:
        """Take no more publishes, end readers and consumers, let what is under way finish."""
        if self.phase != "running":
            return
        self.phase = "draining"
        why = Unavailable("the hub is stopping", retry_after=1)
        for follower in list(self._followers):
            follower.end(why)
        for subscription in self.subscriptions:
            subscription.end(why)
        for topic in self.log.by_id.values():
            for wake in topic.waiting:
                wake()
        self.subscriptions.stop_fills()
        self._delays.stop()
        await self.log.published()

    async def stop(self) -> None:
        """Drain for at most `Limits.drain`, store the last checkpoint, close the engine."""
        if self.phase == "running":
            try:
                await asyncio.wait_for(self.drain(), self.limits.drain / 1000)
            except TimeoutError:
                _logger.warning("not everything was delivered within %d ms", self.limits.drain)
        if self.phase != "draining":
            return
        self._upkeep.stop()
        try:
            await self._upkeep.checkpoint()
        except PolywireError as error:
            _logger.warning("the last checkpoint was not stored (%s): the next start routes again", error)
        await asyncio.get_running_loop().run_in_executor(None, self._engine.close)
        self.phase = "stopped"

    async def _store(self, changes: Iterable[StateChange]) -> None:
        self.log.change(*changes)
        await self.log.committed()

    def _require_running(self) -> None:
        if self.phase != "running":
            raise Unavailable(f"the hub is {self.phase}", retry_after=1)

    # Publishing

    @property
    def congested(self) -> bool:
        """Too many bytes wait for the log: stop reading publishes from the peer, until `on_relief`."""
        return self.log.congested

    def on_relief(self, callback: Callable[[], None]) -> None:
        self.log.on_relief(callback)

    async def publish(
        self, principal: Principal, topic: str, records: list[Record], *, due: int | None = None
    ) -> list[Receipt]:
        """Store all of the records or none; returns after they are durable (on a memory topic: delivered).

        ``due`` (ms since the epoch) holds them back until then; their receipts have no position. Raises `Invalid` (with more than
        one record, paths begin with ``$[i]``), `Denied`, `Unauthenticated`, `NotFound`, `TooLarge`, `LimitExceeded`, `Conflict`, `Unavailable`.
        """
        loop = asyncio.get_running_loop()
        while self.log.congested:
            relief = loop.create_future()
            self.log.on_relief(lambda waiter=relief: waiter.done() or waiter.set_result(None))  # type: ignore[misc]
            await relief
        stored: asyncio.Future[None] = loop.create_future()

        def told(error: PolywireError | None) -> None:
            if not stored.done():
                stored.set_result(None) if error is None else stored.set_exception(error)

        receipts = self._publish(principal, topic, records, due, told)
        await stored
        return receipts

    def post(
        self, principal: Principal, topic: str, records: list[Record], done: Told | None = None, *, due: int | None = None
    ) -> list[Receipt]:
        """As `publish`, without waiting: ``done(None)`` after the commit, ``done(error)`` if it failed."""
        return self._publish(principal, topic, records, due, done or _ignore)

    def publish_settling(
        self, principal: Principal, deliveries: Sequence[Delivery], results: Sequence[tuple[str, list[Record]]]
    ) -> None:
        """Acknowledge deliveries and publish what came of them, in one commit. Raises what `publish` raises, with nothing done.

        If the commit fails, the deliveries are pending again and come again.
        """
        prepared = [(*self._prepare(principal, topic, records), records) for topic, records in results]

        def told(error: PolywireError | None) -> None:
            if error is not None:
                for delivery in settled:
                    delivery.subscription.undo(delivery)

        settled = [delivery for delivery in deliveries if delivery.ack()]
        if not settled:  # all went back to their subscription meanwhile: what came of them comes of another attempt
            return
        durable = 0
        for topic, size, records in prepared:
            durable += not topic.volatile
            undo = told if durable == 1 and not topic.volatile else None
            self.log.append(topic, records, size, undo)

    def append_internal(self, topic: str, records: Sequence[Record], told: Told | None) -> None:
        """The hub's own messages: dead letters, events, redriven ones."""
        place = self.ensure_topic(topic, internal=True)
        for record in records:
            record.id = record.id or new_id()
        self.log.append(place, records, sum(record.size() for record in records), told)

    def event(self, name: str, **details: object) -> None:
        """Tell of something the hub did by itself, in topic ``_events``."""
        _logger.info("%s %s", name, details)
        payload = msgspec.json.encode({"event": name, **details})
        self.append_internal(EVENTS, [Record(payload, content_type="application/json", key=name.encode())], None)

    def _publish(
        self, principal: Principal, name: str, records: list[Record], due: int | None, told: Told
    ) -> list[Receipt]:
        topic, size = self._prepare(principal, name, records)
        store: Store = self._append
        if due is not None and due > self.clock.now():
            store = partial(self._delay, due)
        for record in records:
            if record.flags & Flag.DEDUP:
                return self._publish_once(topic, records, told, store)
        return store(topic, records, size, told)

    def _append(self, topic: Topic, records: Sequence[Record], size: int, told: Told) -> list[Receipt]:
        now = self.clock.now()
        _, offset = self.log.append(topic, records, size, told)
        epoch = topic.epoch
        return [
            Receipt(record.id, topic.name, record.key, Position(epoch, 0, offset + index), now)
            for index, record in enumerate(records)
        ]

    def _delay(self, due: int, topic: Topic, records: Sequence[Record], _size: int, told: Told) -> list[Receipt]:
        def stored(error: PolywireError | None) -> None:
            if error is None:
                self._delays.committed(due)
            else:
                self._delays.failed(len(records))
            told(error)

        ids = self._delays.add(topic, records, due, stored)
        return [Receipt(id, topic.name, record.key, None, due) for id, record in zip(ids, records, strict=True)]

    def _publish_once(self, topic: Topic, records: Sequence[Record], told: Told, store: Store) -> list[Receipt]:
        """Leave out what was published before; its receipt is the original's."""
        window = topic.dedup
        if window is None:
            window = topic.dedup = DedupWindow(self.limits.dedup_window, self.limits.dedup_ids)
        now = self.clock.now()
        originals = _originals(window, records, now)
        fresh = [record for record, original in zip(records, originals, strict=True) if original is None]
        remembered: list[tuple[str, str, Any]] = []
        waits = len({id(o) for o in originals if isinstance(o, Original)}) + (1 if fresh else 0)

        def one_done(error: PolywireError | None) -> None:
            nonlocal waits
            waits -= 1
            if error is not None and waits >= 0:
                waits = -1
                told(error)
            elif waits == 0:
                told(None)

        def fresh_done(error: PolywireError | None) -> None:
            for owner, id, original in remembered:
                window.settle(owner, id, original, error)
            one_done(error)

        receipts = iter(store(topic, fresh, sum(r.size() for r in fresh), fresh_done) if fresh else [])
        answers: list[Receipt] = []
        for record, original in zip(records, originals, strict=True):
            if original is None:
                receipt = next(receipts)
                answers.append(receipt)
                if record.flags & Flag.DEDUP:
                    owner = _principal_of(record)
                    remembered.append((owner, record.id, window.remember(owner, record, receipt, now)))
            else:
                first = original.receipt if isinstance(original, Original) else answers[original]
                answers.append(msgspec.structs.replace(first, duplicate=True))
        for original in {id(o): o for o in originals if isinstance(o, Original)}.values():
            original.when_committed(one_done)
        return answers

    def _prepare(self, principal: Principal, name: str, records: list[Record]) -> tuple[Topic, int]:
        """Everything that can refuse a publish, before anything is done. Returns the topic and the records' size."""
        if self.phase != "running":
            self._require_running()
        limits = self.limits
        if not records:
            raise Invalid("nothing to publish")
        if len(records) > limits.batch_messages:
            raise TooLarge(f"a batch has at most {limits.batch_messages} messages, not {len(records)}")
        if not principal.everything:
            for record in records:
                address = name if record.key is None else f"{name}.{key_text(record.key)}"
                self.access.require(principal, Action.PUBLISH, address)
        topic = self._names.get(name) or self.ensure_topic(name)
        if name in _ON_USE_RESERVED or not is_reserved(name):
            size = self._admit(topic, records, self._origin(principal))
        else:
            raise Invalid(f"nobody may publish to {name!r}: the name is reserved")
        if size > limits.batch_size:
            raise TooLarge(f"a batch has at most {limits.batch_size} bytes, not {size}")
        self._count_retained(topic, records)
        self.log.admit(topic, size)
        return topic, size

    def _admit(self, topic: Topic, records: list[Record], origin: Origin) -> int:
        """Check and complete every record; returns their size."""
        size = 0
        admit = topic.admit
        wrong: list[tuple[int, PolywireError]] = []
        for index, record in enumerate(records):
            try:
                check_record(record, self.limits)
                if topic.settings.latest:
                    record.flags |= Flag.RETAINED
                if record.expires is not None:
                    self.log.expiring = True
                if admit is not None:
                    admit(record)
            except (Invalid, TooLarge) as error:
                if len(records) == 1:
                    raise
                wrong.append((index, error))
                continue
            if record.origin is None:
                record.origin = origin
            if not record.id:
                record.id = new_id()
            size += record.size()
        if wrong:
            raise _in_batch(wrong)
        return size

    def _origin(self, principal: Principal) -> Origin:
        origin = self._origins.get(principal.name)
        if origin is None:
            if len(self._origins) > 1_000:
                self._origins.clear()
            origin = self._origins[principal.name] = Origin(principal.name)
        return origin

    def _count_retained(self, topic: Topic, records: Sequence[Record]) -> None:
        if not any([record.flags & Flag.RETAINED for record in records]):
            return
        keys = {stored_key(record.key) for record in records if record.flags & Flag.RETAINED and record.payload}
        if len(topic.retained_keys) + len(keys - topic.retained_keys) > self.limits.retained_keys:
            raise LimitExceeded(f"topic {topic.name!r} keeps its limit of {self.limits.retained_keys} retained keys")

    # Reading

    async def read(
        self,
        principal: Principal,
        topic: str,
        start: Start,
        *,
        limit: int = 100,
        size: int = 1 << 20,
        wait: int = 0,
        key: str | None = None,
    ) -> Page:
        """Up to ``limit`` messages from ``start`` on; waits up to ``wait`` ms for the first. ``key`` is a pattern.

        Raises `NotFound`, `Denied`, `StaleCursor`. A filtered page may be empty and still move on.
        """
        place = self._readable(principal, topic, key)
        limit, size = max(limit, 1), max(size, 1)
        offset = await resolve(self.log, place, start)
        deadline = self.clock.now() + wait
        while True:
            messages, offset = await self._page(place, offset, limit, size, key)
            left = deadline - self.clock.now()
            if messages or left <= 0 or self.phase != "running" or place.deleted:
                return Page(messages, Cursor(place.epoch, offset - 1))
            if offset >= place.head:
                await _appended(place, left)
                self._require_read(principal, topic, key)

    async def _page(self, topic: Topic, offset: int, limit: int, size: int, key: str | None) -> tuple[list[Message], int]:
        messages: list[Message] = []
        looked_at = 0
        while len(messages) < limit and size > 0 and looked_at < _SCAN and offset < topic.head:
            batches = await read_from(self.log, topic, offset, messages=limit if key is None else 1_000, size=size)
            if not batches:
                break
            for batch in batches:
                chosen = select(batch, offset, key, self.clock.now())
                for index in chosen if chosen is not None else range(len(batch)):
                    if len(messages) == limit or (size <= 0 and messages):
                        return messages, batch.offset + index
                    messages.append(batch.message(index))
                    size -= batch.records[index].size()
                offset = batch.offset + len(batch)
                looked_at += len(batch)
        return messages, max(offset, topic.oldest)

    def follow(
        self, principal: Principal, topic: str, start: Start, sink: Sink, *, key: str | None = None, create: bool = False
    ) -> Follower:
        """Everything from ``start`` on and as it comes. ``create``: make the topic if names may be made on use."""
        self._require_running()
        place = self._readable(principal, topic, key, create=create)
        follower = Follower(self.log, place, sink, key)

        def revoked() -> None:
            try:
                self._require_read(principal, topic, key)
            except PolywireError as error:
                follower.end(error)

        forget = principal.on_revoked(revoked)
        self._followers[follower] = forget

        def closed() -> None:
            forget()
            self._followers.pop(follower, None)

        follower.on_close = closed
        follower.begin(start)
        return follower

    async def message(self, principal: Principal, topic: str, position: Position) -> Message:
        """Raises `NotFound`."""
        place = self._readable(principal, topic, None)
        if position.epoch == place.epoch and position.partition == 0 and position.offset >= 0:
            for batch in await read_from(self.log, place, position.offset, messages=1, size=1):
                index = position.offset - batch.offset
                if 0 <= index < len(batch):
                    return batch.message(index)
        raise NotFound(f"topic {topic!r} has no message at {position}", hint="it may have expired")

    async def latest(self, principal: Principal, topic: str, key: bytes | None) -> Message:
        """The retained message of a key. Raises `NotFound`."""
        place = self._readable(principal, topic, key_text(key) if key is not None else None)
        if place.volatile:
            found = place.kept.get(stored_key(key))
            if found is not None and _alive(found.record, self.clock.now()):
                return found
        else:
            stored = await self._engine.retained(place.id, stored_key(key))
            if stored is not None and stored.record is not None and _alive(stored.record, self.clock.now()):
                position = Position(place.epoch, 0, stored.offset)
                return Message(place.name, stored.record, stored.seq, position, stored.appended)
        raise NotFound(f"topic {topic!r} retains no message with key {key_text(key)!r}")

    async def latest_all(self, principal: Principal, topic: str, *, after: bytes | None = None, limit: int = 100) -> list[Message]:
        """Retained messages by key, after the key ``after``."""
        place = self._readable(principal, topic, None)
        cut = stored_key(after) if after is not None else None
        if place.volatile:
            chosen = [m for k, m in sorted(place.kept.items()) if cut is None or k > cut][:limit]
        else:
            chosen = [
                Message(place.name, r.record, r.seq, Position(place.epoch, 0, r.offset), r.appended)
                for r in await self._engine.retained_keys(place.id, after=cut, limit=limit)
                if r.record is not None
            ]
        now = self.clock.now()
        return [message for message in chosen if _alive(message.record, now)]

    async def delayed(self, principal: Principal, topic: str, *, limit: int = 100) -> list[Delayed]:
        """Publishes to this topic that wait for their time, soonest first."""
        place = self._readable(principal, topic, None)
        return await self._engine.delayed(place.id, after=None, limit=limit)

    async def cancel_delayed(self, principal: Principal, topic: str, id: str) -> None:
        """Raises `NotFound`."""
        self.access.require(principal, Action.PUBLISH, topic)
        found = await self._engine.find_delayed(id)
        if found is None or found.topic_id != self._existing(topic).id:
            raise NotFound(f"topic {topic!r} has no delayed message {id[:80]!r}")
        await self._delays.cancel(id)

    def _readable(self, principal: Principal, topic: str, key: str | None, *, create: bool = False) -> Topic:
        self._require_read(principal, topic, key)
        return self.ensure_topic(topic) if create else self._existing(topic)

    def _require_read(self, principal: Principal, topic: str, key: str | None) -> None:
        self.access.require(principal, Action.SUBSCRIBE, f"{topic}.{'#' if key is None else key}")

    # Topics

    def topics(self, principal: Principal) -> list[TopicInfo]:
        """Those the principal may read or publish to."""
        may = self.access.allows
        return [
            topic.info()
            for name, topic in sorted(self._names.items())
            if may(principal, Action.SUBSCRIBE, f"{name}.#") or may(principal, Action.PUBLISH, name) or may(principal, Action.MANAGE, name)
        ]

    def topic_info(self, principal: Principal, name: str) -> TopicInfo:
        return self._readable(principal, name, None).info()

    async def create_topic(self, principal: Principal, settings: TopicSettings) -> TopicInfo:
        """Make it, or find it with the same settings. Raises `Conflict`, `Invalid`, `Denied`."""
        self._require_running()
        self.access.require(principal, Action.MANAGE, settings.name)
        require_topic(settings.name)
        if is_reserved(settings.name):
            raise Invalid(f"the topic name {settings.name!r} is reserved")
        settings.check()
        existing = self._names.get(settings.name)
        if existing is not None and existing.settings != settings:
            raise Conflict(f"topic {settings.name!r} exists with other settings", hint="delete it first, or take another name")
        topic = existing or self._make(settings)
        await self.log.committed()
        return topic.info()

    async def delete_topic(self, principal: Principal, name: str) -> None:
        """Take away the name. What queues still hold stays with them. Raises `NotFound`, `Conflict` for a declared one."""
        self.access.require(principal, Action.MANAGE, name)
        topic = self._existing(name)
        if topic.declared:
            raise Conflict(f"topic {name!r} is declared by the application", hint="take it out of the application first")
        del self._names[name]
        topic.deleted = True
        self._on_use -= topic.on_use
        for follower in [f for f in self._followers if f.reads(topic)]:
            follower.end(NotFound(f"topic {name!r} was deleted"))
        self.log.change(self.topic_state(topic))
        await self.log.committed()

    def ensure_topic(self, name: str, *, internal: bool = False) -> Topic:
        """The topic, made on use where that is allowed. Raises `Invalid`, `NotFound`, `LimitExceeded`."""
        topic = self._names.get(name)
        if topic is not None:
            return topic
        if internal:
            retention = self.limits.dead_letter_retention if name == "_dead" else None
            return self._make(TopicSettings(name, retention=retention))
        if name not in _ON_USE_RESERVED and (not legal_topic(name) or is_reserved(name)):
            require_topic(name)
            raise Invalid(f"the topic name {name!r} is reserved")
        if self.strict:
            raise self._unknown(name)
        if self._on_use >= self.limits.topics_on_use:
            self._refused_on_use += 1
            _logger.warning("topic %s was not made on use: there are %d already", name, self._on_use)
            raise LimitExceeded(f"the hub makes at most {self.limits.topics_on_use} topics on use", hint="declare it, or delete some")
        self._on_use += 1
        topic = self._make(TopicSettings(name), on_use=True)
        return topic

    def _existing(self, name: str) -> Topic:
        topic = self._names.get(name)
        if topic is None:
            raise self._unknown(name)
        return topic

    def _unknown(self, name: str) -> NotFound:
        near = difflib.get_close_matches(name[:250], [n for n in self._names if not n.startswith("_")], 1)
        hint = f"did you mean {near[0]!r}?" if near else "declare it, or create it with PUT /topics/NAME"
        return NotFound(f"no topic {name[:250]!r}", hint=hint)

    def _declare(self, settings: TopicSettings, admit: Admit | None) -> None:
        topic = self._names.get(settings.name)
        if topic is None:
            topic = self._make(settings)
        elif topic.settings.durability != settings.durability:
            raise Conflict(
                f"topic {settings.name!r} is {topic.settings.durability} in the data folder and declared {settings.durability}",
                hint="delete the topic first, or declare it under another name",
            )
        elif topic.settings != settings:
            topic.configure(settings, self.limits)
            self.log.change(self.topic_state(topic))
        self._on_use -= topic.on_use
        topic.on_use = False
        topic.declared = True
        topic.admit = admit

    def _make(self, settings: TopicSettings, *, on_use: bool = False) -> Topic:
        epoch = self._epochs.get(settings.name, 0) + 1
        topic = Topic(self._next_topic, epoch, settings, self.limits)
        topic.on_use = on_use
        self._next_topic += 1
        self._epochs[settings.name] = epoch
        self.log.change(self.topic_state(topic), StateChange(EPOCH_STATE, settings.name, str(epoch).encode()))
        self._place(topic)
        return topic

    def _place(self, topic: Topic) -> None:
        self.log.by_id[topic.id] = topic
        if not topic.deleted:
            self._names[topic.name] = topic
        for binding in self.subscriptions.topic_made(topic.name):
            binding.attach(topic)

    def restore_topic(self, id: int, stored: StoredTopic, epoch: int) -> Topic:
        """Take in a topic found at start, in this epoch."""
        topic = Topic(id, epoch, stored.settings, self.limits)
        topic.deleted = stored.deleted
        topic.on_use = stored.on_use
        self._on_use += stored.on_use and not stored.deleted
        self._next_topic = max(self._next_topic, id + 1)
        self._place(topic)
        return topic

    def restore_epoch(self, name: str, epoch: int) -> None:
        self._epochs[name] = epoch

    def last_epoch(self, name: str) -> int:
        return self._epochs.get(name, 0)

    def drop_topic(self, topic: Topic) -> None:
        """Nothing holds a message of this deleted topic any more: its log goes."""
        for subscription in self.subscriptions:
            for binding in subscription.bindings:
                binding.detach(topic)
        transaction = self.log.change(StateChange(TOPIC_STATE, str(topic.id), None))
        transaction.dropped_topics.append(topic.id)
        self.log.forget_topic(topic)

    def topic_state(self, topic: Topic) -> StateChange:
        return StateChange(TOPIC_STATE, str(topic.id), msgspec.msgpack.encode(topic.stored()))

    def topics_of(self, source: Source, *, deleted: bool = False) -> list[Topic]:
        """The topics a source takes in, now; with ``deleted`` also those that have lost their name."""
        if not deleted:
            exact = self._names.get(source.topic)
            if exact is not None:
                return [exact]
            return [topic for name, topic in self._names.items() if source.takes_topic(name)]
        return [topic for topic in self.log.by_id.values() if source.takes_topic(topic.name)]

    # Figures

    def metrics(self) -> dict[str, float]:
        """The core's and the engine's own figures, by name."""
        log = self.log
        return {
            "tail_bytes": log.tail_size,
            "uncommitted_bytes": log.uncommitted,
            "commit_failures": log.failures,
            "delayed_messages": self._delays.count,
            "followers": len(self._followers),
            "topics_refused_on_use": self._refused_on_use,
            "accepting": 0 if log.full else 1,
            **self._engine.metrics(),
        }

    async def backup(self, principal: Principal, folder: str) -> dict[str, Any]:
        """A consistent copy of the store in a new folder, made while the hub runs. Needs admin."""
        self.access.require(principal, Action.ADMIN, "#")
        await self._upkeep.checkpoint()
        return await self._engine.backup(folder)


def _ignore(error: PolywireError | None) -> None:
    pass


def _principal_of(record: Record) -> str:
    return record.origin.principal if record.origin is not None else ""


def _alive(record: Record, now: int) -> bool:
    return record.expires is None or record.expires > now


def _in_batch(wrong: Sequence[tuple[int, PolywireError]]) -> PolywireError:
    """The first error, saying which records of the batch are wrong, and how."""
    fields: list[FieldError] = []
    for index, error in wrong[:_WRONG]:
        fields += [FieldError(f"$[{index}]{field.path.removeprefix('$')}", field.message) for field in error.fields]
        if not error.fields:
            fields.append(FieldError(f"$[{index}]", error.detail))
    index, first = wrong[0]
    others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return type(first)(
        f"message {index} of the batch: {first.detail}{others}", hint=first.hint, fields=fields, extra=first.extra
    )


def _originals(window: DedupWindow, records: Sequence[Record], now: int) -> list[Original | int | None]:
    """For each record its original: one published before, or the index of one in the same batch. Raises `Conflict`."""
    earlier: dict[tuple[str, str], int] = {}
    found: list[Original | int | None] = []
    for index, record in enumerate(records):
        original: Original | int | None = None
        if record.flags & Flag.DEDUP:
            try:
                first = earlier.setdefault((_principal_of(record), record.id), index)
                if first != index:
                    window.compare(record, records[first])
                    original = first if found[first] is None else found[first]
                else:
                    original = window.find(_principal_of(record), record, now)
            except Conflict as error:
                raise _in_batch([(index, error)]) if len(records) > 1 else error from None
        found.append(original)
    return found


async def _appended(topic: Topic, wait: int) -> None:
    """Until something is appended to the topic, or ``wait`` ms have passed."""
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    topic.waiting.append(wake)
    try:
        await asyncio.wait_for(woken, wait / 1000)
    except TimeoutError:
        pass
    finally:
        if wake in topic.waiting:
            topic.waiting.remove(wake)
