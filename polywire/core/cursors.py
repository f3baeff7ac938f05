"""Named readers in stream mode (docs/promises.md, "Subscriptions"): the hub remembers how far each has come, and
nothing else of it.

A reader commits its cursor when it likes and asks for it when it starts again. Messages are not held for it: retention
goes on, and a cursor that retention has passed is told as stale, like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from polywire.core.access import Action, Principal
from polywire.core.engine import StateChange
from polywire.core.errors import Denied, FieldError, Invalid, LimitExceeded, NotFound
from polywire.core.position import Cursor
from polywire.core.streams import check_cursor

if TYPE_CHECKING:
    from polywire.core.core import Core

__all__ = ["CURSOR_STATE", "Cursors", "StoredCursor"]

CURSOR_STATE = "cursor"


class StoredCursor(msgspec.Struct, frozen=True):
    reader: str
    topic: str
    owner: str
    cursor: tuple[int, int]
    committed: int


class Cursors:
    """A reader belongs to the principal that committed first; others need a permission to manage its name."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._stored: dict[tuple[str, str], StoredCursor] = {}

    def restore(self, stored: StoredCursor) -> None:
        self._stored[stored.topic, stored.reader] = stored

    def get(self, principal: Principal, topic: str, reader: str) -> Cursor:
        """Raises `NotFound`, `Denied`."""
        self._core.access.require(principal, Action.SUBSCRIBE, f"{topic}.#")
        return Cursor(*self._owned(principal, topic, reader).cursor)

    async def commit(self, principal: Principal, topic: str, reader: str, cursor: Cursor) -> None:
        """Remember that ``reader`` has read up to ``cursor``; it may go back.

        Raises `StaleCursor`, `Invalid`, `LimitExceeded`.
        """
        self._core.access.require(principal, Action.SUBSCRIBE, f"{topic}.#")
        if not reader or len(reader) > 250 or not reader.isprintable():
            raise Invalid(
                "a reader's name has 1 to 250 printable characters", fields=[FieldError("$.reader", "not a name")]
            )
        check_cursor(self._core.catalog.existing(topic), cursor)
        if (topic, reader) in self._stored:
            owner = self._owned(principal, topic, reader).owner
        elif len(self._stored) >= self._core.limits.subscriptions:
            raise LimitExceeded(f"the hub remembers its limit of {self._core.limits.subscriptions} readers")
        else:
            owner = principal.name
        stored = StoredCursor(reader, topic, owner, (cursor.epoch, cursor.offset), self._core.clock.now())
        self._stored[topic, reader] = stored
        self._core.log.change(StateChange(CURSOR_STATE, f"{topic} {reader}", msgspec.msgpack.encode(stored)))
        await self._core.log.committed()

    async def forget(self, principal: Principal, topic: str, reader: str) -> None:
        """Raises `NotFound`, `Denied`."""
        self._core.access.require(principal, Action.SUBSCRIBE, f"{topic}.#")
        self._owned(principal, topic, reader)
        del self._stored[topic, reader]
        self._core.log.change(StateChange(CURSOR_STATE, f"{topic} {reader}", None))
        await self._core.log.committed()

    def _owned(self, principal: Principal, topic: str, reader: str) -> StoredCursor:
        stored = self._stored.get((topic, reader))
        if stored is None:
            raise NotFound(f"no reader {reader[:80]!r} has committed a cursor of topic {topic!r}")
        if principal.name != stored.owner and not self._core.access.allows(principal, Action.MANAGE, reader):
            raise Denied(
                f"{principal.name!r} may not use reader {reader!r} of {stored.owner!r}",
                hint=f"grant it manage:{reader}",
            )
        return stored
