"""Where one message stands, and where a reader stands (docs/promises.md, "Positions and cursors")."""

from __future__ import annotations

import re
from typing import NamedTuple

from polywire.core.errors import Invalid

__all__ = ["Cursor", "Position"]

_TEXT = re.compile(r"([0-9]{1,18})-([0-9]{1,9})-(-1|[0-9]{1,18})")


class Position(NamedTuple):
    """One message of a topic. The text form is ``E-P-O``; offsets may have gaps."""

    epoch: int
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.partition}-{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Raises `Invalid` for anything but ``E-P-O``."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise Invalid(f"not a position: {text[:64]!r}", hint="positions and cursors read like 1-0-42")
        epoch, partition, offset = match.groups()
        return cls(int(epoch), int(partition), int(offset))


class Cursor(NamedTuple):
    """Where a reader of one topic stands: after the message at ``offset`` (-1: before the first).

    Opaque to clients. For a topic with one partition its text is the position of the message last read.
    """

    epoch: int
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}-0-{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises `Invalid`."""
        position = Position.parse(text)
        if position.partition != 0:
            raise Invalid(f"not a cursor of this topic: {text!r}", hint="topics have one partition here")
        return cls(position.epoch, position.offset)
