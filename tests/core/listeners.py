"""What the tests of live readers share: a reader with as much room as a test gives it, and what a pattern means, said
the slow way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from polywire.core.address import OTHER, is_own, legal_topic
from polywire.core.errors import PolywireError
from polywire.core.message import Batch
from polywire.core.patterns import ANY_REST, ANY_WORD, Pattern
from tests.core.harness import Rig, until


class Got(NamedTuple):
    topic: str
    offset: int
    payload: bytes
    values: tuple[Any, ...]


class Listener:
    """``room``: how many records it takes before it says that it is full; None: all."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.got: list[Got] = []
        self.runs: list[tuple[int, int]] = []
        self.tuples: list[tuple[Any, ...]] = []
        self.gone: list[tuple[str, int]] = []
        self.lost: list[tuple[Pattern, Any, PolywireError]] = []
        self.why: PolywireError | None = None

    def deliver(self, batch: Batch, first: int, end: int, values: tuple[Any, ...]) -> int:
        taken = end - first if self.room is None else min(self.room, end - first)
        if self.room is not None:
            self.room -= taken
        self.runs.append((first, end))
        self.tuples.append(values)
        for index in range(first, first + taken):
            record = batch.records[index]
            self.got.append(Got(batch.topic, batch.offset + index, record.payload, values))
        return taken

    def missed(self, topic: str, count: int) -> None:
        self.gone.append((topic, count))

    def removed(self, pattern: Pattern, value: Any, error: PolywireError) -> None:
        self.lost.append((pattern, value, error))

    def ended(self, error: PolywireError) -> None:
        self.why = error

    def payloads(self, topic: str | None = None) -> list[bytes]:
        return [got.payload for got in self.got if topic in (None, got.topic)]

    async def wait(self, count: int) -> list[bytes]:
        await until(lambda: len(self.got) >= count, f"{count} messages (there are {len(self.got)})")
        return self.payloads()


def listen(
    rig: Rig, reader: Listener, *patterns: Pattern, value: Any = None, lossless: bool = True, principal: Any = None
) -> Listener:
    """Each pattern is its own value, unless there is one."""
    for pattern in patterns:
        chosen = pattern if value is None else value
        rig.core.live.add(principal or rig.system, pattern, reader, chosen, lossless=lossless)
    return reader


def means(pattern: Pattern, topic: str, key: bytes | None) -> bool:
    """Word by word."""
    if is_own(topic):
        return False
    words = [] if key is None else key.decode("utf-8", "surrogateescape").split(".")
    first = pattern[0]
    if topic == OTHER:
        # An address there that begins with what could be a topic's name is nobody's who asks for the topic.
        if words and isinstance(first, str) and legal_topic(first) and first != "operations":
            return False
        return _fits(pattern, words)
    return _fits(pattern, [topic, *words])


def _fits(pattern: Pattern, words: Iterable[str]) -> bool:
    left = list(words)
    for word in pattern:
        if word is ANY_REST:
            return True
        if not left or (word is not ANY_WORD and word != left[0]):
            return False
        left.pop(0)
    return not left
