"""How a thread gets the interpreter lock back from a busy event loop.

A thread that waits for the lock asks for it after the switch interval, but its wait starts over whenever the holder
lets go of it for a moment, as an event loop does at each turn. A loop whose turns are shorter than the interval (5 ms
by default) thus starves other threads: one commit was seen to take a second. Two things together cure it: an interval
shorter than a turn, and a kernel timer that keeps to it (Linux adds 50 µs of slack to a thread's timers unless asked
not to).
"""

from __future__ import annotations

import contextlib
import ctypes
import sys

__all__ = ["exact_timers", "shorten_switch_interval"]

_PR_SET_TIMERSLACK = 29


def shorten_switch_interval(seconds: float) -> None:
    """For the whole process; a shorter one is left as it is, and 0 changes nothing."""
    if 0 < seconds < sys.getswitchinterval():
        sys.setswitchinterval(seconds)


def exact_timers() -> None:
    """For the calling thread; only Linux knows it, elsewhere nothing happens."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)
