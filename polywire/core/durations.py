"""Durations as people write them: ``500ms``, ``30s``, ``1h30m``, ``7d``; a plain number is seconds.

Inside the hub every duration is a whole number of milliseconds.
"""

from __future__ import annotations

import re

from polywire.core.errors import Invalid

__all__ = ["LONGEST", "format_duration", "parse_duration"]

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(ms|s|m|h|d|w)")
_WHOLE = re.compile(rf"(?:{_PART.pattern}\s*)+")
_PLAIN = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")

LONGEST = 100 * 365 * _UNITS["d"]
"""A hundred years: what is longer is a slip, and would overflow somebody's clock."""


def parse_duration(text: str | float) -> int:
    """Milliseconds. ``text`` is a number of seconds, or parts like ``1h30m``. Raises `Invalid`."""
    milliseconds = _parse(text) if isinstance(text, str) else _seconds(text)
    if milliseconds is None or not 0 <= milliseconds <= LONGEST:
        raise Invalid(
            f"not a duration: {str(text)[:64]!r}", hint="write 500ms, 30s, 10m, 1h30m, 7d, or a number of seconds"
        )
    return milliseconds


def _seconds(number: float) -> int | None:
    if isinstance(number, bool) or not 0 <= number <= LONGEST:  # also False for NaN
        return None
    return round(number * 1_000)


def _parse(text: str) -> int | None:
    text = text.strip()
    if _PLAIN.fullmatch(text):
        return round(float(text) * 1_000)
    # The length is bounded before the pattern is tried: it may look at each part twice.
    if len(text) > 64 or not _WHOLE.fullmatch(text):
        return None
    return round(sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text)))


def format_duration(milliseconds: int) -> str:
    """The shortest text that `parse_duration` reads back as the same: ``5400000`` is ``1h30m``, ``0`` is ``0s``."""
    parts: list[str] = []
    rest = milliseconds
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
