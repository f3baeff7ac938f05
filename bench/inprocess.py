"""The hub without a wire: what the log, the subscriptions and the handlers do by themselves."""

from __future__ import annotations

import asyncio
import bisect
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench.figures import HUB, Figures, Measure, Report, percentile
from bench.settings import Run
from polywire import Hub, Topic
from polywire.core.errors import PolywireError
from polywire.core.routing import Source
from polywire.core.subscription import Delivery, SubscriptionSettings

__all__ = ["run"]

DISK = "disk: 4 KiB append + fdatasync"
PUBLISHERS = (1, 50, 500)
WINDOW = 5_000  # messages published and not yet settled
BATCH = 100
BATCHES = 10  # under way at once
SUBSCRIPTIONS = (10, 1_000, 10_000)
OTHER_TOPICS = 100
_STALL = 60


class Reading(msgspec.Struct):
    sensor: str
    celsius: float
    at: str


READING = Reading("greenhouse-7", 21.5, "2026-11-20T10:00:00Z")


def run(report: Report, run: Run) -> None:
    for publishers in PUBLISHERS:
        sides = {HUB: partial(_measured, _publishing, run, publishers), DISK: partial(_syncing, run)}
        report.alternate("inprocess", f"durable publishes, {publishers} at once", sides, run.repeat)
    report.alternate(
        "inprocess",
        "queue subscription, published and acknowledged",
        {HUB: partial(_measured, _consuming, run), "Polywire, handler in Python": partial(_measured, _handling, run)},
        run.repeat,
    )
    for case, measure in _crowds(run).items():
        report.alternate("inprocess", case, {HUB: measure}, run.repeat)


def _measured(work: Callable[..., Coroutine[Any, Any, Figures]], *arguments: Any) -> Figures:
    """On a loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work(*arguments))


def _syncing(run: Run) -> Figures:
    """What the disk does for a program that does nothing else."""
    path = run.place("disk")
    block, waits = os.urandom(4_096), list[float]()
    began = now = time.perf_counter()
    with path.open("ab", buffering=0) as file:
        while now < began + run.seconds:
            file.write(block)
            os.fdatasync(file.fileno())
            before, now = now, time.perf_counter()
            waits.append(now - before)
    path.unlink()
    return _rate("publishes or syncs/s", waits, now - began)


def _rate(name: str, waits: Sequence[float], elapsed: float) -> Figures:
    return {name: len(waits) / elapsed, "p50 ms": percentile(waits, 50) * 1e3, "p99 ms": percentile(waits, 99) * 1e3}


# Publishing


@asynccontextmanager
async def _hub(folder: Path) -> AsyncIterator[tuple[Hub, Topic[Reading]]]:
    hub = Hub("bench", data=folder, strict=False)
    topic = hub.topic("readings", Reading)
    async with hub:
        yield hub, topic


async def _publishing(run: Run, publishers: int) -> Figures:
    async with _hub(run.place("inprocess")) as (_, topic):
        return await _closed_loop(partial(topic.publish, READING), publishers, run.seconds)


async def _closed_loop(publish: Callable[[], Awaitable[object]], publishers: int, seconds: float) -> Figures:
    """Each publisher waits for its acknowledgement before the next; the clock stops after the last one."""
    waits: list[float] = []
    began, used = time.perf_counter(), time.process_time()

    async def one() -> None:
        now = began
        while now < began + seconds:
            await publish()
            before, now = now, time.perf_counter()
            waits.append(now - before)

    await asyncio.gather(*(one() for _ in range(publishers)))
    elapsed, used = time.perf_counter() - began, time.process_time() - used
    return {**_rate("publishes or syncs/s", waits, elapsed), "CPU µs each": used / len(waits) * 1e6}


# Consuming


class _Taken:
    """How many messages were taken, and the waits for that. As a sink it does the least a consumer can do."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: list[tuple[int, asyncio.Event]] = []

    def add(self, number: int) -> None:
        self.count += number
        while self._waiting and self._waiting[0][0] <= self.count:
            self._waiting.pop(0)[1].set()

    async def at_least(self, number: int) -> None:
        if self.count < number:
            reached = asyncio.Event()
            bisect.insort(self._waiting, (number, reached), key=lambda waiting: waiting[0])
            async with asyncio.timeout(_STALL):
                await reached.wait()

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            delivery.ack()
        self.add(len(deliveries))

    def ended(self, error: PolywireError) -> None:
        pass


async def _consuming(run: Run) -> Figures:
    async with _hub(run.place("inprocess")) as (hub, topic):
        core, taken = hub.core, _Taken()
        await core.subscriptions.create(core.access.system, SubscriptionSettings("all", [Source("readings")]))
        core.subscriptions.consume(core.access.system, "all", taken, credit=WINDOW)
        return await _through(hub, topic, taken, run.seconds)


async def _handling(run: Run) -> Figures:
    hub = Hub("bench", data=run.place("inprocess"))
    topic = hub.topic("readings", Reading)
    taken = _Taken()

    @hub.subscribe(topic)
    async def handle(reading: Reading) -> None:
        assert reading.celsius
        taken.add(1)

    async with hub:
        return await _through(hub, topic, taken, run.seconds)


async def _through(hub: Hub, topic: Topic[Reading], taken: _Taken, seconds: float) -> Figures:
    """Publishers of batches, never far ahead; the clock stops when the last acknowledgement is stored."""
    batch = [READING] * BATCH
    sent = 0
    began = time.perf_counter()

    async def one() -> None:
        nonlocal sent
        while time.perf_counter() < began + seconds:
            await taken.at_least(sent + BATCH - WINDOW)
            sent += BATCH
            await topic.publish_many(batch)

    await asyncio.gather(*(one() for _ in range(BATCHES)))
    await taken.at_least(sent)
    await hub.core.log.committed()
    return {"deliveries/s": taken.count / (time.perf_counter() - began)}


# Crowds of subscriptions


def _crowds(run: Run) -> dict[str, Measure]:
    """By what there is of them."""
    sources = {
        f"{count:,} subscriptions by key": [Source("readings", key=f"greenhouse-{number}") for number in range(count)]
        for count in SUBSCRIPTIONS
    }
    most = SUBSCRIPTIONS[-1]
    elsewhere = [Source(f"other-{number % OTHER_TOPICS}") for number in range(most)]
    sources[f"{most:,} subscriptions of other topics"] = [Source("readings"), *elsewhere]
    return {
        f"durable publishes, 50 at once, {what}, one matches": partial(_measured, _crowded, run, chosen)
        for what, chosen in sources.items()
    }


async def _crowded(run: Run, sources: Sequence[Source]) -> Figures:
    async with _hub(run.place("inprocess")) as (hub, topic):
        await _subscribe(hub, sources)
        return await _closed_loop(partial(topic.publish, READING, key="greenhouse-7"), 50, run.seconds)


async def _subscribe(hub: Hub, sources: Sequence[Source]) -> None:
    create, system = hub.core.subscriptions.create, hub.core.access.system
    for first in range(0, len(sources), 1_000):
        await asyncio.gather(
            *(
                create(system, SubscriptionSettings(f"crowd-{first + index}", [source]))
                for index, source in enumerate(sources[first : first + 1_000])
            )
        )
    await hub.core.log.published()
