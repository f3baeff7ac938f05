"""Ending calls at their deadline, cheaply: nearly every call has one, and nearly none reaches it.

A deadline that is far is only noted, by the second it falls into; a timer of its own is made when that second comes.
"""

from __future__ import annotations

from typing import Protocol

from polywire.core.clock import Clock, Timer

__all__ = ["Deadlines", "Timed"]

_SECOND = 10  # bits of milliseconds that make up a "second"


class Timed(Protocol):
    """``deadline``: ms since the epoch. ``timer``: belongs to `Deadlines`; None at first."""

    deadline: int | None
    timer: Timer | None

    def expire(self) -> None: ...


class Deadlines:
    """`add` and `discard`, on the event loop; what has expired is discarded by whoever added it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._far: dict[int, set[Timed]] = {}
        self._timer: Timer | None = None
        self._armed = 0

    def __len__(self) -> int:
        return sum(len(noted) for noted in self._far.values())

    def add(self, timed: Timed, now: int) -> None:
        deadline = timed.deadline
        if deadline is None:
            return
        second = deadline >> _SECOND
        noted = self._far.get(second)
        if noted is not None:
            noted.add(timed)
        elif second <= now >> _SECOND:
            timed.timer = self._clock.call_at(deadline, timed.expire)
        else:
            self._far[second] = {timed}
            self._arm(second)

    def discard(self, timed: Timed) -> None:
        if timed.timer is not None:
            timed.timer.cancel()
            timed.timer = None
        elif timed.deadline is not None and (noted := self._far.get(timed.deadline >> _SECOND)) is not None:
            noted.discard(timed)

    def _arm(self, second: int) -> None:
        if self._timer is not None:
            if self._armed <= second:
                return
            self._timer.cancel()
        self._armed = second
        self._timer = self._clock.call_at(second << _SECOND, self._on_time)

    def _on_time(self) -> None:
        """The second has come: what still runs of it gets exact timers."""
        self._timer = None
        now = self._clock.now() >> _SECOND
        for second in [second for second in self._far if second <= now]:
            for timed in self._far.pop(second):
                if timed.deadline is not None:
                    timed.timer = self._clock.call_at(timed.deadline, timed.expire)
        if self._far:
            self._arm(min(self._far))
