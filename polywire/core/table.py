"""Small things kept by key until their time, on the disk alone: memory holds no more than their number.

A table is the retained messages of a topic of the hub's own that has no others. Beside each entry that expires stands a
mark whose key begins with the time: in order of keys, the marks say what goes next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from polywire.core.engine import Retained
from polywire.core.errors import LimitExceeded, PolywireError, Unavailable
from polywire.core.message import Record

if TYPE_CHECKING:
    from polywire.core.core import Core
    from polywire.core.log import Told
    from polywire.core.topics import Topic

__all__ = ["Entry", "Table"]

_ENTRY, _MARK = b".", b"-"  # marks come first
_TIME = 8  # bytes
_AT_ONCE = 500
_SPARE = 100  # of a full table so much is emptied at once: a hundredth


class Entry(NamedTuple):
    value: bytes
    expires: int | None  # ms since the epoch


class Table:
    """What is put in is in the next commit; `find` sees what is committed."""

    def __init__(self, core: Core, name: str, most: int) -> None:
        self.name = name
        self._core = core
        self._most = most
        self._sweeping = asyncio.Lock()
        self._leaving: set[bytes] = set()  # taken out in a commit that is under way
        self._reads: dict[
            int, set[bytes]
        ] = {}  # of each read under way: what changed meanwhile, for it may answer late
        self.count = 0

    def restore(self, key: bytes) -> None:
        """Take in a stored key found at start."""
        self.count += key[:1] == _ENTRY

    def _topic(self) -> Topic:
        return self._core.catalog.ensure(self.name, internal=True)

    @contextmanager
    def _reading(self) -> Iterator[set[bytes]]:
        changed: set[bytes] = set()
        self._reads[id(changed)] = changed
        try:
            yield changed
        finally:
            del self._reads[id(changed)]

    def _changed(self, keys: Iterable[bytes]) -> None:
        for changed in self._reads.values():
            changed.update(keys)

    async def find(self, key: bytes) -> Entry | None:
        topic = self._core.catalog.get(self.name)
        if topic is None:
            return None
        with self._reading() as changed:
            found = await self._core.log.engine.retained(topic.id, _ENTRY + key)
            if found is None or found.record is None:
                return None
            entry = Entry(found.record.payload, found.record.expires)
            if entry.expires is None or entry.expires > self._core.clock.now():
                return entry
            if key not in changed:
                self._drop(topic, [(entry.expires, key)])
            return None

    async def require_room(self) -> None:
        """For one more entry; what would expire next gives way. Raises `LimitExceeded`, `Unavailable`."""
        if self._core.log.full is not None:
            raise Unavailable(self._core.log.full, retry_after=5, hint="free space, or raise the limit")
        while self.count >= self._most:
            # Others may take the room that is made here: that is no reason to refuse, as long as some can be made.
            if not await self._make_room():
                raise LimitExceeded(f"the hub keeps its limit of {self._most} entries in {self.name}", retry_after=5)

    async def _make_room(self) -> bool:
        async with self._sweeping:
            return self.count < self._most or await self._sweep(self._most - self._most // _SPARE - 1)

    def put(
        self, key: bytes, value: bytes, *, expires: int | None = None, new: bool = True, told: Told | None = None
    ) -> None:
        """In the open transaction; ``told`` hears of the commit. What is not ``new`` replaces what does not expire."""
        topic = self._topic()
        self._keep(topic, _ENTRY + key, Record(value, expires=expires))
        if expires is not None:
            self._keep(topic, _marked(expires, key), Record())
        self._leaving.discard(key)
        self._changed((key,))
        self.count += new

        def done(error: PolywireError | None) -> None:
            if error is not None:
                self.count -= new
            if told is not None:
                told(error)

        self._core.log.open_transaction().told.append(done)

    def _keep(self, topic: Topic, key: bytes, record: Record | None) -> None:
        entry = Retained(topic.id, key, 0, 0, self._core.clock.now(), record)
        self._core.log.open_transaction().retained[topic.id, key] = entry

    def _drop(self, topic: Topic, entries: Iterable[tuple[int, bytes]]) -> int:
        """Take them out, by when they expire and key, in the open transaction. Returns how many were there."""
        fresh = [entry for entry in entries if entry[1] not in self._leaving]
        keys = [key for _, key in fresh]
        for expires, key in fresh:
            self._keep(topic, _marked(expires, key), None)
            self._keep(topic, _ENTRY + key, None)
        self._leaving.update(keys)
        self.count -= len(keys)

        def done(error: PolywireError | None) -> None:
            self._leaving.difference_update(keys)
            self._changed(keys)
            if error is not None:
                self.count += len(keys)

        self._core.log.open_transaction().told.append(done)
        return len(keys)

    async def sweep(self) -> None:
        """Take out what has expired, and of what is too much the oldest."""
        if self.count:
            async with self._sweeping:
                await self._sweep(self._most)

    async def _sweep(self, most: int) -> bool:
        """Whether anything went."""
        look = 1  # nearly always nothing is due
        while (topic := self._core.catalog.get(self.name)) and await self._sweep_some(topic, look, most):
            look = _AT_ONCE
        return look > 1

    async def _sweep_some(self, topic: Topic, look: int, most: int) -> bool:
        """Whether there may be more."""
        with self._reading() as changed:
            await self._core.log.committed()
            found = await self._core.log.engine.retained_keys(topic.id, after=None, limit=look)
            due = self._due(found, most)
            dropped = self._drop(topic, [entry for entry in due if entry[1] not in changed])
        await self._core.log.committed()
        return dropped > 0

    def _due(self, found: Sequence[Retained], most: int) -> list[tuple[int, bytes]]:
        """When they expire, and their keys."""
        now = self._core.clock.now()
        due: list[tuple[int, bytes]] = []
        for one in found:
            if one.key[:1] != _MARK:
                break
            expires, key = int.from_bytes(one.key[1 : 1 + _TIME], "big"), one.key[1 + _TIME :]
            if expires > now and self.count - len(due) <= most:
                break
            due.append((expires, key))
        return due


def _marked(expires: int, key: bytes) -> bytes:
    return _MARK + expires.to_bytes(_TIME, "big") + key
