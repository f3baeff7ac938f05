"""What the clients were told, what is there after a crash, and whether the one fits the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

Name = tuple[str, int]
"""A reading: its publisher and its number there."""


class Stored(NamedTuple):
    position: str
    name: Name
    filler: str


@dataclass
class Told:
    """All that clients were told since the first start. ``echoed`` came back over a WebSocket, hence was delivered."""

    sent: dict[Name, str] = field(default_factory=dict)
    positions: dict[str, Name] = field(default_factory=dict)
    echoed: set[Name] = field(default_factory=set)
    pulled: dict[str, Name] = field(default_factory=dict)
    settling: set[str] = field(default_factory=set)  # acknowledged by the client, perhaps without an answer
    settled: set[str] = field(default_factory=set)  # and the answer was 200


@dataclass
class Found:
    """What a hub holds: ``unhandled`` and ``unpulled`` are the positions that its two subscriptions still hold."""

    readings: list[Stored]
    results: list[Name]
    unhandled: set[str]
    unpulled: set[str]


def faults(told: Told, found: Found) -> list[str]:
    """Every promise that was broken."""
    return [
        *_lost(told, found),
        *_wrong(told, found),
        *_disordered(found),
        *_badly_settled(told, found),
        *_badly_handled(found),
    ]


def _lost(told: Told, found: Found) -> Iterator[str]:
    there = {reading.position: reading.name for reading in found.readings}
    for kind, positions in (("acknowledged", told.positions), ("delivered", told.pulled)):
        for position, name in positions.items():
            if there.get(position) != name:
                yield f"{name}, {kind} at {position}, is not there: {there.get(position)}"
    names = set(there.values())
    for name in told.echoed - names:
        yield f"{name} was delivered to a WebSocket and is not there"


def _wrong(told: Told, found: Found) -> Iterator[str]:
    positions = Counter(reading.position for reading in found.readings)
    names = Counter(reading.name for reading in found.readings)
    for what, count in [*positions.items(), *names.items()]:
        if count > 1:
            yield f"{what} is there {count} times"
    for reading in found.readings:
        if told.sent.get(reading.name) != reading.filler:
            yield f"{reading.name} is not as it was sent"


def _disordered(found: Found) -> Iterator[str]:
    last: dict[str, int] = {}
    offset = -1
    for position, (publisher, number), _ in found.readings:
        if number <= last.get(publisher, -1):
            yield f"{(publisher, number)} at {position} comes after number {last[publisher]}"
        last[publisher] = number
        if _offset(position) <= offset:
            yield f"position {position} is read after offset {offset}"
        offset = _offset(position)


def _offset(position: str) -> int:
    return int(position.rsplit("-", 1)[1])


def _badly_settled(told: Told, found: Found) -> Iterator[str]:
    for position in told.settled & found.unpulled:
        yield f"{position} was settled and is pending again"
    there = {reading.position for reading in found.readings}
    for position in there - told.settling - found.unpulled:
        yield f"{position} is no longer pending, though nobody settled it"


def _badly_handled(found: Found) -> Iterator[str]:
    """A result and its acknowledgement are one commit: each reading has either one result, or none and is pending."""
    results = Counter(found.results)
    for reading in found.readings:
        expected = 0 if reading.position in found.unhandled else 1
        if results[reading.name] != expected:
            pending = "pending" if expected == 0 else "acknowledged"
            yield f"{reading.name} is {pending} and has {results[reading.name]} results"
    for name in results.keys() - {reading.name for reading in found.readings}:
        yield f"a result of {name}, which is not there"
