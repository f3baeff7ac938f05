"""What the tests of operations depend on: a database that knows whether it is open, and generators that use it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

from polywire import (
    Depends,
    Hub,
)


class Database:
    """A dependency that knows whether it is open."""

    opened = 0
    closed = 0

    def __init__(self) -> None:
        type(self).opened += 1
        self.open = True

    def close(self) -> None:
        type(self).closed += 1
        self.open = False


def database() -> Iterator[Database]:
    made = Database()
    try:
        yield made
    finally:
        made.close()


async def async_database() -> AsyncIterator[Database]:
    made = Database()
    try:
        yield made
    finally:
        made.close()


Db = Annotated[Database, Depends(database)]
AsyncDb = Annotated[Database, Depends(async_database)]


def make(tmp_path: Path, **settings: Any) -> Hub:
    return Hub("test", data=tmp_path, **settings)


async def collect(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def declare_counts(hub: Hub) -> None:
    @hub.operation
    async def count(to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @hub.operation
    def count_in_thread(to: int) -> Iterator[int]:
        for number in range(to):
            assert threading.current_thread() is not threading.main_thread()
            yield number

    @hub.operation
    async def count_with(to: int, db: AsyncDb) -> AsyncIterator[int]:
        for number in range(to):
            assert db.open
            yield number

    @hub.operation
    def count_in_thread_with(to: int, db: Db) -> Iterator[int]:
        for number in range(to):
            assert db.open
            yield number
