"""A hub under load, what it told its clients, and whether an image of its disk holds all of that."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from polywire.core.core import Core
from polywire.core.errors import Conflict, NotFound, PolywireError, Unavailable
from polywire.core.message import Batch, Flag, Message, Receipt, Record
from polywire.core.routing import Source
from polywire.core.streams import Earliest, Reset, Start
from polywire.core.subscription import Delivery, SubscriptionSettings
from polywire.engines.sqlite import SqliteEngine, SqliteSettings, verify
from tests import powerloss_jobs as jobs

TOPICS = ("single", "batched", "kept", "once", "late", "results", "received")
HOUR = 3_600_000


class Told(NamedTuple):
    """Something the hub said. ``what``: acknowledged, delivered, settled, rejected, returned, delayed, cancelled; and
    before that what was asked for: settling, rejecting, cancelling. Of ``jobs``: see `powerloss_jobs`."""

    what: str
    topic: str
    id: str
    position: str = ""
    count: int = 0


class Life:
    """A core under load, and what it told its clients."""

    def __init__(self, core: Core, chance: random.Random) -> None:
        self.core = core
        self.chance = chance
        self.told: list[Told] = []
        self.sent: dict[str, tuple[str, bytes]] = {}  # id → topic, payload
        self.batches: dict[str, list[str]] = {}
        self._numbers: Counter[str] = Counter()
        self._busy: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        core, who = self.core, self.core.access.system
        for name, topic in (("queue", "single"), ("queue", "batched"), ("work", "single")):
            if core.subscriptions.find(name) is None:
                settings = SubscriptionSettings(name=name, sources=[Source(topic)])
                await core.subscriptions.create(who, settings)
            else:
                await core.subscriptions.bind(who, name, Source(topic))
        for topic in TOPICS:
            core.follow(who, topic, Earliest(), Viewer(self), create=True)
        core.subscriptions.consume(who, "queue", Worker(self, self._settle), credit=20)
        core.subscriptions.consume(who, "work", Worker(self, self._work), credit=20)
        core.jobs.work()

    async def publish(self) -> None:
        """Until it is cancelled."""
        clients = [self._singly(n) for n in range(4)]
        clients += [self._in_batches(n) for n in range(2)]
        clients += [self._keeping(), self._once(), self._soon(), self._much_later()]
        clients += [self._receiving(n) for n in range(2)]
        load = jobs.JobLoad(self.core, self.tell)
        clients += [load.submit(), load.watch(), load.charge("a"), load.charge("b")]
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client)

    def tell(self, what: str, topic: str, id: str, position: object = "", count: int = 0) -> None:
        self.told.append(Told(what, topic, id, str(position), count))

    def _record(self, topic: str, publisher: str, **more: Any) -> Record:
        name = f"{publisher}-{self._numbers[publisher]}"
        self._numbers[publisher] += 1
        payload = name.encode() + b" " + self.chance.randbytes(self.chance.choice((4, 60, 900)))
        self.sent[name] = (topic, payload)
        return Record(payload, id=name, **more)

    async def _send(self, topic: str, *records: Record, due: int | None = None) -> list[Receipt]:
        receipts = await self.core.publish(self.core.access.system, topic, list(records), due=due)
        if due is None:
            for record, receipt in zip(records, receipts, strict=True):
                self.tell("acknowledged", topic, record.id, receipt.position)
        return receipts

    async def _singly(self, number: int) -> None:
        while True:
            await self._send("single", self._record("single", f"s{number}"))

    async def _in_batches(self, number: int) -> None:
        for count in itertools.count():
            records = [self._record("batched", f"b{number}") for _ in range(self.chance.randint(2, 12))]
            self.batches[f"{number}/{count}"] = [record.id for record in records]
            await self._send("batched", *records)

    async def _keeping(self) -> None:
        while True:
            record = self._record("kept", "k", key=b"key%d" % self.chance.randrange(5), flags=int(Flag.RETAINED))
            if self.chance.random() < 0.2:
                record.payload = b""
                self.sent[record.id] = ("kept", b"")
            await self._send("kept", record)

    async def _once(self) -> None:
        earlier: list[Record] = []
        while True:
            record = self._record("once", "o", flags=int(Flag.DEDUP))
            await self._send("once", record)
            earlier.append(record)
            await self._send("once", self.chance.choice(earlier[-20:]))

    async def _receiving(self, number: int) -> None:
        """As a wire that receives each message exactly once: what it keeps of a client goes with the message."""
        while True:
            record = self._record("received", f"r{number}")
            stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def told(error: PolywireError | None, stored: asyncio.Future[None] = stored) -> None:
                if not stored.done():
                    stored.set_result(None) if error is None else stored.set_exception(error)

            [receipt] = self.core.post(self.core.access.system, "received", [record], told)
            self.core.states.put("received", f"r{number}", record.id.encode(), tied=True)
            await stored
            self.tell("acknowledged", "received", record.id, receipt.position)

    async def _soon(self) -> None:
        while True:
            record = self._record("late", "soon")
            await self._send("late", record, due=self.core.clock.now() + self.chance.randint(1, 20))
            self.tell("delayed", "late", record.id)
            await asyncio.sleep(0.002)

    async def _much_later(self) -> None:
        who = self.core.access.system
        while True:
            record = self._record("late", "later")
            receipt = (await self._send("late", record, due=self.core.clock.now() + HOUR))[0]
            self.tell("delayed", "late", record.id)
            if self.chance.random() < 0.5:
                self.tell("cancelling", "late", record.id)
                await self.core.cancel_delayed(who, "late", receipt.id)
                self.tell("cancelled", "late", record.id)

    def deliver_later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _settle(self, deliveries: Sequence[Delivery]) -> None:
        done: list[Told] = []
        for delivery in deliveries:
            at = (delivery.message.topic, delivery.message.record.id, str(delivery.message.position))
            what = self.chance.random()
            if what < 0.7:
                self.tell("settling", *at)
                delivery.ack()
                done.append(Told("settled", *at))
            elif what < 0.8:
                self.tell("rejecting", *at)
                delivery.reject("no")
                done.append(Told("rejected", *at))
            else:
                delivery.nack()
                done.append(Told("returned", *at, delivery.attempt))
        await self.core.log.committed()
        self.told += done

    async def _work(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            name = delivery.message.record.id
            result = Record(b"of " + name.encode(), id=f"result of {name}")
            self.sent[result.id] = ("results", result.payload)
            with contextlib.suppress(Unavailable):  # the hub stops
                self.core.publish_settling(self.core.access.system, [delivery], [("results", [result])])


class Worker:
    """A consumer that notes what it is given before it does anything with it."""

    def __init__(self, life: Life, work: Any) -> None:
        self._life = life
        self._work = work

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            message = delivery.message
            self._life.tell("delivered", message.topic, message.record.id, message.position)
        self._life.deliver_later(self._work(deliveries))

    def ended(self, error: PolywireError) -> None:
        pass


class Viewer:
    def __init__(self, life: Life) -> None:
        self._life = life

    def deliver(self, batch: Batch, indexes: Sequence[int] | None) -> bool:
        for index in range(len(batch)) if indexes is None else indexes:
            message = batch.message(index)
            self._life.tell("delivered", batch.topic, message.record.id, message.position)
        return True

    def reset(self, reset: Reset) -> None:
        raise AssertionError(reset)

    def ended(self, error: PolywireError) -> None:
        pass


# --- what an image holds ---------------------------------------------------------------------------------------------


class Image:
    """A fresh core on an image, and what was told before it was taken."""

    def __init__(self, core: Core, life: Life, told: Sequence[Told]) -> None:
        self.core = core
        self.life = life
        self.told = told
        self.log: dict[str, list[Message]] = {}
        self.wrong: list[str] = []

    def all_told(self, what: str) -> list[Told]:
        return [told for told in self.told if told.what == what]

    async def read(self) -> None:
        await self._release_due()
        for topic in TOPICS:
            self.log[topic] = await _read(self.core, topic)
        self._look_at_log()
        self._look_at_received()
        await self._look_at_kept()
        await self._look_at_delayed()
        await self._look_at_queue()
        await self._look_at_work()
        told = [jobs.Told(one.what, one.id, one.position) for one in self.told if one.topic == "jobs"]
        self.wrong += await jobs.wrong_jobs(self.core, told)
        await self._publish_once_more()

    async def _release_due(self) -> None:
        """What was due while the power was off is published at once."""
        if not any(told.topic == "late" for told in self.told):
            return
        deadline = time.monotonic() + 5
        while any(waiting.due <= self.core.clock.now() + 100 for waiting in await _delayed(self.core)):
            assert time.monotonic() < deadline, "due messages are not released"
            await asyncio.sleep(0.001)
        await self.core.log.published()

    def _look_at_log(self) -> None:
        there = {(topic, str(m.position)): (m.record.id, m.record.payload) for topic in TOPICS for m in self.log[topic]}
        for told in self.told:
            if told.what in ("acknowledged", "delivered"):
                sent = (told.id, self.life.sent[told.id][1])
                if there.get((told.topic, told.position)) != sent:
                    self.wrong.append(f"{told} is missing, or is not as it was")
        counts = Counter(m.record.id for topic in TOPICS for m in self.log[topic])
        for name, count in counts.items():
            if count > 1:
                self.wrong.append(f"{name} is there {count} times")
        for (topic, _), (name, payload) in there.items():
            if self.life.sent.get(name) != (topic, payload):
                self.wrong.append(f"{name} in {topic} was not sent so")
        for ids in self.life.batches.values():
            if len({name in counts for name in ids}) > 1:
                self.wrong.append(f"a part of batch {ids} is there")
        for topic in ("single", "batched", "kept", "once", "received"):
            self._look_at_order(topic)

    def _look_at_order(self, topic: str) -> None:
        last: dict[str, int] = {}
        for message in self.log[topic]:
            publisher, number = message.record.id.rsplit("-", 1)
            if int(number) <= last.get(publisher, -1):
                self.wrong.append(f"{message.record.id} comes after number {last[publisher]}")
            last[publisher] = int(number)

    def _look_at_received(self) -> None:
        last = {message.record.id.rpartition("-")[0]: message.record.id.encode() for message in self.log["received"]}
        known = self.core.states.take("received")
        if known != last:
            self.wrong.append(f"received: {last}, known of that: {known}")

    async def _look_at_kept(self) -> None:
        expected: dict[bytes | None, str] = {}
        for message in self.log["kept"]:
            if message.record.payload:
                expected[message.record.key] = message.record.id
            else:
                expected.pop(message.record.key, None)
        if not self.log["kept"]:
            return
        kept, _ = await self.core.latest_all(self.core.access.system, "kept")
        if {message.record.key: message.record.id for message in kept} != expected:
            self.wrong.append(f"retained: {kept}, expected {expected}")

    async def _look_at_delayed(self) -> None:
        waiting = Counter(delayed.record.id for delayed in await _delayed(self.core) if delayed.record)
        there = Counter(message.record.id for message in self.log["late"])
        cancelled = {told.id for told in self.all_told("cancelled")}
        perhaps = {told.id for told in self.all_told("cancelling")} - cancelled
        for told in self.all_told("delayed"):
            count = waiting[told.id] + there[told.id]
            if count != (0 if told.id in cancelled else 1) and not (count == 0 and told.id in perhaps):
                self.wrong.append(f"{told}: {waiting[told.id]} waiting, {there[told.id]} published")

    async def _look_at_queue(self) -> None:
        pending = await self._pending("queue")
        dead = Counter(_headers(m)["polywire-position"] + m.record.id for m in await _read(self.core, "_dead"))
        settling = {(told.topic, told.position) for told in self.all_told("settling")}
        rejecting = {(told.topic, told.position): told.id for told in self.all_told("rejecting")}
        for told in self.told:
            at = (told.topic, told.position)
            if told.what in ("settled", "rejected") and at in pending:
                self.wrong.append(f"{told} is pending")
            if told.what == "returned" and pending.get(at, told.count) < told.count:
                self.wrong.append(f"{told}: only {pending[at]} attempts are known")
        for topic in ("single", "batched"):
            for message in self.log[topic]:
                at = (topic, str(message.position))
                if at not in pending and at not in settling and at not in rejecting:
                    self.wrong.append(f"{at} is not pending, though nobody settled it")
        for (topic, position), name in rejecting.items():
            held = (topic, position) in pending
            # A rejection that a loss undid may have become an acknowledgement later.
            fewest = 0 if (topic, position) in settling else 1
            if not fewest <= dead[position + name] + held <= 1:
                self.wrong.append(f"{name} was rejected: {dead[position + name]} dead letters, pending: {held}")

    async def _look_at_work(self) -> None:
        pending = await self._pending("work")
        results = Counter(message.record.id for message in self.log["results"])
        for message in self.log["single"]:
            held = ("single", str(message.position)) in pending
            if results[f"result of {message.record.id}"] + held != 1:
                count = results[f"result of {message.record.id}"]
                self.wrong.append(f"{message.record.id}: pending: {held}, results: {count}")

    async def _pending(self, name: str) -> dict[tuple[str, str], int]:
        """By place: how many attempts there were."""
        if self.core.subscriptions.find(name) is None:
            return {}
        peeked = await self.core.subscriptions.peek(self.core.access.system, name, limit=100_000)
        return {(p.message.topic, str(p.message.position)): p.attempts for p in peeked}

    async def _publish_once_more(self) -> None:
        """The idempotency keys of the log are known again; with another body they are refused."""
        who = self.core.access.system
        for message in self.log["once"][-5:]:
            again = Record(message.record.payload, id=message.record.id, flags=int(Flag.DEDUP))
            receipt = (await self.core.publish(who, "once", [again]))[0]
            if not receipt.duplicate or receipt.position != message.position:
                self.wrong.append(f"{message} was published again: {receipt}")
            other = msgspec.structs.replace(again, payload=b"other")
            with contextlib.suppress(Conflict):
                self.wrong.append(f"another body: {await self.core.publish(who, 'once', [other])}")


def _headers(message: Message) -> dict[str, Any]:
    return dict(message.record.headers)


async def _read(core: Core, topic: str) -> list[Message]:
    found: list[Message] = []
    start: Start = Earliest()
    with contextlib.suppress(NotFound):
        while (page := await core.read(core.access.system, topic, start, limit=10_000, size=1 << 30)).messages:
            found += page.messages
            start = page.next
    return found


async def _delayed(core: Core) -> list[Any]:
    try:
        waiting, _ = await core.delayed(core.access.system, "late", limit=100_000, size=1 << 30)
    except NotFound:
        return []
    return waiting


async def losses(image: Path, life: Life, told: Sequence[Told]) -> list[str]:
    """What is wrong with the hub that comes up on an image."""
    core = Core(SqliteEngine(str(image), settings=SqliteSettings(reserve_size=0, synchronous="OFF")))
    jobs.declare(core)
    try:
        await core.start()
    except PolywireError as error:
        return [f"cannot be opened: {error}"]
    found = Image(core, life, told)
    try:
        await found.read()
    except PolywireError as error:
        found.wrong.append(f"cannot be read: {error}")
    finally:
        await core.stop()
    report = verify(str(image))
    return found.wrong + report["errors"]
