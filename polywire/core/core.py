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
from polywire.core.address import is_private, is_reserved, key_text, require_topic
from polywire.core.admission import check_pattern
from polywire.core.calls import Calls
from polywire.core.catalog import Catalog
from polywire.core.clock import Clock, SystemClock
from polywire.core.counters import Counters
from polywire.core.cursors import Cursors
from polywire.core.delays import Delays
from polywire.core.endings import Deadline, ended_within
from polywire.core.engine import Delayed, Engine, StateChange
from polywire.core.errors import (
    Conflict,
    Invalid,
    NotFound,
    PolywireError,
    Unavailable,
)
from polywire.core.jobs import Jobs
from polywire.core.kept import alive
from polywire.core.limits import Limits
from polywire.core.live import Live, Pattern
from polywire.core.log import Log, Told, stored_key
from polywire.core.message import Message, Receipt, Record
from polywire.core.pages import appended, delayed_page, page, retained_page
from polywire.core.position import Cursor, Position
from polywire.core.publishing import Publishing
from polywire.core.recovery import rebuild_dedup, recover
from polywire.core.retained import PublishedKeys, RetainedScan
from polywire.core.routing import Source
from polywire.core.schedules import SCHEDULE_STATE, Schedules
from polywire.core.states import WIRE_STATE, States
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
        self._closed_to_clients = False
        self.access = Access(self.clock, anonymous_allow=anonymous_allow, keys=self.limits.api_keys)
        self.counters = Counters()
        self.log = Log(engine, self.limits, self.clock)
        self.catalog = Catalog(self.log, self.limits, strict=strict)
        self.states = States(self.log)
        self.subscriptions = Subscriptions(self)
        self.catalog.bindings_of = self.subscriptions.topic_made
        self.live = Live(self)
        self.published_keys = PublishedKeys(self)
        self.log.offer_live = self.live.publish
        self._engine = engine
        self.delays = Delays(self)
        self.cursors = Cursors(self)
        self.publishing = Publishing(self.log, self.catalog, self.access, self.delays)
        self.calls = Calls(self)
        self.jobs = Jobs(self)
        self.schedules = Schedules(self)
        self.tables = (self.jobs.table, self.calls.replies.table)
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
            for name, value in self._engine.load(SCHEDULE_STATE):
                self.schedules.restore(name, value)
            self.states.restore(self._engine.load(WIRE_STATE))
            originals = recover(self, self._engine)
            self._engine.start(asyncio.get_running_loop())
            for settings, admit in self._declared:
                self.catalog.declare(settings, admit)
            await rebuild_dedup(self, self._engine, originals)
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
        self.live.end(why)
        for subscription in self.subscriptions:
            subscription.end(why)
        for topic in self.log.by_id.values():
            for wake in topic.waiting:
                wake()
        self.subscriptions.stop_fills()
        self.delays.stop()
        await self.log.published()

    def refuse_clients(self) -> None:
        """From now on only the application itself may publish, subscribe and follow: the hub is about to stop."""
        self._closed_to_clients = True

    @property
    def ready(self) -> bool:
        """Whether clients are served."""
        return self.phase == "running" and not self._closed_to_clients

    async def stop(self, *, within: float | None = None) -> asyncio.Task[object] | None:
        """Drain, store the last checkpoint, close the engine, in at most ``within`` seconds (`Limits.drain`).

        What does not end in that time (a disk that does not answer) is left behind, and returned.
        """
        deadline = Deadline(self.limits.drain / 1000 if within is None else within)
        if self.phase == "running":
            await ended_within(deadline.left(0.6), self.drain(), "delivering what was published")
        if self.phase != "draining":
            return None
        self._upkeep.stop()
        try:
            await ended_within(deadline.left(0.6), self._upkeep.checkpoint(), "the last checkpoint")
        except PolywireError as error:
            _logger.warning("the last checkpoint was not stored (%s): the next start routes again", error)
        left = await ended_within(max(1.0, deadline.left()), self._close(), "closing the log")
        self.phase = "stopped"
        return left

    async def _close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._engine.close)

    async def _store(self, changes: Iterable[StateChange]) -> None:
        self.log.change(*changes)
        await self.log.committed()

    def require_running(self, principal: Principal) -> None:
        """Raises `Unavailable`."""
        if self.phase != "running":
            raise Unavailable(f"the hub is {self.phase}", retry_after=1)
        if self._closed_to_clients and principal is not self.access.system:
            raise Unavailable("the hub is stopping", retry_after=1)

    # Publishing

    @property
    def congested(self) -> bool:
        """Too many bytes wait for the log: stop reading publishes from the peer, until `on_relief`."""
        return self.log.congested

    def on_relief(self, callback: Callable[[], None]) -> None:
        self.log.on_relief(callback)

    def require_publisher(self, principal: Principal, topic: str) -> None:
        """Raises as `publish` for who may publish nothing at all to the topic.

        To be asked before a body is read by the topic's type: what is wrong with it would tell of the type.
        """
        self.require_running(principal)
        self.access.require_some_of(principal, Action.PUBLISH, topic)

    def require_subscriber(
        self, principal: Principal, topic: str, key: str | None = None, *, keyless: bool = False
    ) -> None:
        """Raises as a subscription to these messages would (``key`` is a pattern), and does nothing else."""
        self.require_running(principal)
        self.access.require(principal, Action.SUBSCRIBE, Source(topic, key, keyless=keyless).address)
        check_pattern(topic, self.limits)
        check_pattern(key, self.limits)

    async def publish(
        self, principal: Principal, topic: str, records: list[Record], *, due: int | None = None
    ) -> list[Receipt]:
        """Store all of the records or none; returns after they are durable (on a memory topic: delivered).

        ``due`` (ms since the epoch) holds them back until then; their receipts have no position. Raises `Invalid`
        (with more than one record, paths begin with ``$[i]``), `Denied`, `Unauthenticated`, `NotFound`, `TooLarge`,
        `LimitExceeded`, `Conflict`, `Unavailable`.
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

        self.require_running(principal)
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
        self.require_running(principal)
        return self.publishing.publish(principal, topic, records, due, done or _ignore)

    def send(self, principal: Principal, topic: str, records: list[Record], done: Told | None = None) -> None:
        """As `post`, for who needs no receipts."""
        self.require_running(principal)
        self.publishing.send(principal, topic, records, done or _ignore)

    def publish_settling(
        self, principal: Principal, deliveries: Sequence[Delivery], results: Sequence[tuple[str, list[Record]]]
    ) -> None:
        """Acknowledge deliveries and publish what came of them, in one commit. Raises what `publish` raises, with
        nothing
        done. If the commit fails, the deliveries are pending again and come again."""
        self.require_running(principal)
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
        check_pattern(key, self.limits)
        limit, size = max(limit, 1), max(size, 1)
        offset = await resolve(self.log, place, start)
        deadline = self.clock.now() + wait
        while True:
            messages, offset = await page(self.log, place, offset, limit, size, key)
            left = deadline - self.clock.now()
            if messages or left <= 0 or self.phase != "running" or place.deleted:
                return Page(messages, Cursor(place.epoch, offset - 1))
            self._require_read(principal, topic, key)
            if offset >= place.head:
                await appended(place, left, principal)
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
        self.require_running(principal)
        self._require_read(principal, topic, key)
        check_pattern(key, self.limits)
        place = self.catalog.ensure(topic) if create else self.catalog.existing(topic)
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
            if found is not None and alive(found.record, self.clock.now()):
                return found
        else:
            stored = await self._engine.retained(place.id, stored_key(key))
            if stored is not None and stored.record is not None and alive(stored.record, self.clock.now()):
                position = Position(place.epoch, 0, stored.offset)
                return Message(place.name, stored.record, stored.seq, position, stored.appended)
        raise NotFound(f"topic {topic!r} retains no message with key {key_text(key)!r}")

    async def latest_all(
        self, principal: Principal, topic: str, *, after: bytes | None = None, limit: int = 100, size: int = 1 << 20
    ) -> tuple[list[Message], bytes | None]:
        """Up to ``limit`` retained messages or about ``size`` bytes of them, by key, and what to give as ``after`` for
        the next page: None at the end. A page may be empty, for what has expired, and not be the last."""
        return await retained_page(self.log, self._readable(principal, topic, None), after, limit, size)

    def retained(
        self,
        principal: Principal,
        pattern: Pattern,
        *,
        since: int | None = None,
        limit: int = 100,
        size: int = 256 << 10,
    ) -> RetainedScan:
        """All retained messages that a pattern of addresses means (see `polywire.core.live`).

        An asynchronous iterator of pages of up to ``limit`` messages or about ``size`` bytes (`RetainedPage`). To be
        called in the turn in which the subscription is made, so that a subscriber gets each message once: what has a
        seq of ``since`` or more is left out, which is what is appended from now on unless it is said. Raises `Denied`,
        `Unauthenticated`, `Invalid`, `TooLarge`, `Unavailable`; so does the iterator.
        """
        return RetainedScan(self, principal, pattern, since, limit, size)

    async def delayed(
        self,
        principal: Principal,
        topic: str,
        *,
        after: tuple[int, str] | None = None,
        limit: int = 100,
        size: int = 1 << 20,
    ) -> tuple[list[Delayed], tuple[int, str] | None]:
        """Up to ``limit`` publishes to this topic that wait for their time or about ``size`` bytes of them, soonest
        first, and what to give as ``after`` for the next page: None at the end."""
        return await delayed_page(self.log, self._readable(principal, topic, None), after, limit, size)

    async def cancel_delayed(self, principal: Principal, topic: str, id: str) -> None:
        """Raises `NotFound`."""
        self.access.require(principal, Action.PUBLISH, topic)
        found = await self._engine.find_delayed(id)
        if found is None or found.topic_id != self.catalog.existing(topic).id:
            raise NotFound(f"topic {topic!r} has no delayed message {id[:80]!r}")
        await self.delays.cancel(id)

    def _readable(self, principal: Principal, topic: str, key: str | None) -> Topic:
        self._require_read(principal, topic, key)
        return self.catalog.existing(topic)

    def _require_read(self, principal: Principal, topic: str, key: str | None) -> None:
        self.access.require(principal, Action.SUBSCRIBE, f"{topic}.{'#' if key is None else key}")

    # Topics

    def topics(self, principal: Principal) -> list[TopicInfo]:
        """Those the principal may read or publish to, or manage."""
        return [topic.info() for topic in self.catalog if self._may_see(principal, topic.name)]

    def _may_see(self, principal: Principal, name: str) -> bool:
        may = self.access.allows
        if may(principal, Action.SUBSCRIBE, f"{name}.#") or may(principal, Action.PUBLISH, name):
            return True
        return not is_private(name) and may(principal, Action.MANAGE, name)

    def topic_info(self, principal: Principal, name: str) -> TopicInfo:
        return self._readable(principal, name, None).info()

    async def create_topic(self, principal: Principal, settings: TopicSettings) -> TopicInfo:
        """Make it, or find it with the same settings. Raises `Conflict`, `Invalid`, `Denied`."""
        self.require_running(principal)
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
        if is_private(name):
            raise Conflict(f"topic {name!r} is the hub's own")
        if topic.declared:
            raise Conflict(
                f"topic {name!r} is declared by the application", hint="take it out of the application first"
            )
        self.catalog.unname(topic)
        for wake in topic.waiting:
            wake()
        for follower in [f for f in self._followers if f.reads(topic)]:
            follower.end(NotFound(f"topic {name!r} was deleted"))
        self.live.forget(topic)
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
            **self.live.metrics(),
            "topics_refused_on_use": self.catalog.refused_on_use,
            "dead_letters_dropped": self.subscriptions.dead_letters_dropped,
            "jobs": self.jobs.table.count,
            "jobs_running": self.jobs.running,
            "replies": self.calls.replies.table.count,
            "schedule_runs": sum(schedule.runs for schedule in self.schedules),
            "schedule_failures": sum(schedule.failures for schedule in self.schedules),
            "schedule_skips": sum(schedule.skipped for schedule in self.schedules),
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
