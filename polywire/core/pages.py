"""Reading a topic, what it retains and what waits for it a page at a time, and waiting for what comes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from polywire.core.kept import alive
from polywire.core.message import Message
from polywire.core.position import Position
from polywire.core.streams import read_from, select

if TYPE_CHECKING:
    from polywire.core.access import Principal
    from polywire.core.engine import Delayed
    from polywire.core.log import Log
    from polywire.core.topics import Topic

__all__ = ["appended", "delayed_page", "page", "retained_page"]

_SCAN = 20_000  # records one filtered page looks at
_LOOK = 16 << 20  # bytes of retained messages, expired ones too, that one page looks at, about
_OVERHEAD = 400


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


async def retained_page(
    log: Log, topic: Topic, after: bytes | None, limit: int, size: int
) -> tuple[list[Message], bytes | None]:
    """Up to ``limit`` retained messages or about ``size`` bytes of them in order of key, behind the stored key
    ``after``, and the stored key behind which it goes on: None at the end. Among expired ones a page may be empty and
    still go on."""
    limit, size, now = max(limit, 1), max(size, 1), log.clock.now()
    if topic.volatile:
        return topic.kept.page(after, limit, size, now)
    messages: list[Message] = []
    room = _LOOK
    while found := await log.engine.retained_keys(topic.id, after=after, limit=limit - len(messages) + 1):
        for _, key, seq, offset, stored, record in found:
            if len(messages) == limit or size <= 0 or room <= 0:
                return messages, after
            after = key
            room -= _OVERHEAD + (record.size() if record is not None else 0)
            if record is not None and alive(record, now):
                size -= record.size()
                messages.append(Message(topic.name, record, seq, Position(topic.epoch, 0, offset), stored))
    return messages, None


async def delayed_page(
    log: Log, topic: Topic, after: tuple[int, str] | None, limit: int, size: int
) -> tuple[list[Delayed], tuple[int, str] | None]:
    """Up to ``limit`` waiting publishes or about ``size`` bytes of them, soonest first, behind ``after``, a due time
    and an id; and behind what it goes on: None at the end."""
    limit, size = max(limit, 1), max(size, 1)
    waiting: list[Delayed] = []
    while found := await log.engine.delayed(topic.id, after=after, limit=limit - len(waiting) + 1):
        for one in found:
            if len(waiting) == limit or size <= 0:
                return waiting, after
            after = (one.due, one.id)
            size -= one.record.size() if one.record is not None else 0
            waiting.append(one)
    return waiting, None


async def appended(topic: Topic, wait: int, principal: Principal) -> None:
    """Until something is appended to the topic, rights of ``principal`` are taken away, or ``wait`` ms have passed."""
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    topic.waiting.append(wake)
    forget = principal.on_revoked(wake)
    try:
        await asyncio.wait_for(woken, wait / 1000)
    except TimeoutError:
        pass
    finally:
        forget()
        if wake in topic.waiting:
            topic.waiting.remove(wake)
