"""The core: what every wire, and the application itself, may ask of the hub. It knows no protocol.

Every call takes the principal first and passes `Access` before it looks at anything else. All calls are made on the
event loop the core was started on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import msgspec

from polywire.core.access import KEY_STATE, Access, Action, Principal
from polywire.core.address import is_reserved, key_text, require_topic
from polywire.core.catalog import Catalog
from polywire.core.clock import Clock, SystemClock
from polywire.core.counters import Counters
from polywire.core.cursors import Cursors
from polywire.core.delays import Delays
from polywire.core.engine import Delayed, Engine, StateChange
from polywire.core.errors import (
    Conflict,
    Invalid,
    NotFound,
    PolywireError,
    Unavailable,
)
from polywire.core.limits import Limits
from polywire.core.log import Log, Told, stored_key
from polywire.core.message import Message, Receipt, Record
from polywire.core.pages import appended, page
from polywire.core.position import Cursor, Position
from polywire.core.publishing import Publishing
from polywire.core.recovery import rebuild_dedup, recover
from polywire.core.streams import Follower, Page, Sink, Start, read_from, resolve
from polywire.core.subscription import Delivery
from polywire.core.subscriptions import Subscriptions
from polywire.core.topics import Admit, Topic, TopicInfo, TopicSettings
from polywire.core.upkeep import Upkeep

__all__ = ["Core", "Phase"]

Phase = Literal["new", "starting", "running", "draining", "stopped", "failed"]

EVENTS = "_events"
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
        self.phase: Phase = "new"
        self.access = Access(self.clock, anonymous_allow=anonymous_allow)
        self.counters = Counters()
        self.log = Log(engine, self.limits, self.clock)
        self.catalog = Catalog(self.log, self.limits, strict=strict)
        self.subscriptions = Subscriptions(self)
        self.catalog.bindings_of = self.subscriptions.topic_made
        self._engine = engine
        self.delays = Delays(self)
        self.cursors = Cursors(self)
        self.publishing = Publishing(self.log, self.catalog, self.access, self.delays)
        self._upkeep = Upkeep(self)
        self._declared: list[tuple[TopicSettings, Admit | None]] = []
        self._followers: dict[Follower, Callable[[], None]] = {}

    # Life

    def declare_topic(self, settings: TopicSettings, admit: Admit | None = None) -> None:
        """Before `start`. Raises `Invalid`."""
        require_topic(settings.name)
        if is_reserved(settings.name) and settings.name != "default":
            raise Invalid(f"the topic name {settings.name!r} is reserved")
        settings.check()
        self._declared.append((settings, admit))

    async def start(self) -> None:
        """Recover what the engine holds and begin to serve.

        Raises `Unavailable`, `Conflict`, `Internal` naming the folder.
        """
        self.phase = "starting"
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._engine.open)
            self.access.load([value for _, value in self._engine.load(KEY_STATE)], self._store)
            recover(self, self._engine)
            self._engine.start(asyncio.get_running_loop())
            for settings, admit in self._declared:
                self.catalog.declare(settings, admit)
            await rebuild_dedup(self, self._engine)
            await self.delays.start()
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
        self.delays.stop()
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

        ``due`` (ms since the epoch) holds them back until then; their receipts have no position. Raises `Invalid`
        (with more than one record, paths begin with ``$[i]``), `Denied`, `Unauthenticated`, `NotFound`, `TooLarge`,
        `LimitExceeded`,
        `Conflict`, `Unavailable`.
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

        self._require_running()
        receipts = self.publishing.publish(principal, topic, records, due, told)
        await stored
        return receipts

    def post(
        self,
        principal: Principal,
        topic: str,
        records: list[Record],
        done: Told | None = None,
        *,
        due: int | None = None,
    ) -> list[Receipt]:
        """As `publish`, without waiting: ``done(None)`` after the commit, ``done(error)`` if it failed."""
        self._require_running()
        return self.publishing.publish(principal, topic, records, due, done or _ignore)

    def publish_settling(
        self, principal: Principal, deliveries: Sequence[Delivery], results: Sequence[tuple[str, list[Record]]]
    ) -> None:
        """Acknowledge deliveries and publish what came of them, in one commit. Raises what `publish` raises, with
        nothing
        done. If the commit fails, the deliveries are pending again and come again."""
        self._require_running()
        self.publishing.settling(principal, deliveries, results)

    def event(self, name: str, **details: object) -> None:
        """Tell of something the hub did by itself, in topic ``_events``."""
        _logger.info("%s %s", name, details)
        payload = msgspec.json.encode({"event": name, **details})
        record = Record(payload, content_type="application/json", key=name.encode())
        self.publishing.internal(EVENTS, [record], None)

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
            messages, offset = await page(self.log, place, offset, limit, size, key)
            left = deadline - self.clock.now()
            if messages or left <= 0 or self.phase != "running" or place.deleted:
                return Page(messages, Cursor(place.epoch, offset - 1))
            if offset >= place.head:
                await appended(place, left)
                self._require_read(principal, topic, key)

    def follow(
        self,
        principal: Principal,
        topic: str,
        start: Start,
        sink: Sink,
        *,
        key: str | None = None,
        create: bool = False,
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

    async def latest_all(
        self, principal: Principal, topic: str, *, after: bytes | None = None, limit: int = 100
    ) -> list[Message]:
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
        if found is None or found.topic_id != self.catalog.existing(topic).id:
            raise NotFound(f"topic {topic!r} has no delayed message {id[:80]!r}")
        await self.delays.cancel(id)

    def _readable(self, principal: Principal, topic: str, key: str | None, *, create: bool = False) -> Topic:
        self._require_read(principal, topic, key)
        return self.catalog.ensure(topic) if create else self.catalog.existing(topic)

    def _require_read(self, principal: Principal, topic: str, key: str | None) -> None:
        self.access.require(principal, Action.SUBSCRIBE, f"{topic}.{'#' if key is None else key}")

    # Topics

    def topics(self, principal: Principal) -> list[TopicInfo]:
        """Those the principal may read or publish to."""
        may = self.access.allows
        return [
            topic.info()
            for topic in self.catalog
            if may(principal, Action.SUBSCRIBE, f"{topic.name}.#")
            or may(principal, Action.PUBLISH, topic.name)
            or may(principal, Action.MANAGE, topic.name)
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
        existing = self.catalog.get(settings.name)
        if existing is not None and existing.settings != settings:
            raise Conflict(
                f"topic {settings.name!r} exists with other settings", hint="delete it first, or take another name"
            )
        topic = existing or self.catalog.make(settings)
        await self.log.committed()
        return topic.info()

    async def delete_topic(self, principal: Principal, name: str) -> None:
        """Take away the name, and what waited to be published to it.

        What queues still hold stays with them. Raises `NotFound`, `Conflict` for a declared one.
        """
        self.access.require(principal, Action.MANAGE, name)
        topic = self.catalog.existing(name)
        if topic.declared:
            raise Conflict(
                f"topic {name!r} is declared by the application", hint="take it out of the application first"
            )
        self.catalog.unname(topic)
        for wake in topic.waiting:
            wake()
        for follower in [f for f in self._followers if f.reads(topic)]:
            follower.end(NotFound(f"topic {name!r} was deleted"))
        await self.log.committed()
        await self.delays.forget(topic)

    # Figures

    def metrics(self) -> dict[str, float]:
        """The core's and the engine's own figures, by name."""
        log = self.log
        return {
            "tail_bytes": log.tail_size,
            "uncommitted_bytes": log.uncommitted,
            "commit_failures": log.failures,
            "delayed_messages": self.delays.count,
            "followers": len(self._followers),
            "topics_refused_on_use": self.catalog.refused_on_use,
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


def _alive(record: Record, now: int) -> bool:
    return record.expires is None or record.expires > now
