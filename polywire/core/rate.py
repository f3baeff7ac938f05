"""How often something may happen."""

from __future__ import annotations

__all__ = ["Rate"]

_SECOND = 1_000


class Rate:
    """So many a second; after a quiet time a second's worth at once. The generic cell rate algorithm (ITU-T I.371)."""

    def __init__(self, per_second: int) -> None:
        self._interval = _SECOND / per_second if per_second > 0 else float("inf")
        self._due = 0.0

    def allows(self, now: int) -> bool:
        """Whether one more may happen at ``now``, in ms; it is counted if so."""
        due = max(self._due, now)
        if due + self._interval > now + _SECOND:
            return False
        self._due = due + self._interval
        return True
