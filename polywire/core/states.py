"""Small things that a wire keeps for its clients: by kind and key, in memory with the wire, on the disk here.

A change goes into the open transaction: what one callback of the event loop publishes, settles and puts here is in one
commit, and after a crash all of it is there or nothing. Only a message of a memory topic is delivered before that.

When a commit fails, ``told`` hears of it before the next one goes, so that what is put there at once goes with that.
What was put or deleted is the wire's truth, and is stored with the next commit all the same, unless a later change of
the key is; but not what is ``tied``: it is true only together with what else was in its commit, so it is forgotten, and
the key keeps what it had. (That a message was received is tied to the message.)

Of many changes of a key in one transaction the last is written, so that a peer who causes a change with a few bytes
cannot fill the memory with them. What is costly to write down is given as a function, asked once, when the transaction
goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from polywire.core.engine import StateChange
from polywire.core.log import TiedChange

if TYPE_CHECKING:
    from polywire.core.log import Log, Told

__all__ = ["WIRE_STATE", "States"]

WIRE_STATE = "wire"

Value = bytes | Callable[[], bytes | None] | None
"""None, from a function too: there is nothing to be kept."""


class States:
    def __init__(self, log: Log) -> None:
        self._log = log
        self._found: dict[str, dict[str, bytes]] = {}

    def restore(self, stored: Iterable[tuple[str, bytes]]) -> None:
        """Take in what was found at start."""
        for place, value in stored:
            kind, _, key = place.partition(" ")
            self._found.setdefault(kind, {})[key] = value

    def take(self, kind: str) -> dict[str, bytes]:
        """What the hub found of a kind when it started, by key; once, and before the wire puts anything."""
        return self._found.pop(kind, {})

    def put(self, kind: str, key: str, value: Value, told: Told | None = None, *, tied: bool = False) -> None:
        """``kind`` is a word; ``key`` any text. Raises `ValueError` for what is not; a function must not raise."""
        self._change(kind, key, value, told, tied)

    def delete(self, kind: str, key: str, told: Told | None = None, *, tied: bool = False) -> None:
        """What is not there is deleted as well."""
        self._change(kind, key, None, told, tied)

    def _change(self, kind: str, key: str, value: Value, told: Told | None, tied: bool) -> None:
        if not kind or " " in kind:
            raise ValueError(f"not a kind of state: {kind!r}")
        if not key.isascii():
            key.encode()  # what cannot be stored would fail the commit of its neighbours too
        place, change = f"{kind} {key}", TiedChange if tied else StateChange

        def make() -> StateChange:
            return change(WIRE_STATE, place, value() if callable(value) else value)

        # A tied change must not take the place of one that is true by itself: that is kept if the commit fails.
        self._log.change_once((change, place), make, told)
