"""Long work on the event loop, in pieces that let the others have their turn."""

from __future__ import annotations

import asyncio
import time

__all__ = ["Turn"]

_TURN = 0.001  # seconds of work per loop turn


class Turn:
    def __init__(self) -> None:
        self._begun = time.perf_counter()

    async def breathe(self) -> None:
        """Between two steps: gives the loop away if this turn has lasted for about a millisecond."""
        if time.perf_counter() - self._begun > _TURN:
            await asyncio.sleep(0)
            self._begun = time.perf_counter()
