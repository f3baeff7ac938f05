"""What the tests of the core share: a core on the embedded engine that can be stopped, crashed, started again and
refused its
commits, consumers and readers that keep what they got, and waiting with a deadline."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from polywire.core.clock import ManualClock
from polywire.core.core import Core
from polywire.core.engine import Commit, Done
from polywire.core.errors import PolywireError, Unavailable
from polywire.core.limits import Limits
from polywire.core.message import Batch, Message, Record
from polywire.core.routing import Source
from polywire.core.streams import Reset
from polywire.core.subscription import Consumer, Delivery, SubscriptionInfo, SubscriptionSettings
from polywire.engines.sqlite import SqliteEngine, SqliteSettings

FAST = SqliteSettings(synchronous="OFF", reserve_size=0, switch_interval=0)
DISK_FULL = "the disk is full"


async def until(condition: Callable[[], Any], what: str = "condition", seconds: float = 10) -> None:
    """Poll until ``condition()`` is true; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} was not met within {seconds} s")
        await asyncio.sleep(0.001)


class FaultyEngine:
    """The embedded engine; ``fault`` refuses every commit, ``holding`` keeps commits until `let_go`, `crash` loses
    what is not committed."""

    def __init__(self, folder: Path) -> None:
        self.inner = SqliteEngine(str(folder), settings=FAST)
        self.fault: str | None = None
        self.holding = False
        self.held: list[tuple[Commit, Done]] = []
        self.refused = 0
        self._crashed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def submit(self, commit: Commit, done: Done) -> None:
        if self._crashed:
            return
        if self.fault is not None:
            self.refused += 1
            asyncio.get_running_loop().call_soon(done, commit, Unavailable(self.fault))
        elif self.holding:
            self.held.append((commit, done))
        else:
            self.inner.submit(commit, self._unless_crashed(done))

    def _unless_crashed(self, done: Done) -> Done:
        def told(commit: Commit, error: BaseException | None) -> None:
            if not self._crashed:
                done(commit, error)

        return told

    def let_go(self) -> None:
        self.holding = False
        held, self.held = self.held, []
        for commit, done in held:
            self.submit(commit, done)

    def crash(self) -> None:
        self._crashed = True
        self.inner.close()


