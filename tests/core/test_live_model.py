"""Live readers beside a model of each, over random publishes, patterns, room, failing commits and deleted topics."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import pytest

from polywire.core.errors import Unavailable
from polywire.core.limits import Limits
from polywire.core.live import ANY_REST, ANY_WORD, Pattern
from polywire.core.message import Batch, Record
from tests.core.harness import DISK_FULL, Rig, until
from tests.core.listeners import Listener, means
from tests.core.test_topics import Make

STEPS = 300
TOPICS = ["t", "u.v", "default", "_other"]
KEYS = [None, b"", b"a", b"b", b"a.b", b"a.b.c", b"/x.a", b".a", b"t.a", b"\xff"]
WORDS = ["a", "b", "c", "", ANY_WORD]


class Expected(NamedTuple):
    offset: int
    payload: bytes
    values: dict[Pattern, int]


class Modelled(Listener):
    """Compares what it gets with what it is to get. ``skipped``: what was not delivered, which a lossy reader may."""

    def __init__(self, *, lossless: bool) -> None:
        super().__init__(room=None)
        self.lossless = lossless
        self.patterns: dict[Pattern, int] = {}
        self.pending: dict[str, list[Expected]] = {topic: [] for topic in TOPICS}
        self.skipped = dict.fromkeys(TOPICS, 0)
        self.wrong: list[str] = []

    def published(self, topic: str, offset: int, record: Record) -> None:
        values = {pattern: value for pattern, value in self.patterns.items() if means(pattern, topic, record.key)}
        if values:
            self.pending[topic].append(Expected(offset, record.payload, values))

    def add(self, pattern: Pattern, value: int) -> None:
        if pattern in self.patterns:
            for expected in self.pending.values():
                for one in expected:
                    if pattern in one.values:
                        one.values[pattern] = value
        self.patterns[pattern] = value

    def take_away(self, pattern: Pattern) -> None:
        del self.patterns[pattern]
        for topic, expected in self.pending.items():
            for one in expected:
                one.values.pop(pattern, None)
            self.pending[topic] = [one for one in expected if one.values]

    def deliver(self, batch: Batch, first: int, end: int, values: tuple[Any, ...]) -> int:
        taken = super().deliver(batch, first, end, values)
        pending = self.pending[batch.topic]
        for got in self.got[len(self.got) - taken :]:
            while pending and pending[0].offset < got.offset:
                pending.pop(0)
                self.skipped[batch.topic] += 1
            if not pending or pending[0][:2] != got[1:3] or tuple(pending[0].values.values()) != values:
                self.wrong.append(f"got {got} in place of {pending[:1]}")
            else:
                pending.pop(0)
        return taken

    def missed(self, topic: str, count: int) -> None:
        super().missed(topic, count)
        if self.lossless:
            self.wrong.append(f"missed {count} of {topic}")

    def check(self) -> None:
        assert self.wrong == []
        assert self.why is None
        for topic in TOPICS:
            missed = sum(count for name, count in self.gone if name == topic)
            assert self.skipped[topic] + len(self.pending[topic]) <= missed


class Run:
    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.chance = random.Random(seed)
        self.readers = [Modelled(lossless=number % 3 != 0) for number in range(6)]
        self.number = 0

    def pattern(self) -> Pattern:
        if self.chance.random() < 0.1:
            return (ANY_REST,)
        first = self.chance.choice([*TOPICS, ANY_WORD, "/x", ""])
        middle = self.chance.choices(WORDS, k=self.chance.randrange(4))
        return (first, *middle, ANY_REST) if self.chance.random() < 0.4 else (first, *middle)

    async def step(self) -> None:
        await self.chance.choices(
            [self.publish, self.publish_in_vain, self.subscribe, self.unsubscribe, self.make_room],
            [8, 1, 4, 2, 8],
        )[0]()

    def records(self) -> list[Record]:
        count = self.chance.choice([1, 1, 3, 20])
        self.number += count
        keys = self.chance.choices(KEYS, k=count) if self.chance.random() < 0.7 else [self.chance.choice(KEYS)] * count
        return [Record(b"%d" % (self.number - index), key=key) for index, key in enumerate(keys)]

    async def publish(self) -> None:
        for _ in range(self.chance.choice([1, 1, 4])):
            topic, records = self.chance.choice(TOPICS), self.records()
            offset = self.rig.core.catalog.ensure(topic).next
            for index, record in enumerate(records):
                for reader in self.readers:
                    reader.published(topic, offset + index, record)
            await self.rig.core.publish(self.rig.system, topic, records)

    async def publish_in_vain(self) -> None:
        self.rig.engine.fault = DISK_FULL
        with pytest.raises(Unavailable):
            await self.rig.core.publish(self.rig.system, self.chance.choice(TOPICS), self.records())
        self.rig.engine.fault = None

    async def subscribe(self) -> None:
        reader = self.chance.choice(self.readers)
        again = reader.patterns and self.chance.random() < 0.2
        pattern = self.chance.choice(list(reader.patterns)) if again else self.pattern()
        await self.rig.quiet()  # else what is still handed out would have the old value
        self.number += 1
        reader.add(pattern, self.number)
        self.rig.core.live.add(self.rig.system, pattern, reader, self.number, lossless=reader.lossless)

    async def unsubscribe(self) -> None:
        reader = self.chance.choice(self.readers)
        if reader.patterns:
            await self.rig.quiet()
            pattern = self.chance.choice(list(reader.patterns))
            reader.take_away(pattern)
            self.rig.core.live.remove(pattern, reader)

    async def make_room(self) -> None:
        reader = self.chance.choice(self.readers)
        reader.room = self.chance.choice([0, 1, 5, 50, None])
        self.rig.core.live.resume(reader)

    async def end(self) -> None:
        for reader in self.readers:
            reader.room = None
            self.rig.core.live.resume(reader)
        await until(lambda: not self.rig.core.live.metrics()["live_readers_behind"])
        await self.rig.quiet()
        for reader in self.readers:
            reader.check()
        for reader in self.readers:
            self.rig.core.live.leave(reader)
        assert not self.rig.core.live._index


@pytest.mark.parametrize("tail_size", [1, 10_000, 1 << 20])
@pytest.mark.parametrize("seed", range(4))
async def test_each_reader_gets_what_its_patterns_mean(make: Make, seed: int, tail_size: int) -> None:
    run = Run(await make(Limits(tail_size=tail_size)), seed)
    for _ in range(STEPS):
        await run.step()
    await run.end()
    assert sum(len(reader.got) for reader in run.readers) > 100


@pytest.mark.long
@pytest.mark.parametrize("tail_size", [1, 10_000, 1 << 20])
async def test_the_same_for_long(make: Make, tail_size: int) -> None:
    for seed in range(100, 200):
        run = Run(await make(Limits(tail_size=tail_size), folder=str(seed)), seed)
        for _ in range(STEPS):
            await run.step()
        await run.end()
        await run.rig.stop()
