"""A declared topic in the hands of the application."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from polywire.contract.topics import TopicContract
from polywire.core.durations import parse_duration
from polywire.core.errors import PolywireError
from polywire.core.message import Batch, Flag, Header, Receipt, Record
from polywire.core.position import Cursor
from polywire.core.streams import Follower, Reset, Since, StaleCursor, Start, parse_start
from polywire.message import Message

if TYPE_CHECKING:
    from polywire.router import Declarations

__all__ = ["Topic", "start_of"]

T = TypeVar("T")

Key = str | bytes | None
Headers = Mapping[str, Any] | Sequence[Header] | None
_BUFFERED = 1_000  # messages a follower holds for an application that is slower than the topic


class Topic(Generic[T]):
    """``Topic[Reading]`` takes and gives ``Reading``s; type checkers refuse anything else."""

    def __init__(self, owner: Declarations, contract: TopicContract[T]) -> None:
        self._owner = owner
        self.contract = contract

    @property
    def name(self) -> str:
        return self.contract.settings.name

    def __repr__(self) -> str:
        return f"<Topic {self.name} of {self.contract.codec.name}>"

    async def publish(
        self,
        value: T,
        *,
        key: Key = None,
        headers: Headers = None,
        id: str | None = None,
        delay: str | float | None = None,
        retain: bool = False,
    ) -> Receipt:
        """Store one message; returns when it is durable.

        ``id`` makes it idempotent: a second publish with the same id and content is answered with the first one's
        receipt. ``delay`` (``"10m"``, or seconds) holds it back; the receipt has no position then. Raises `Invalid`,
        `Conflict`, `TooLarge`, `LimitExceeded`, `Unavailable`.
        """
        record = self._record(value, key, headers, id, retain)
        core = self._owner.core
        due = core.clock.now() + parse_duration(delay) if delay is not None else None
        return (await core.publish(core.access.system, self.name, [record], due=due))[0]

    async def publish_many(self, values: Iterable[T], *, headers: Headers = None) -> list[Receipt]:
        """Store all or none. Raises as `publish`; paths of a bad value begin with ``$[i]``."""
        records = [self._record(value, None, headers, None, False) for value in values]
        core = self._owner.core
        return await core.publish(core.access.system, self.name, records) if records else []

    def send(
        self,
        value: T,
        *,
        key: Key = None,
        headers: Headers = None,
        id: str | None = None,
        delay: str | float | None = None,
        retain: bool = False,
    ) -> Receipt:
        """`publish` for ``def`` handlers and other threads; blocks. Raises `RuntimeError` on the hub's own thread."""
        return self._owner.run_from_thread(
            self.publish(value, key=key, headers=headers, id=id, delay=delay, retain=retain)
        )

    async def follow(
        self, start: str | datetime | Cursor = "latest", *, key: str | None = None
    ) -> AsyncIterator[Message[T]]:
        """Messages from ``start`` on, and as they come, until the hub stops. ``key`` is a pattern.

        Raises `StaleCursor` for a cursor of no use, `Invalid` for a start that is none.
        """
        core = self._owner.core
        sink = _Inbox(self.name)
        follower = core.follow(core.access.system, self.name, start_of(start), sink, key=key)
        sink.follower = follower
        try:
            while (message := await sink.next()) is not None:
                yield Message(message, self.contract.codec)
        finally:
            follower.close()

    def _record(self, value: T, key: Key, headers: Headers, id: str | None, retain: bool) -> Record:
        record = self.contract.record(value)
        if key is not None:
            record.key = key.encode() if isinstance(key, str) else key
        if headers:
            record.headers = list(headers.items() if isinstance(headers, Mapping) else headers)
        if id is not None:
            record.id = id
            record.flags |= Flag.DEDUP
        if retain:
            record.flags |= Flag.RETAINED
        return record


class _Inbox:
    """Holds what a follower delivers until the application takes it."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.follower: Follower | None = None
        self._messages: deque[Any] = deque()
        self._wake = asyncio.Event()
        self._stale: Reset | None = None
        self._ended: PolywireError | None = None
        self._full = False

    def deliver(self, batch: Batch, indexes: Sequence[int] | None) -> bool:
        self._messages.extend(batch.message(i) for i in (indexes if indexes is not None else range(len(batch))))
        self._wake.set()
        self._full = len(self._messages) >= _BUFFERED
        return not self._full

    def reset(self, reset: Reset) -> None:
        self._stale = reset
        self._wake.set()

    def ended(self, error: PolywireError) -> None:
        self._ended = error
        self._wake.set()

    async def next(self) -> Any | None:
        """None when the hub stops."""
        while True:
            if self._stale is not None:
                stale, self._stale = self._stale, None
                raise StaleCursor(self.topic, stale.reason, stale.oldest, stale.newest)
            if self._messages:
                return self._messages.popleft()
            if self._full and self.follower is not None:
                self._full = False
                self.follower.resume()
                continue
            if self._ended is not None:
                if self._ended.code == "unavailable":
                    return None
                raise self._ended
            self._wake.clear()
            await self._wake.wait()


def start_of(start: str | datetime | Cursor) -> Start:
    if isinstance(start, datetime):
        return Since(int(start.timestamp() * 1000))
    return start if isinstance(start, Cursor) else parse_start(start)
