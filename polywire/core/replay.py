"""Filling a subscription's pending list from what the log already holds: ``start=earliest``, a time, a cursor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from polywire.core.dead_letters import RETRY
from polywire.core.engine import StateChange
from polywire.core.errors import PolywireError
from polywire.core.message import Batch
from polywire.core.position import Cursor
from polywire.core.routing import FOREVER, Binding
from polywire.core.streams import Earliest, Latest, Since, StaleCursor, Start, parse_start, read_from, resolve, select

if TYPE_CHECKING:
    from polywire.core.core import Core
    from polywire.core.subscription import Subscription
    from polywire.core.topics import Topic

__all__ = ["Fills", "fill", "start_text"]

_logger = logging.getLogger("polywire.subscriptions")
_RETRY = 1  # seconds


def start_text(start: Start) -> str:
    """A start as it is stored; `parse_start` reads it, ``@TIME`` aside."""
    if isinstance(start, Earliest):
        return "earliest"
    if isinstance(start, Latest):
        return "latest"
    if isinstance(start, Since):
        return f"@{start.time}"
    return str(start)


def _start_of(text: str) -> Start:
    return Since(int(text[1:])) if text.startswith("@") else parse_start(text)


class Fills:
    """The replays under way, one per subscription at most; nothing is delivered before it has ended."""

    def __init__(self, core: Core, state: Callable[[Subscription], StateChange]) -> None:
        self._core = core
        self._state = state
        self._tasks: dict[Subscription, asyncio.Task[None]] = {}

    def begin(self, subscription: Subscription, start: str) -> None:
        self.cancel(subscription)
        subscription.filling = start
        self._tasks[subscription] = asyncio.get_running_loop().create_task(self._run(subscription, start))

    def cancel(self, subscription: Subscription) -> None:
        subscription.filling = None
        task = self._tasks.pop(subscription, None)
        if task is not None:
            task.cancel()

    def running(self, subscription: Subscription) -> bool:
        return subscription in self._tasks

    async def ended(self, subscription: Subscription) -> None:
        while (task := self._tasks.get(subscription)) is not None:
            await asyncio.wait([task])

    def stop(self) -> None:
        """Those that are cut off here begin again at the next start."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def _run(self, subscription: Subscription, start: str) -> None:
        while True:
            try:
                await fill(self._core, subscription, start)
                break
            except PolywireError as error:
                _logger.warning("subscription %s: replay from %s: %s; tried again", subscription.name, start, error)
                await asyncio.sleep(_RETRY)
        self._tasks.pop(subscription, None)
        subscription.filling = None
        subscription.rewind()
        self._core.log.settled(subscription)
        self._core.log.change(self._state(subscription))
        subscription.pump()


async def fill(core: Core, subscription: Subscription, start: str) -> None:
    """Make pending everything stored from ``start`` on that the subscription's sources take, appended before now.

    What is appended while this runs is routed as ever; it holds nothing twice. After a crash it starts again, before
    any delivery. Redriven messages are left out: they are where they were published first.
    """
    await core.log.committed()
    for binding in [b for b in subscription.bindings if b.end == FOREVER and b.source.topic != RETRY]:
        for topic in core.catalog.of(binding.source):
            async for first, count in _runs(core, topic, binding, await _offset(core, topic, _start_of(start))):
                subscription.hold(first, count, volatile=topic.volatile)
                await asyncio.sleep(0)


async def _offset(core: Core, topic: Topic, start: Start) -> int:
    try:
        return await resolve(core.log, topic, start)
    except StaleCursor as stale:
        return topic.oldest if stale.reason == "expired" or isinstance(start, Cursor) else topic.head


async def _runs(core: Core, topic: Topic, binding: Binding, offset: int) -> AsyncIterator[tuple[int, int]]:
    """Runs of sequence numbers, ``(first, count)``, that the binding takes."""
    if topic.volatile or binding.picks or binding.source.by_key:
        async for batch in _batches(core, topic, offset):
            for index in _chosen(binding, batch, offset, core.clock.now()):
                yield batch.seq + index, 1
        return
    end = topic.head
    while offset < end:
        rows = await core.log.engine.rows(topic.id, offset=offset, limit=1000)
        for row in rows:
            skipped = max(0, offset - row.offset)
            yield row.seq + skipped, row.messages - skipped
        if not rows:
            return
        offset = rows[-1].offset + rows[-1].messages


async def _batches(core: Core, topic: Topic, offset: int) -> AsyncIterator[Batch]:
    end = topic.head
    while offset < end:
        batches = await read_from(core.log, topic, offset, messages=1000, size=1 << 20)
        if not batches:
            return
        for batch in batches:
            yield batch
        offset = batches[-1].offset + len(batches[-1])


def _chosen(binding: Binding, batch: Batch, offset: int, now: int) -> list[int]:
    source, records = binding.source, batch.records
    chosen = select(batch, offset, source.key, now)
    return [
        i
        for i in (chosen if chosen is not None else range(len(batch)))
        if source.takes(records[i]) and not (source.keyless and records[i].key is not None)
    ]
