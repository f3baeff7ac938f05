"""A hub that takes in many messages, and tells what memory it holds then.

``python -m bench.filled caught-up|backlog COUNT DATA``
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence

import msgspec
import uvloop

from bench.machine import resident
from polywire import Hub
from polywire.core.core import Core
from polywire.core.errors import PolywireError
from polywire.core.message import Record
from polywire.core.routing import Source
from polywire.core.subscription import Delivery, SubscriptionSettings

BATCH = 1_000
UNDER_WAY = 10  # batches
AHEAD = 50_000  # messages that a consumer may be behind
MIB = 1 << 20
PAYLOAD = b'{"sensor":"greenhouse-7","celsius":21.5,"at":"2026-11-20T10:00:00Z"}'


class Acknowledging:
    def __init__(self) -> None:
        self.taken = 0
        self._wake = asyncio.Event()

    async def at_least(self, count: int) -> None:
        while self.taken < count:
            self._wake.clear()
            await self._wake.wait()

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            delivery.ack()
        self.taken += len(deliveries)
        self._wake.set()

    def ended(self, error: PolywireError) -> None:
        pass


async def main(mode: str, count: int, data: str) -> None:
    async with Hub("bench", data=data, strict=False) as hub:
        core = hub.core
        before = resident(os.getpid())
        await core.subscriptions.create(core.access.system, SubscriptionSettings("all", [Source("readings")]))
        consumer = Acknowledging() if mode == "caught-up" else None
        if consumer is not None:
            core.subscriptions.consume(core.access.system, "all", consumer, credit=AHEAD)
        began = time.perf_counter()
        await fill(core, count, consumer)
        elapsed = time.perf_counter() - began
        await asyncio.sleep(2)  # a checkpoint
        held = resident(os.getpid())
        pending = core.subscriptions.info(core.access.system, "all").pending
    assert pending == (count if consumer is None else 0), f"{pending} messages are pending"
    print(msgspec.json.encode({"MiB": held / MIB, "MiB before": before / MIB, "messages/s": count / elapsed}).decode())


async def fill(core: Core, count: int, consumer: Acknowledging | None) -> None:
    for sent in range(0, count, BATCH * UNDER_WAY):
        until = min(count, sent + BATCH * UNDER_WAY)
        await asyncio.gather(*(publish(core, min(BATCH, until - first)) for first in range(sent, until, BATCH)))
        if consumer is not None:
            await consumer.at_least(until - AHEAD)
    if consumer is not None:
        await consumer.at_least(count)
    await core.log.published()


async def publish(core: Core, count: int) -> None:
    records = [Record(PAYLOAD, content_type="application/json") for _ in range(count)]
    await core.publish(core.access.system, "readings", records)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
