"""What runs again and again, and when next: stored, so that a restart neither skips a run nor repeats one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from polywire.core.endings import being_cancelled, ended_within, task_ended
from polywire.core.engine import StateChange
from polywire.core.errors import PolywireError

if TYPE_CHECKING:
    from polywire.core.clock import Timer
    from polywire.core.core import Core

__all__ = ["SCHEDULE_STATE", "Schedule", "Schedules"]

SCHEDULE_STATE = "schedule"
_FORGOTTEN = 30 * 86_400_000  # ms after which nobody will declare it again
_logger = logging.getLogger("polywire.schedules")


class _Stored(msgspec.Struct, array_like=True, frozen=True):
    due: int


class Schedule:
    """``interval`` in ms. What ``run`` raises is logged and counted, and changes nothing.

    Its moments are ``interval`` apart whatever the runs take; those that come while it runs, or while there was no hub,
    are passed over: of them only the last is made up for.
    """

    def __init__(self, name: str, interval: int, run: Callable[[], Awaitable[object]]) -> None:
        self.name = name
        self.interval = interval
        self.run = run
        self.due = 0  # ms since the epoch
        self.runs = self.failures = self.skipped = 0
        self.running: asyncio.Task[None] | None = None
        self.timer: Timer | None = None

    def __repr__(self) -> str:
        return f"<Schedule {self.name} every {self.interval} ms>"

    def pass_over(self, now: int) -> int:
        """Set the next moment after ``now``; returns how many others were passed."""
        steps = (now - self.due) // self.interval + 1
        self.due += steps * self.interval
        return steps - 1


class Schedules:
    """Life: `declare` → `restore` → `start` → it runs → `stop`. The next moment is stored when a run has ended: one
    that a crash cuts off is made again."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._all: dict[str, Schedule] = {}
        self._stored: dict[str, int] = {}

    def __iter__(self) -> Iterator[Schedule]:
        return iter(self._all.values())

    @property
    def running(self) -> int:
        return sum(schedule.running is not None for schedule in self)

    def declare(self, schedule: Schedule) -> None:
        if schedule.name in self._all:
            raise ValueError(f"a schedule named {schedule.name!r} is declared twice")
        self._all[schedule.name] = schedule

    def restore(self, name: str, value: bytes) -> None:
        """Take in what was found at start."""
        self._stored[name] = msgspec.msgpack.decode(value, type=_Stored).due

    def start(self) -> None:
        now = self._core.clock.now()
        for name, due in self._stored.items():
            if name not in self._all and due < now - _FORGOTTEN:
                self._core.log.change(StateChange(SCHEDULE_STATE, name, None))
        for schedule in self:
            first = now + schedule.interval
            schedule.due = min(self._stored.get(schedule.name, first), first)
            if schedule.due != self._stored.get(schedule.name):
                self._store(schedule)
            self._arm(schedule)

    async def stop(self, seconds: float) -> list[asyncio.Task[object]]:
        """Begin nothing more, and wait for what runs, for so long. Returns what does not end, even so."""
        for schedule in self:
            if schedule.timer is not None:
                schedule.timer.cancel()
                schedule.timer = None
        running = [(schedule.name, schedule.running) for schedule in self if schedule.running is not None]
        ends = (ended_within(seconds, task_ended(task), f"schedule {name}") for name, task in running)
        left = await asyncio.gather(*ends)
        return [task for task in left if task is not None]

    def _arm(self, schedule: Schedule) -> None:
        schedule.timer = self._core.clock.call_at(schedule.due, lambda: self._on_time(schedule))

    def _on_time(self, schedule: Schedule) -> None:
        now = self._core.clock.now()
        if now < schedule.due:  # the clock was set back
            self._arm(schedule)
            return
        if schedule.running is not None:
            schedule.skipped += 1
            _logger.warning("schedule %s still runs at its next time: passed over", schedule.name)
        else:
            schedule.running = asyncio.get_running_loop().create_task(self._run(schedule))
        passed = schedule.pass_over(now)
        if passed:
            schedule.skipped += passed
            _logger.warning("schedule %s: %d times were missed and are passed over", schedule.name, passed)
        self._arm(schedule)

    async def _run(self, schedule: Schedule) -> None:
        schedule.runs += 1
        try:
            await schedule.run()
        except asyncio.CancelledError:
            if being_cancelled():
                raise  # not stored as done
            self._failed(schedule, "was cancelled from within")
        except PolywireError as error:
            self._failed(schedule, str(error))
        except Exception:
            schedule.failures += 1
            _logger.exception("schedule %s failed", schedule.name)
        finally:
            schedule.running = None
        self._store(schedule)

    def _failed(self, schedule: Schedule, why: str) -> None:
        schedule.failures += 1
        _logger.error("schedule %s failed: %s", schedule.name, why)

    def _store(self, schedule: Schedule) -> None:
        value = msgspec.msgpack.encode(_Stored(schedule.due))
        self._core.log.change(StateChange(SCHEDULE_STATE, schedule.name, value))
