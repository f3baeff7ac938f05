"""Schedules: at their time, once, across restarts and crashes."""

from __future__ import annotations

import asyncio

import pytest

from polywire.core.errors import Unavailable
from polywire.core.schedules import Schedule
from tests.core.harness import Rig, until

HOUR = 3_600_000


class Runs:
    """Counts its runs; waits in them for ``go`` if it is given one."""

    def __init__(self, go: asyncio.Event | None = None) -> None:
        self.count = 0
        self.go = go
        self.errors: list[BaseException] = []

    async def __call__(self) -> None:
        self.count += 1
        if self.go is not None:
            await self.go.wait()
        if self.errors:
            raise self.errors.pop()


def begin(rig: Rig, runs: Runs, interval: int = HOUR, name: str = "tick") -> Schedule:
    schedule = Schedule(name, interval, runs)
    rig.core.schedules.declare(schedule)
    rig.core.schedules.start()
    return schedule


async def rested(rig: Rig) -> None:
    await asyncio.sleep(0)
    await until(lambda: not rig.core.schedules.running)
    await rig.quiet()


async def pass_hours(rig: Rig, hours: float) -> None:
    rig.clock.advance(int(hours * HOUR))
    await rested(rig)


async def crash(rig: Rig) -> None:
    for schedule in rig.core.schedules:
        if schedule.timer is not None:
            schedule.timer.cancel()
    await rig.crash_and_start()


async def test_it_runs_each_time_and_first_after_one(rig: Rig) -> None:
    runs = Runs()
    schedule = begin(rig, runs)
    await pass_hours(rig, 0.9)
    assert runs.count == 0
    for number in range(1, 6):
        await pass_hours(rig, 1)
        assert runs.count == number
    assert (schedule.runs, schedule.failures, schedule.skipped) == (5, 0, 0)
    assert rig.core.metrics()["schedule_runs"] == 5


@pytest.mark.parametrize("crashes", [False, True])
async def test_a_restart_neither_skips_nor_repeats(rig: Rig, crashes: bool) -> None:
    runs = Runs()
    for third in range(1, 31):
        begin(rig, runs)
        rig.clock.advance(HOUR // 3 + 1)
        await rested(rig)
        assert runs.count == third // 3
        if crashes:
            await crash(rig)
        else:
            await rig.core.schedules.stop(1)
            await rig.restart()


async def test_of_what_was_missed_one_is_made_up_for(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    runs = Runs()
    begin(rig, runs)
    await rig.quiet()
    await crash(rig)
    rig.clock.advance(int(7.5 * HOUR))
    schedule = begin(rig, runs)
    await until(lambda: runs.count == 1)
    await rested(rig)
    assert (runs.count, schedule.skipped) == (1, 6)
    assert "6 times were missed" in caplog.text
    await pass_hours(rig, 0.6)  # its moments stay where they were
    assert runs.count == 2


async def test_a_run_that_a_crash_cuts_off_is_made_again(rig: Rig) -> None:
    runs = Runs(asyncio.Event())
    begin(rig, runs)
    rig.clock.advance(HOUR)
    await until(lambda: runs.count == 1)
    await crash(rig)
    again = Runs()
    begin(rig, again)
    await until(lambda: again.count == 1)
    await rested(rig)
    await crash(rig)
    begin(rig, again)
    await rested(rig)
    assert again.count == 1
    assert runs.go is not None
    runs.go.set()


async def test_it_never_runs_twice_at_a_time(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    runs = Runs(asyncio.Event())
    schedule = begin(rig, runs)
    for _ in range(3):
        rig.clock.advance(HOUR)
        await until(lambda: runs.count == 1)
    assert schedule.skipped == 2
    assert "schedule tick still runs" in caplog.text
    assert runs.go is not None
    runs.go.set()
    await rested(rig)
    await pass_hours(rig, 1)
    assert runs.count == 2


async def test_what_it_raises_is_logged_counted_and_changes_nothing(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    runs = Runs()
    schedule = begin(rig, runs)
    for error, text in (
        (ValueError("a bug"), "a bug"),
        (Unavailable("the bank is closed"), "the bank is closed"),
        (asyncio.CancelledError(), "cancelled from within"),
    ):
        runs.errors.append(error)
        await pass_hours(rig, 1)
        assert text in caplog.text
    await pass_hours(rig, 1)
    assert (schedule.runs, schedule.failures, runs.count) == (4, 3, 4)
    await crash(rig)
    begin(rig, runs)
    await rested(rig)
    assert runs.count == 4


async def test_the_end_of_the_hub_waits_for_it_and_cuts_it_off(rig: Rig) -> None:
    runs = Runs(asyncio.Event())
    assert runs.go is not None
    begin(rig, runs)
    rig.clock.advance(HOUR)
    await until(lambda: runs.count == 1)
    stopping = asyncio.ensure_future(rig.core.schedules.stop(10))
    await asyncio.sleep(0.01)
    assert not stopping.done()
    runs.go.set()
    assert await stopping == []
    rig.clock.advance(HOUR)
    await rested(rig)
    assert runs.count == 1
    await rig.restart()
    runs.go.clear()
    begin(rig, runs)
    await until(lambda: runs.count == 2)  # the hour that has passed since
    await rig.core.schedules.stop(0.05)
    await rig.restart()
    runs.go.set()
    begin(rig, runs)
    await until(lambda: runs.count == 3)  # what was cut off is made again
    await rested(rig)


async def test_another_interval_counts_from_now_on(rig: Rig) -> None:
    runs = Runs()
    begin(rig, runs, interval=24 * HOUR)
    await rig.quiet()
    await crash(rig)
    begin(rig, runs, interval=HOUR)
    await pass_hours(rig, 1)
    assert runs.count == 1
    await pass_hours(rig, 1)
    assert runs.count == 2


async def test_a_name_that_nobody_declares_any_more_is_forgotten_in_the_end(rig: Rig) -> None:
    runs = Runs()
    begin(rig, runs)
    await rig.quiet()
    await crash(rig)
    rig.core.schedules.start()
    await rig.quiet()
    await crash(rig)
    assert rig.core.schedules._stored
    rig.clock.advance(31 * 24 * HOUR)
    rig.core.schedules.start()
    await rig.quiet()
    await crash(rig)
    assert not rig.core.schedules._stored


async def test_a_clock_that_was_set_back(rig: Rig) -> None:
    runs = Runs()
    schedule = begin(rig, runs)
    rig.core.schedules._on_time(schedule)
    await rested(rig)
    assert runs.count == 0
    await pass_hours(rig, 1)
    assert runs.count == 1


async def test_a_name_is_declared_once(rig: Rig) -> None:
    rig.core.schedules.declare(Schedule("tick", HOUR, Runs()))
    with pytest.raises(ValueError, match="twice"):
        rig.core.schedules.declare(Schedule("tick", HOUR, Runs()))
