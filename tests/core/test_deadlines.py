"""Deadlines: exact when they come, and nearly free until then."""

from __future__ import annotations

import asyncio
import random

from polywire.core.clock import ManualClock, Timer
from polywire.core.deadlines import Deadlines
from tests.core.harness import until


class Ending:
    def __init__(self, deadline: int | None) -> None:
        self.deadline = deadline
        self.timer: Timer | None = None
        self.expired = 0

    def expire(self) -> None:
        self.expired += 1


async def test_each_expires_at_its_time_and_not_before() -> None:
    clock = ManualClock()
    deadlines = Deadlines(clock)
    chance = random.Random(4)
    now = clock.now()
    ends = [Ending(now + chance.randrange(60_000, 3_600_000)) for _ in range(1_000)]
    for one in ends:
        deadlines.add(one, now)
    for step in (30_000, 600_000, 1_000_000, 1, 999, 1_000_000, 2_000_000):
        clock.advance(step)
        passed = clock.now()
        for one in ends:
            assert one.deadline is not None
            if one.deadline < passed - 5:  # the clock goes on by itself, too
                assert one.expired == 1
            elif one.deadline > passed + 1_000:
                assert one.expired == 0
    assert len(deadlines) == 0


async def test_real_time_is_kept_to_the_millisecond_also_for_those_near() -> None:
    clock = ManualClock()
    deadlines = Deadlines(clock)
    began = clock.now()
    near = [Ending(began + milliseconds) for milliseconds in (0, 5, 20, 1_050, 1_200)]
    seen: dict[Ending, int] = {}
    for one in near:
        one.expire = lambda one=one: seen.setdefault(one, clock.now())  # type: ignore[method-assign,misc]
        deadlines.add(one, began)
    await until(lambda: len(seen) == len(near))
    for one, when in seen.items():
        assert one.deadline is not None
        assert one.deadline <= when + 1
        assert when - one.deadline < 200


async def test_what_is_discarded_never_expires_and_takes_no_room() -> None:
    clock = ManualClock()
    deadlines = Deadlines(clock)
    now = clock.now()
    far, near, never = Ending(now + 60_000), Ending(now + 10), Ending(None)
    for one in (far, near, never):
        deadlines.add(one, now)
        deadlines.discard(one)
    assert len(deadlines) == 0
    kept = Ending(now + 60_000)
    deadlines.add(kept, now)
    clock.advance(59_500)
    discarded_late = Ending(now + 60_000)
    deadlines.add(discarded_late, clock.now())
    clock.advance(400)
    deadlines.discard(discarded_late)
    clock.advance(3_600_000)
    assert (far.expired, near.expired, never.expired, kept.expired, discarded_late.expired) == (0, 0, 0, 1, 0)


async def test_calls_that_end_in_time_leave_nothing_behind() -> None:
    clock = ManualClock()
    deadlines = Deadlines(clock)
    now = clock.now()
    for number in range(100_000):
        one = Ending(now + 60_000 + number // 100)
        deadlines.add(one, now)
        deadlines.discard(one)
    assert len(deadlines) == 0
    assert len(clock._timers) < 10
    await asyncio.sleep(0)
