"""Reading a topic a page at a time, and waiting for what comes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from polywire.core.message import Message
from polywire.core.streams import read_from, select

if TYPE_CHECKING:
    from polywire.core.log import Log
    from polywire.core.topics import Topic

__all__ = ["appended", "page"]

_SCAN = 20_000  # records one filtered page looks at


async def page(
    log: Log, topic: Topic, offset: int, limit: int, size: int, key: str | None
) -> tuple[list[Message], int]:
    """Up to ``limit`` messages or about ``size`` bytes from ``offset`` on, and the offset that comes next."""
    messages: list[Message] = []
    looked_at = 0
    while len(messages) < limit and size > 0 and looked_at < _SCAN and offset < topic.head:
        batches = await read_from(log, topic, offset, messages=limit if key is None else 1_000, size=size)
        if not batches:
            break
        for batch in batches:
            chosen = select(batch, offset, key, log.clock.now())
            for index in chosen if chosen is not None else range(len(batch)):
                if len(messages) == limit or (size <= 0 and messages):
                    return messages, batch.offset + index
                messages.append(batch.message(index))
                size -= batch.records[index].size()
            offset = batch.offset + len(batch)
            looked_at += len(batch)
    return messages, max(offset, topic.oldest)


async def appended(topic: Topic, wait: int) -> None:
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
