"""What the core does from time to time: checkpoints, retention, expiry, limits of space, unused subscriptions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from polywire.core.dead_letters import DEAD
from polywire.core.engine import RowSpan
from polywire.core.errors import PolywireError
from polywire.core.message import Batch
from polywire.core.slices import Turn

if TYPE_CHECKING:
    from polywire.core.clock import Timer
    from polywire.core.core import Core
    from polywire.core.topics import Topic

__all__ = ["Upkeep"]

_logger = logging.getLogger("polywire.upkeep")
_ROWS = 1_000  # rows of a topic looked at at a time
_ROUND_SIZE = 16 << 20  # bytes removed in one commit, about: it holds up the publishers
_EXPIRED = 1_000
_EXPIRY_INTERVAL = 1_000  # ms


class _Repeated:
    """An async job that runs again ``interval`` ms after it ended; faults are logged and do not stop it."""

    def __init__(self, core: Core, interval: int, job: Callable[[], Awaitable[None]]) -> None:
        self._core = core
        self._interval = interval
        self._job = job
        self._timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def start(self) -> None:
        if not self._stopped:
            self._timer = self._core.clock.call_at(self._core.clock.now() + self._interval, self.run_soon)

    def run_soon(self) -> None:
        if self._task is None and not self._stopped:
            if self._timer is not None:
                self._timer.cancel()
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._job()
        except PolywireError as error:
            _logger.warning("upkeep: %s", error)
        except Exception:
            _logger.exception("upkeep failed")
        self._task = None
        self.start()

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


class Upkeep:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._log = core.log
        self._stored_routed = 0
        self._checkpoints = _Repeated(core, core.limits.checkpoint_interval, self.checkpoint)
        self._rounds = _Repeated(core, core.limits.maintenance_interval, self.round)
        self._expiries = _Repeated(core, _EXPIRY_INTERVAL, self.expire_messages)
        core.log.on_overflow = self._overflow

    def start(self) -> None:
        self._stored_routed = self._log.routed
        self._checkpoints.start()
        self._rounds.start()
        self._expiries.start()

    def stop(self) -> None:
        self._checkpoints.stop()
        self._rounds.stop()
        self._expiries.stop()

    async def checkpoint(self) -> None:
        """Store the pending lists that changed, and how far routing has come; a restart routes again from there."""
        if self._log.routed == self._stored_routed and not self._log.unsaved and not self._log.kept:
            return
        routed = await self._log.checkpoint()
        self._stored_routed = max(self._stored_routed, routed)
        self._core.subscriptions.close_bindings(routed)

    async def round(self) -> None:
        for topic in list(self._log.by_id.values()):
            if topic.volatile:
                self._trim_volatile(topic)
            else:
                await self._trim(topic)
            await asyncio.sleep(0)
        await self._core.subscriptions.expire(self._core.clock.now())
        await self._check_space()
        for table in self._core.tables:
            await table.sweep()

    # Retention

    async def _trim(self, topic: Topic) -> None:
        """Remove stored runs that are past retention and that no queue holds, some at a time until none is left."""
        more = True
        while more and (topic.count or topic.deleted):
            more = await self._trim_some(topic)

    async def _trim_some(self, topic: Topic) -> bool:
        """Whether it may be worth going on: everything looked at was past retention, and some of it could go."""
        rows = await self._log.engine.rows(topic.id, offset=topic.sweep, limit=_ROWS)
        excess = topic.size - min(topic.retention_size, topic.hard_limit * 9 // 10)
        horizon = self._core.clock.now() - topic.retention
        past: list[RowSpan] = []
        left = _ROUND_SIZE
        for row in rows:
            may_go = topic.deleted or row.appended < horizon or excess > 0
            if left <= 0 or not may_go or row.seq + row.messages > self._log.routed:
                break
            past.append(row)
            excess -= row.size
            left -= row.size
        whole = bool(past) and (len(past) == _ROWS or left <= 0)
        if topic.size > topic.hard_limit * 9 // 10:
            self._let_go(topic, past)
        if topic.name == DEAD:
            self._bury(past)
        freed = await self._remove(topic, past)
        # Where whole rounds of rows are held, look at later ones next time, and begin anew at the end.
        topic.sweep = past[-1].offset + past[-1].messages if whole else 0
        if topic.deleted and len(rows) < _ROWS and topic.count == 0 and topic.uncommitted == 0:
            self._core.catalog.drop(topic)
            return False
        return whole and freed

    async def _remove(self, topic: Topic, past: list[RowSpan]) -> bool:
        """Remove those of the runs that nobody holds; whether there were any."""
        if not past:
            return False
        holders = self._core.subscriptions.holders()
        # Most often all queues have moved on: one comparison then, instead of asking each about each row.
        floor = min((s.pending.next_from(0) or 0 for s in holders), default=None)
        free: list[RowSpan] = []
        turn = Turn()
        for row in past:
            held = floor is not None and row.seq + row.messages > floor
            if not held or not any(s.pending.holds(row.seq, row.messages) for s in holders):
                free.append(row)
            await turn.breathe()
        oldest = max(topic.oldest, past[-1].offset + past[-1].messages)
        if not free and oldest == topic.oldest:
            return False
        topic.oldest = oldest
        transaction = self._log.change(self._core.catalog.state(topic))
        transaction.deleted_rows.extend(row.seq for row in free)
        await self._log.committed()  # if that fails, the next round finds them again
        topic.count -= sum(row.messages for row in free)
        topic.size -= sum(row.size for row in free)
        return bool(free)

    def _let_go(self, topic: Topic, past: list[RowSpan]) -> None:
        """At its hard limit a topic declared so takes its oldest messages from the queues that hold them."""
        if topic.settings.overflow == "refuse":
            return
        over = topic.size - topic.hard_limit * 9 // 10
        for row in past:
            if over <= 0:
                return
            over -= row.size
            self._let_go_run(topic, row.seq, row.messages)

    def _bury(self, past: Sequence[RowSpan]) -> None:
        """Dead letters wait for somebody as long as they can be replayed, not for ever."""
        for subscription in self._core.subscriptions.holders():
            if subscription.settings.kind == "dead":
                for row in past:
                    subscription.forget(row.seq, row.messages)

    def _let_go_run(self, topic: Topic, seq: int, count: int) -> None:
        for subscription in self._core.subscriptions.holders():
            if topic.settings.overflow == "dead-letter" and not topic.volatile:
                self._core.subscriptions.overflowed(subscription, seq, count)
            else:
                topic.dropped += subscription.forget(seq, count)

    def _trim_volatile(self, topic: Topic) -> None:
        horizon = self._core.clock.now() - topic.retention
        while topic.tail and (
            topic.deleted
            or topic.size > min(topic.hard_limit, topic.retention_size)
            or topic.tail.front().appended < horizon
        ):
            front = topic.tail.front()
            holders = [s for s in self._core.subscriptions.holders() if s.pending.holds(front.seq, len(front))]
            if holders and topic.size <= topic.hard_limit:
                break
            batch = self._log.forget_volatile(topic)
            for subscription in holders:
                topic.dropped += subscription.forget(batch.seq, len(batch))
        if topic.deleted and not topic.tail:
            self._core.catalog.drop(topic)

    def _overflow(self, topic: Topic) -> None:
        if topic.volatile:
            self._trim_volatile(topic)
        else:
            self._rounds.run_soon()

    # Expiry

    async def expire_messages(self) -> None:
        """Take expired messages from the queues that hold them; readers pass over them by themselves."""
        if not self._log.expiring:
            return
        now = self._core.clock.now()
        turn = Turn()
        while seqs := await self._log.engine.expired(now, limit=_EXPIRED):
            await self._forget(seqs, turn)
        for topic in [topic for topic in self._log.by_id.values() if topic.volatile]:
            for batch in list(topic.tail):
                await self._forget([batch.seq + index for index in _expired(batch, now)], turn)
                await turn.breathe()

    async def _forget(self, seqs: list[int], turn: Turn) -> None:
        if not seqs:
            return
        first, count = seqs[0], seqs[-1] - seqs[0] + 1
        for subscription in self._core.subscriptions.holders():
            if subscription.pending.holds(first, count):
                for seq in seqs:
                    if seq in subscription.pending:
                        subscription.forget(seq, 1)
            await turn.breathe()

    # Space

    async def _check_space(self) -> None:
        limits = self._core.limits
        space = await self._log.engine.space()
        total = space.used + space.free
        if space.held > limits.hub_size:
            self._log.full = f"the hub holds its limit of {limits.hub_size} bytes"
        elif total and space.used > total * limits.disk_fraction:
            self._log.full = f"the log takes {space.used} bytes, {limits.disk_fraction:.0%} of the disk's room"
        else:
            self._log.full = None


def _expired(batch: Batch, now: int) -> list[int]:
    return [i for i, record in enumerate(batch.records) if record.expires is not None and record.expires <= now]
