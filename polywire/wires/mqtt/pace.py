"""How much of a connection is read at once, so that no client has the event loop for long."""

from __future__ import annotations

from typing import Final

__all__ = ["MOST", "Pace"]

MOST: Final = 64 << 10
"""Bytes."""
_FIRST: Final = 4 << 10
_LEAST: Final = 1 << 10
_TURN: Final = 0.003


class Pace:
    """64 KiB may be 600 messages or 6,000 SUBSCRIBEs. ``window``: so many bytes may be read now.

    An event loop reads on as long as buffers get full, libuv up to 32 times in a turn. So the time is counted over
    reads that follow each other.
    """

    __slots__ = ("_spent", "window")

    def __init__(self) -> None:
        self.window = _FIRST
        self._spent = 0.0

    def is_over(self, size: int, seconds: float) -> bool:
        """Whether it is the others' turn, now that so many bytes were worked off in so much time."""
        full = size == self.window
        self._spent = self._spent + seconds if full else 0.0
        if seconds > _TURN:
            self.window = max(_LEAST, int(size * _TURN / seconds))
        elif full and seconds < _TURN / 4:
            self.window = min(2 * size, MOST)
        if self._spent <= _TURN:
            return False
        self._spent = 0.0
        return True
