"""Publishes that wait for their time: in a table, with one timer for the soonest, so that a delay costs no task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from polywire.core.dedup import ORIGINAL_STATE
from polywire.core.engine import Delayed, StateChange
from polywire.core.errors import Invalid, LimitExceeded, NotFound, PolywireError
from polywire.core.message import Flag, Record, new_id
from polywire.core.publishing import check_retained

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
        self._moving: set[str] = set()  # in a transaction that is not committed yet
        self._gone: set[str] = set()  # committed while somebody reads the table
        self._readers = 0
        self.count = 0

    async def start(self) -> None:
        self.count = await self._core.log.engine.count_delayed()
        self._arm(await self._core.log.engine.next_due())

    @property
    def releasing(self) -> bool:
        """Whether what is due is on its way into the log."""
        return self._releasing is not None

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._releasing is not None:
            self._releasing.cancel()

    def add(self, topic: Topic, records: Sequence[Record], due: int, told: Told | None = None) -> list[str]:
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
        transaction.told.append(partial(self._stored, due, len(records)))
        if told is not None:
            transaction.told.append(told)
        self.count += len(records)
        return [one.id for one in waiting]

    def _stored(self, due: int, count: int, error: PolywireError | None) -> None:
        if error is not None:
            self.count -= count
        elif self._next is None or due < self._next:
            self._arm(due)

    async def cancel(self, id: str) -> Delayed:
        """Raises `NotFound`: there is none, or its time has come."""
        with self._reading():
            found = await self._core.log.engine.find_delayed(id)
            if found is None or not self._free(id):
                raise NotFound(f"no delayed message {id[:80]!r}", hint="it may have been published, or cancelled")
            await self._remove([id])
        return found

    async def forget(self, topic: Topic) -> None:
        """Cancel what waits to be published to a topic that was deleted."""
        with self._reading():
            while waiting := await self._core.log.engine.delayed(topic.id, after=None, limit=_AT_ONCE):
                await self._remove([one.id for one in waiting if self._free(one.id)])

    def _free(self, id: str) -> bool:
        """Whether nobody else takes it from the table, or has taken it since the table was read."""
        return id not in self._moving and id not in self._gone

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """While the table is read and acted on, what is taken from it is remembered: the answer may be older."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            if self._readers == 0:
                self._gone.clear()

    async def _remove(self, ids: list[str]) -> None:
        """Take them from the table, in the open transaction."""
        self._moving.update(ids)
        self._core.log.open_transaction().undelayed.extend(ids)
        try:
            await self._core.log.committed()
        finally:
            self._moving.difference_update(ids)
        self._gone.update(ids)
        self.count -= len(ids)

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
            with self._reading():
                while due := await engine.due(self._core.clock.now(), limit=_AT_ONCE):
                    moved = [waiting for waiting in due if self._free(waiting.id)]
                    for waiting in moved:
                        self._move(waiting)
                    await self._remove([waiting.id for waiting in moved])
            self._next = None
            soonest = await engine.next_due()
            # One that was stored meanwhile may be due sooner still.
            self._arm(min((due for due in (soonest, self._next) if due is not None), default=None))
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
            if topic.volatile and record.flags & Flag.DEDUP:
                # From here on it lives as long as the process, and so does the memory of its id.
                self._core.log.change(StateChange(ORIGINAL_STATE, waiting.id, None))
            record.flags &= ~Flag.DEDUP  # its publish was compared; moving it is no publish
            self._retain_if_room(topic, record)
            self._core.log.append(topic, [record], record.size())

    def _retain_if_room(self, topic: Topic, record: Record) -> None:
        """What was promised is the message; there may no longer be room to retain it."""
        try:
            check_retained(topic, [record], self._core.limits, self._core.clock.now())
        except LimitExceeded as error:
            _logger.warning("a delayed message is published and not retained: %s", error)
            record.flags &= ~Flag.RETAINED
