"""Publishes that wait for their time: in a table, with one timer for the soonest, so that a delay costs no task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from polywire.core.engine import Delayed
from polywire.core.errors import Invalid, LimitExceeded, NotFound, PolywireError
from polywire.core.message import Flag, Record, new_id

if TYPE_CHECKING:
    from polywire.core.clock import Timer
    from polywire.core.core import Core
    from polywire.core.log import Told
    from polywire.core.topics import Topic

__all__ = ["Delays"]

_logger = logging.getLogger("polywire.delays")
_AT_ONCE = 500
_RETRY = 1_000  # ms


class Delays:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._timer: Timer | None = None
        self._next: int | None = None
        self._releasing: asyncio.Task[None] | None = None
        self._moving: set[str] = set()
        self.count = 0

    async def start(self) -> None:
        self.count = await self._core.log.engine.count_delayed()
        self._arm(await self._core.log.engine.next_due())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._releasing is not None:
            self._releasing.cancel()

    def add(self, topic: Topic, records: Sequence[Record], due: int, told: Told) -> list[str]:
        """Put them into the open transaction. Returns the id by which each waits. Raises `Invalid`, `LimitExceeded`."""
        limits = self._core.limits
        if due - self._core.clock.now() > limits.delay:
            raise Invalid(f"a delay may last {limits.delay} ms at most")
        if self.count + len(records) > limits.delayed:
            raise LimitExceeded(f"the hub holds its limit of {limits.delayed} delayed messages", retry_after=5)
        transaction = self._core.log.open_transaction()
        # Publishers choose the ids of messages and may choose one twice; nothing that waits may replace another.
        waiting = [Delayed(new_id(), due, topic.id, record) for record in records]
        transaction.delayed.extend(waiting)
        transaction.told.append(told)
        self.count += len(records)
        return [one.id for one in waiting]

    def committed(self, due: int) -> None:
        """A delayed publish was stored."""
        if self._next is None or due < self._next:
            self._arm(due)

    def failed(self, count: int) -> None:
        self.count -= count

    async def cancel(self, id: str) -> Delayed:
        """Raises `NotFound`: there is none, or its time has come."""
        found = await self._core.log.engine.find_delayed(id)
        if found is None or id in self._moving:
            raise NotFound(f"no delayed message {id[:80]!r}", hint="it may have been published, or cancelled")
        self._moving.add(id)
        try:
            self._core.log.open_transaction().undelayed.append(id)
            await self._core.log.committed()
        finally:
            self._moving.discard(id)
        self.count -= 1
        return found

    def _arm(self, due: int | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = due
        self._timer = self._core.clock.call_at(due, self._on_time) if due is not None else None

    def _on_time(self) -> None:
        self._timer = None
        if self._releasing is None:
            self._releasing = asyncio.get_running_loop().create_task(self._release())

    async def _release(self) -> None:
        """Give what is due its place in the log, each in the transaction that takes it from the table."""
        engine = self._core.log.engine
        try:
            while due := await engine.due(self._core.clock.now(), limit=_AT_ONCE):
                moved = [waiting for waiting in due if waiting.id not in self._moving]
                for waiting in moved:
                    self._move(waiting)
                self._moving.update(waiting.id for waiting in moved)
                try:
                    await self._core.log.committed()
                finally:
                    self._moving.difference_update(waiting.id for waiting in moved)
                self.count -= len(moved)
            self._next = None
            self._arm(await engine.next_due())
        except PolywireError as error:
            _logger.warning("delayed messages wait on: %s", error)
            self._arm(self._core.clock.now() + _RETRY)
        finally:
            self._releasing = None

    def _move(self, waiting: Delayed) -> None:
        topic = self._core.log.by_id.get(waiting.topic_id)
        if topic is None or topic.deleted or waiting.record is None:
            _logger.warning("delayed message %s: its topic is gone; dropped", waiting.id)
        else:
            record = waiting.record
            record.flags &= ~Flag.DEDUP  # its publish was compared; moving it is no publish
            self._core.log.append(topic, [record], record.size())
        self._core.log.open_transaction().undelayed.append(waiting.id)