class Rig:
    """A core and what a test does to it. ``batch``: how many messages `publish` sends at a time."""

    def __init__(self, folder: Path, limits: Limits | None = None, *, batch: int = 1, **core: Any) -> None:
        self.folder = folder
        self.limits = limits or Limits()
        self.batch = batch
        self.clock = ManualClock()
        self._settings = core
        self.core: Core
        self.engine: FaultyEngine

    async def start(self, before: Callable[[Core], None] | None = None) -> Rig:
        self.engine = FaultyEngine(self.folder)
        self.core = Core(self.engine, limits=self.limits, clock=self.clock, **self._settings)
        if before is not None:
            before(self.core)
        await self.core.start()
        return self

    async def stop(self) -> None:
        await self.core.stop()

    async def restart(self) -> None:
        await self.core.stop()
        await self.start()

    async def crash(self) -> None:
        """As `kill -9`: what is not in the store is gone."""
        core = self.core
        core._upkeep.stop()
        core.delays.stop()
        core.subscriptions.stop_fills()
        for follower in list(core._followers):
            follower.close()
        self.engine.crash()
        core.phase = "stopped"
        # Callbacks of the dead core that the loop still holds run before the next one starts.
        for _ in range(3):
            await asyncio.sleep(0)

    async def crash_and_start(self) -> None:
        await self.crash()
        await self.start()

    @property
    def system(self) -> Any:
        return self.core.access.system

    async def publish(self, topic: str, *payloads: bytes | str | Record, key: str | bytes | None = None) -> list[Any]:
        records = [made(payload, key) for payload in payloads]
        receipts: list[Any] = []
        for first in range(0, len(records), self.batch):
            receipts += await self.core.publish(self.system, topic, records[first : first + self.batch])
        return receipts

    async def subscribe(
        self, name: str = "s", *sources: str | Source, start: Any = None, **settings: Any
    ) -> SubscriptionInfo:
        chosen = [Source(source) if isinstance(source, str) else source for source in sources or ("t",)]
        made = SubscriptionSettings(name=name, sources=chosen, **settings)
        if start is None:
            return await self.core.subscriptions.create(self.system, made)
        return await self.core.subscriptions.create(self.system, made, start)

    def consume(self, name: str = "s", *, credit: int = 10_000, act: Any = None, **more: Any) -> Taker:
        taker = Taker(act)
        taker.consumer = self.core.subscriptions.consume(self.system, name, taker, credit=credit, **more)
        return taker

    async def pull(self, name: str = "s", *, max: int = 10_000, wait: int = 0, **more: Any) -> list[Delivery]:
        return await self.core.subscriptions.pull(self.system, name, max=max, wait=wait, **more)

    def info(self, name: str = "s", kind: str = "queue") -> SubscriptionInfo:
        return self.core.subscriptions.info(self.system, name, kind)

    def pending(self, name: str = "s", kind: str = "queue") -> int:
        return self.info(name, kind).pending

    async def waiting(self, name: str = "s", kind: str = "queue") -> list[bytes]:
        """Payloads of what is pending, in order."""
        await self.quiet()
        peeked = await self.core.subscriptions.peek(self.system, name, limit=100_000, kind=kind)
        return [one.message.record.payload for one in peeked]

    async def quiet(self) -> None:
        """Nothing is being committed, published, read or handed out."""
        calm = 0
        while calm < 3:
            await self.core.log.published()
            busy = [s for s in self.core.subscriptions if s._fetching or s._pumping]
            calm = 0 if busy else calm + 1
            await asyncio.sleep(0.001 if busy else 0)

    async def checkpoint(self) -> None:
        await self.core._upkeep.checkpoint()
        await self.quiet()

    async def round(self) -> None:
        """One round of retention."""
        await self.quiet()
        rounds = self.core._upkeep._rounds
        for _ in range(2):  # the clock may have started one, with what was there then
            rounds.run_soon()
            await until(lambda: rounds._task is None)
        await self.quiet()


def made(payload: bytes | str | Record, key: str | bytes | None = None) -> Record:
    if isinstance(payload, Record):
        return payload
    return Record(
        payload.encode() if isinstance(payload, str) else payload, key=key.encode() if isinstance(key, str) else key
    )


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


class Taker:
    """A consumer. ``act(delivery)`` runs with each delivery; without it they are kept unsettled."""

    def __init__(self, act: Callable[[Delivery], object] | None = None) -> None:
        self.got: list[Delivery] = []
        self.act = act
        self.consumer: Consumer
        self.why: PolywireError | None = None

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.got.append(delivery)
            if self.act is not None:
                self.act(delivery)

    def ended(self, error: PolywireError) -> None:
        self.why = error

    def close(self) -> None:
        self.consumer.close()

    @property
    def payloads(self) -> list[bytes]:
        return [delivery.message.record.payload for delivery in self.got]

    async def wait(self, count: int) -> list[Delivery]:
        await until(lambda: len(self.got) >= count, f"{count} deliveries (there are {len(self.got)})")
        return self.got


class Reader:
    """A sink of a follower. ``room``: how many batches it takes before it says that it is full."""

    def __init__(self, room: int | None = None) -> None:
        self.got: list[Message] = []
        self.resets: list[Reset] = []
        self.why: PolywireError | None = None
        self.room = room
        self.batches = itertools.count()

    def deliver(self, batch: Batch, indexes: Sequence[int] | None) -> bool:
        next(self.batches)
        self.got += [batch.message(index) for index in (range(len(batch)) if indexes is None else indexes)]
        if self.room is None:
            return True
        self.room -= 1
        return self.room > 0

    def reset(self, reset: Reset) -> None:
        self.resets.append(reset)

    def ended(self, error: PolywireError) -> None:
        self.why = error

    @property
    def payloads(self) -> list[bytes]:
        return [message.record.payload for message in self.got]

    async def wait(self, count: int) -> list[bytes]:
        await until(lambda: len(self.got) >= count, f"{count} messages")
        return self.payloads
