"""What a handler may say besides returning: reject the message, or have it again."""

from __future__ import annotations

import msgspec

from polywire.core.durations import parse_duration
from polywire.core.subscription import Backoff

__all__ = ["Again", "Reject", "Retry"]


class Reject(Exception):
    """Raised by a handler: this message goes to the dead letters now."""

    def __init__(self, reason: str = "rejected") -> None:
        super().__init__(reason)
        self.reason = reason


class Again(Exception):
    """Raised by a handler: deliver this message again ``after`` a time (``"30s"``); counts as an attempt."""

    def __init__(self, after: str | float = 0) -> None:
        super().__init__(f"again after {after}")
        self.after = parse_duration(after)


class Retry(msgspec.Struct, frozen=True):
    """How often and how soon a failed message is tried: ``attempts`` in all (None: for ever), then it is a dead letter.

    The pause starts with ``first`` and grows by ``factor`` up to ``longest``, give or take ``jitter`` of it.
    """

    attempts: int | None = 10
    first: str = "1s"
    factor: float = 2.0
    longest: str = "10m"
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 1:
            raise ValueError(f"a message is tried at least once, not {self.attempts} times")
        self.backoff()

    def backoff(self) -> Backoff:
        return Backoff(parse_duration(self.first), self.factor, parse_duration(self.longest), self.jitter)
