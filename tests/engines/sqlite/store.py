"""What tests of the embedded engine share: an engine in a folder, a log that numbers its batches, awaited commits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from polywire.core.engine import Commit
from polywire.core.message import Batch, Record
from polywire.engines.sqlite import SqliteEngine, SqliteSettings

T = TypeVar("T")
SETTINGS = SqliteSettings(reserve_size=1 << 20)


class Log:
    """Gives sequence numbers and offsets, as the core does."""

    def __init__(self) -> None:
        self.seq = 1
        self.next: dict[int, int] = {}

    def batch(self, topic: int, *records: Record | bytes, appended: int = 1000) -> Batch:
        made = [record if isinstance(record, Record) else Record(record) for record in records]
        offset = self.next.get(topic, 0)
        batch = Batch(
            topic="t", topic_id=topic, epoch=1, seq=self.seq, offset=offset, appended=appended, records=made
        )  # fmt: skip
        batch.size = sum(record.size() for record in made)
        self.seq += len(made)
        self.next[topic] = offset + len(made)
        return batch


def commit_of(*appends: Batch, **fields: Any) -> Commit:
    commit = Commit()
    commit.appends = list(appends)
    for name, value in fields.items():
        setattr(commit, name, value)
    return commit


async def write(engine: SqliteEngine, *appends: Batch, **fields: Any) -> None:
    """Submit one commit and wait until it is durable. Raises what the engine reports."""
    await submit(engine, commit_of(*appends, **fields))


async def submit(engine: SqliteEngine, commit: Commit) -> None:
    written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(told: Commit, error: BaseException | None) -> None:
        assert told is commit
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(error)

    engine.submit(commit, done)
    await written


@contextlib.asynccontextmanager
async def running(
    folder: Path, settings: SqliteSettings = SETTINGS, *, vfs: str | None = None
) -> AsyncIterator[SqliteEngine]:
    engine = SqliteEngine(str(folder), settings=settings, vfs=vfs)
    engine.open()
    try:
        engine.start(asyncio.get_running_loop())
        yield engine
    finally:
        engine.close()


async def until(figure: Callable[[], Awaitable[T]], expected: T) -> None:
    """Ask again and again until the answer is this. Raises `AssertionError` after ten seconds."""
    found = await figure()
    deadline = time.monotonic() + 10
    while found != expected:
        assert time.monotonic() < deadline, f"{found!r} instead of {expected!r}"
        await asyncio.sleep(0.001)
        found = await figure()


def payloads(batches: list[Batch]) -> list[bytes]:
    return [record.payload for batch in batches for record in batch.records]
