"""Retained messages for who has just subscribed: those a pattern means, none that is older than what came since."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polywire.core.access import Permission, Principal
from polywire.core.errors import Denied, Invalid, PolywireError, TooLarge, Unauthenticated, Unavailable
from polywire.core.message import Flag, Message, Record
from polywire.core.patterns import ANY_REST, ANY_WORD, Pattern
from polywire.core.retained import RetainedPage, RetainedScan
from polywire.core.sorted_keys import SortedKeys
from polywire.core.topics import TopicSettings
from tests.core.harness import DISK_FULL, Rig, until

Found = list[tuple[str, bytes | None, bytes]]


def kept(payload: bytes, key: bytes | None = None, **more: Any) -> Record:
    return Record(payload, key=key, flags=Flag.RETAINED, **more)


async def retain(rig: Rig, topic: str, *keys: bytes | None) -> None:
    rig.batch = 1_000
    await rig.publish(topic, *[kept(b"%s/%s" % (topic.encode(), key or b""), key) for key in keys])


async def pages(scan: RetainedScan) -> list[list[Message]]:
    return [list(page) async for page in scan]


async def found(rig: Rig, *pattern: Any, who: Principal | None = None, **more: Any) -> Found:
    scan = rig.core.retained(who or rig.system, pattern, **more)
    messages = [message for page in await pages(scan) for message in page]
    return sorted(
        ((m.topic, m.record.key, m.record.payload) for m in messages), key=lambda one: (one[0], one[1] or b"")
    )


async def keys(rig: Rig, *pattern: Any, **more: Any) -> list[tuple[str, bytes | None]]:
    return [(topic, key) for topic, key, _ in await found(rig, *pattern, **more)]


async def memory(rig: Rig, *topics: str) -> None:
    for topic in topics:
        await rig.core.create_topic(rig.system, TopicSettings(topic, durability="memory"))


# What a pattern means


TOPICS = ("t", "u", "a.b", "a", "m", "_other", "default")
WORDS = ("a", "b", "", "*", "#", "é", "a/b", "-", "a-")


def _means(pattern: Pattern, topic: str, key: bytes | None) -> bool:
    """By the words, one by one."""
    words = [] if key is None else key.decode().split(".")
    if topic != "_other":
        words = [topic, *words]
    for index, word in enumerate(pattern):
        if word is ANY_REST:
            return True
        if index == len(words) or (word is not ANY_WORD and word != words[index]):
            return False
    return len(words) == len(pattern)


def _patterns(chance: random.Random, count: int) -> Iterator[Pattern]:
    firsts = ["t", "u", "a.b", "a", "m", "default", "", "é", "missing", ANY_WORD, ANY_WORD, ANY_REST]
    for _ in range(count):
        first = chance.choice(firsts)
        if first is ANY_REST:
            yield (first,)
            continue
        rest = [chance.choice([*WORDS, ANY_WORD, ANY_WORD]) for _ in range(chance.randrange(4))]
        yield (first, *rest, *([ANY_REST] if chance.random() < 0.4 else []))


@pytest.mark.parametrize("seed", range(3))
async def test_a_pattern_means_what_it_means_to_live_readers(rig: Rig, seed: int) -> None:
    chance = random.Random(seed)
    await memory(rig, "m", "u")
    there: set[tuple[str, bytes | None]] = set()
    for topic in TOPICS:
        for _ in range(40):
            key = ".".join(chance.choice(WORDS) for _ in range(chance.randrange(1, 4))).encode()
            if topic == "_other":  # what no topic can be called
                key = chance.choice([b"", "é".encode(), b"a/b"]) + b"." + key
            there.add((topic, key))
        if topic != "_other":
            there |= {(topic, None), (topic, b"")}
    for topic in TOPICS:
        await retain(rig, topic, *[key for place, key in there if place == topic])
    await rig.publish("t", Record(b"no", key=b"not.retained"))
    for pattern in _patterns(chance, 150):
        expected = {(topic, key) for topic, key in there if _means(pattern, topic, key)}
        assert set(await keys(rig, *pattern)) == expected, pattern
        small = await keys(rig, *pattern, limit=chance.randrange(1, 5), size=chance.choice([1, 1_000]))
        assert len(small) == len(set(small)), pattern
        assert set(small) == expected, pattern


async def test_neighbours_of_a_prefix_are_not_meant(rig: Rig) -> None:
    await memory(rig, "m")
    for topic in ("t", "m"):
        await retain(
            rig, topic, None, b"", b"a", b"a.", b"a.b", b"a-", b"a-.b", b"a/b", b"a/b.c", b"ab", b"a0", b"\xff.a"
        )
        assert await keys(rig, topic, "a", ANY_REST) == [(topic, b"a"), (topic, b"a."), (topic, b"a.b")]
        assert await keys(rig, topic, "a", ANY_WORD) == [(topic, b"a."), (topic, b"a.b")]
        assert await keys(rig, topic, "a/b", ANY_REST) == [(topic, b"a/b"), (topic, b"a/b.c")]
        assert await keys(rig, topic, "") == [(topic, b"")]
        assert await found(rig, topic) == [(topic, None, topic.encode() + b"/")]
        assert len([1 for _ in await found(rig, topic, ANY_REST)]) == 12
        assert (topic, None) not in await found(rig, topic, ANY_WORD)
        assert await keys(rig, topic, ANY_WORD, "a") == [(topic, b"\xff.a")]


async def test_the_hubs_own_topics_are_left_out(rig: Rig) -> None:
    await retain(rig, "_other", b".a")
    rig.core.publishing.internal("_events", [kept(b"own", b"a")], None)
    await rig.quiet()
    for pattern in ((ANY_REST,), (ANY_WORD, ANY_REST), (ANY_WORD, "a"), ("", "a"), ("_events", "a")):
        assert [topic for topic, _ in await keys(rig, *pattern) if topic != "_other"] == []
    assert await keys(rig, "", "a") == await keys(rig, ANY_REST) == [("_other", b".a")]


@pytest.mark.parametrize(
    "pattern", [(), (ANY_REST, "a"), ("t", ANY_REST, "a")], ids=["nothing", "rest first", "rest in the middle"]
)
async def test_what_is_no_pattern_is_refused(rig: Rig, pattern: Pattern) -> None:
    with pytest.raises(Invalid):
        rig.core.retained(rig.system, pattern)


async def test_a_pattern_longer_than_any_key_is_refused(rig: Rig) -> None:
    with pytest.raises(TooLarge):
        rig.core.retained(rig.system, ("t", "x" * 10_000))


@pytest.mark.parametrize("again", ["restart", "crash_and_start"])
async def test_it_is_there_after_a_start(rig: Rig, again: str) -> None:
    await memory(rig, "m")
    for topic in ("t", "m"):
        await retain(rig, topic, b"a", b"b")
        await rig.publish(topic, kept(b"", b"b"), kept(b"2", b"c", expires=rig.clock.now() + 1_000))
    assert await keys(rig, ANY_REST) == [("m", b"a"), ("m", b"c"), ("t", b"a"), ("t", b"c")]
    rig.clock.advance(2_000)
    assert await keys(rig, ANY_REST) == [("m", b"a"), ("t", b"a")]
    await getattr(rig, again)()
    assert await keys(rig, ANY_REST) == await keys(rig, "t", "a") == [("t", b"a")]
    await rig.core.delete_topic(rig.system, "t")
    assert await keys(rig, ANY_REST) == []


# Pages


@pytest.fixture(params=["durable", "memory"])
async def many(rig: Rig, request: pytest.FixtureRequest) -> Rig:
    """Topic ``t`` retains 1,000 messages: ``0.x`` to ``999.x``."""
    await rig.core.create_topic(rig.system, TopicSettings("t", durability=request.param))
    await retain(rig, "t", *[b"%d.x" % number for number in range(1_000)])
    return rig


async def test_pages_have_about_a_hundred_messages(many: Rig) -> None:
    sizes = [len(page) for page in await pages(many.core.retained(many.system, ("t", ANY_REST)))]
    assert sizes == [100] * 10
    sizes = [len(page) for page in await pages(many.core.retained(many.system, (ANY_WORD, ANY_WORD, "x")))]
    assert sizes == [100] * 10
    assert len(await found(many, ANY_REST, limit=7)) == 1_000


async def test_pages_have_about_so_many_bytes(rig: Rig) -> None:
    await memory(rig, "m")
    for topic in ("t", "m"):
        await rig.publish(topic, *[kept(b"x" * 100_000, b"%02d" % number) for number in range(20)])
        sizes = [len(page) for page in await pages(rig.core.retained(rig.system, (topic, ANY_REST)))]
        assert sizes == [3] * 6 + [2]


async def test_a_page_is_not_cut_short_by_what_is_not_meant(many: Rig) -> None:
    """Of ten thousand keys one is meant."""
    await retain(many, "t", *[b"%d.y" % number for number in range(9_000)], b"5000.z")
    assert await keys(many, "t", ANY_WORD, "z") == [("t", b"5000.z")]


async def test_expired_ones_hide_none(many: Rig) -> None:
    soon = many.clock.now() + 1_000
    await many.publish("t", *[kept(b"x", b"%d.soon" % number, expires=soon) for number in range(900)])
    many.clock.advance(2_000)
    assert len(await found(many, "t", ANY_REST, limit=10)) == 1_000
    assert await found(many, "t", ANY_WORD, "soon") == []


async def test_exact_addresses_are_one_look_up_and_what_is_not_there_none(rig: Rig) -> None:
    await retain(rig, "t", *[b"%d" % number for number in range(500)])
    reads = rig.core.metrics()["reads"]
    assert await keys(rig, "t", "77") == [("t", b"77")]
    assert rig.core.metrics()["reads"] == reads + 1
    for pattern in (("t", "missing"), ("t",), ("u",), ("missing", ANY_REST), ("", "a")):
        assert await keys(rig, *pattern) == []
    assert rig.core.metrics()["reads"] == reads + 1


async def test_a_literal_beginning_is_looked_up_in_order(rig: Rig) -> None:
    """A thousand keys below other words are not looked at: there is one read for what is meant, whatever else is."""
    await retain(rig, "t", *[b"%03d.a.b" % number for number in range(1_000)], *[b"%03d.c" % n for n in range(1_000)])
    for pattern, expected in (
        (("t", "500", ANY_REST), 2),
        (("t", "500", ANY_WORD, "b"), 1),
        (("t", "500", "a", ANY_WORD), 1),
        (("t", "5", ANY_REST), 0),
    ):
        reads = rig.core.metrics()["reads"]
        assert len(await found(rig, *pattern)) == expected
        assert rig.core.metrics()["reads"] == reads + 1, pattern


async def test_long_scans_let_others_have_the_loop(many: Rig) -> None:
    """Of many keys in memory, too."""
    await retain(many, "t", *[b"%d.y" % number for number in range(9_000)])
    turns = 0
    scanning = asyncio.ensure_future(found(many, "t", ANY_WORD, "nothing"))
    while not scanning.done():
        turns += 1
        await asyncio.sleep(0)
    assert scanning.result() == []
    assert turns > 3


# What is published meanwhile


async def first_page(scan: RetainedScan) -> RetainedPage:
    return await anext(scan)


async def test_what_is_appended_later_is_left_out(many: Rig) -> None:
    scan = many.core.retained(many.system, ("t", ANY_REST))
    await many.publish("t", kept(b"new", b"5.x"), kept(b"new", b"new"), kept(b"", b"6.x"))
    messages = [message for page in await pages(scan) for message in page]
    assert len(messages) == 998
    assert not {b"5.x", b"6.x", b"new"} & {message.record.key for message in messages}
    assert all(message.seq <= 1_000 for message in messages)


async def test_what_was_appended_before_and_is_not_committed_is_there(rig: Rig) -> None:
    await memory(rig, "m")
    for topic in ("t", "m"):
        await retain(rig, topic, b"a", b"b")
        rig.core.post(rig.system, topic, [kept(b"2", b"a"), kept(b"", b"b"), kept(b"3", b"c")])
        assert await found(rig, topic, ANY_REST) == [(topic, b"a", b"2"), (topic, b"c", b"3")]


async def test_since_says_from_where_on_it_came_otherwise(rig: Rig) -> None:
    await retain(rig, "t", b"a", b"b")
    since = rig.core.log.next_seq
    await rig.publish("t", kept(b"2", b"b"), kept(b"2", b"c"))
    assert await keys(rig, "t", ANY_REST) == [("t", b"a"), ("t", b"b"), ("t", b"c")]
    assert await keys(rig, "t", ANY_REST, since=since) == [("t", b"a")]


async def test_while_a_page_is_held_it_knows_what_no_longer_stands(many: Rig) -> None:
    scan = many.core.retained(many.system, ("t", ANY_REST))
    page = await first_page(scan)
    messages = list(page)
    assert len(page) == len(messages) == 100
    replaced, removed, overtaken = messages[3], messages[5], messages[7]
    await many.publish("t", kept(b"new", replaced.record.key), kept(b"", removed.record.key))
    await many.publish("t", Record(b"new", key=overtaken.record.key))
    assert [message for message in messages if not page.stands(message)] == [replaced, removed]
    assert [message for message in messages if page.overtaken(message)] == [overtaken]
    assert list(page) == [message for message in messages if message not in (replaced, removed)]
    assert replaced.record.key not in [message.record.key for rest in await pages(scan) for message in rest]


async def test_what_expires_while_a_page_is_held_no_longer_stands(rig: Rig) -> None:
    await rig.publish("t", kept(b"x", b"a", expires=rig.clock.now() + 1_000))
    page = await first_page(rig.core.retained(rig.system, ("t", "a")))
    [message] = page
    rig.clock.advance(2_000)
    assert not page.stands(message)
    assert list(page) == []


@pytest.mark.parametrize("newer", [b"new", b""], ids=["replaced", "removed"])
@pytest.mark.parametrize("pattern", [("t", "5.x"), ("t", ANY_REST)], ids=["exact", "all"])
async def test_what_is_published_while_a_page_is_read_is_not_handed_out(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, pattern: Pattern, newer: bytes
) -> None:
    """The read saw the old one, and answers after the new one was delivered."""
    pattern = tuple(word for part in pattern for word in (part.split(".") if isinstance(part, str) else [part]))
    await retain(rig, "t", b"5.x", b"6.x")
    engine = rig.engine.inner
    one, many = engine.retained, engine.retained_range

    async def publish() -> None:
        await rig.publish("t", kept(newer, b"5.x"))
        await rig.quiet()

    async def late(*arguments: Any) -> Any:
        answer = await one(*arguments)
        await publish()
        return answer

    async def late_range(*arguments: Any, **more: Any) -> Any:
        answer = await many(*arguments, **more)
        await publish()
        return answer

    monkeypatch.setattr(engine, "retained", late)
    monkeypatch.setattr(engine, "retained_range", late_range)
    expected = [("t", b"6.x")] if len(pattern) == 2 else []
    assert await keys(rig, *pattern) == expected


async def test_what_was_appended_before_and_published_during_the_read_is_handed_out(rig: Rig) -> None:
    """It is older than the subscription, so it does not come live; the page must have it."""
    await retain(rig, "t", b"a")
    await rig.quiet()
    rig.engine.holding = True
    rig.core.post(rig.system, "t", [kept(b"2", b"a")])
    scan = rig.core.retained(rig.system, ("t", ANY_REST))
    reading = asyncio.ensure_future(pages(scan))
    await until(lambda: rig.engine.held)
    rig.engine.let_go()
    [[message]] = await reading
    assert message.record.payload == b"2"


async def test_a_commit_that_fails_before_the_first_page_is_no_fault_of_the_reader(rig: Rig) -> None:
    await retain(rig, "t", b"a")
    await rig.quiet()
    rig.engine.fault = DISK_FULL
    rig.core.post(rig.system, "t", [kept(b"2", b"a"), kept(b"2", b"b"), kept(b"", b"a")])
    assert await found(rig, "t", ANY_REST) == [("t", b"a", b"t/a")]
    assert await found(rig, "t", "a") == [("t", b"a", b"t/a")]
    assert await found(rig, "t", "b") == []


async def test_what_topics_are_known_to_retain_after_failed_commits(rig: Rig) -> None:
    """Of two transactions on their way the first fails; then the second, or not."""
    for second in (True, False):
        topic = "t" if second else "u"
        await retain(rig, topic, b"there", b"stays")
        await rig.quiet()
        rig.engine.holding = True
        rig.core.post(rig.system, topic, [kept(b"1", b"new"), kept(b"", b"there"), kept(b"", b"stays")])
        await until(lambda: rig.engine.held)
        rig.core.post(rig.system, topic, [kept(b"2", b"new"), kept(b"2", b"there"), kept(b"2", b"newer")])
        [(commit, done)] = rig.engine.held
        rig.engine.held.clear()
        done(commit, PolywireError(DISK_FULL))
        if not second:
            rig.engine.fault = DISK_FULL
        rig.engine.let_go()
        await rig.quiet()
        rig.engine.fault = None
        known = sorted(rig.core.catalog.existing(topic).retained_keys)
        assert known == ([b".new", b".newer", b".stays", b".there"] if second else [b".stays", b".there"])
        assert [(topic, b"." + (key or b"")) for topic, key in await keys(rig, topic, ANY_REST)] == [
            (topic, key) for key in known
        ]
        for key in known:
            assert len(await found(rig, topic, key[1:].decode())) == 1


class Viewer:
    """What one subscriber sees: live messages and pages as they come. The last of each key must be the newest."""

    def __init__(self) -> None:
        self.seen: dict[bytes | None, list[int]] = {}

    def deliver(self, batch: Any, first: int, end: int, values: Any) -> int:
        for index in range(first, end):
            self.see(batch.message(index))
        return end - first

    def see(self, message: Message) -> None:
        self.seen.setdefault(message.record.key, []).append(int(message.record.payload or b"0"))

    def missed(self, topic: str, count: int) -> None:
        raise AssertionError(topic)

    def removed(self, *_: Any) -> None:
        raise AssertionError

    def ended(self, error: PolywireError) -> None:
        pass


class Crowd:
    """Subscribers that come while retained messages of topic ``t`` change all the time, slow ones too."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.chance = random.Random(seed)
        self.last: dict[bytes, int] = {}
        self._numbers = iter(range(1, 1_000_000))

    def publish(self) -> None:
        key, number = b"%d.x" % self.chance.randrange(50), next(self._numbers)
        payload = b"%d" % number if self.chance.random() < 0.9 else b""
        self.last[key] = number if payload else 0
        self.rig.core.post(self.rig.system, "t", [kept(payload, key)])

    async def publishing(self) -> None:
        while True:
            for _ in range(self.chance.randrange(6)):
                self.publish()
            await asyncio.sleep(0)

    async def view(self) -> Viewer:
        viewer, core, who = Viewer(), self.rig.core, self.rig.system
        pattern = self.chance.choice([("t", ANY_REST), (ANY_WORD, ANY_WORD, "x"), ("t", "7", "x")])
        core.live.add(who, pattern, viewer, None, lossless=True)
        scan = core.retained(who, pattern, since=core.log.uncommitted_from, limit=self.chance.randrange(1, 9))
        async for page in scan:
            for message in page:
                viewer.see(message)
                if self.chance.random() < 0.2:
                    await asyncio.sleep(0)
        return viewer


@pytest.mark.parametrize("durability", ["durable", "memory"])
@pytest.mark.parametrize("seed", range(3))
async def test_nobody_sees_an_older_one_after_a_newer_one_nor_misses_the_newest(
    rig: Rig, seed: int, durability: Any
) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("t", durability=durability))
    crowd = Crowd(rig, seed)
    for _ in range(300):
        crowd.publish()
    publisher = asyncio.ensure_future(crowd.publishing())
    viewers = [await crowd.view() for _ in range(20)]
    publisher.cancel()
    await rig.quiet()
    assert rig.core.log.tell_published is None
    for key, seen in [one for viewer in viewers for one in viewer.seen.items()]:
        values = [number for number in seen if number]
        assert values == sorted(set(values)), (key, seen)
        assert seen[-1] == crowd.last[key], (key, seen)


async def test_so_much_is_published_during_a_read_that_it_is_read_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polywire.core.retained._REMEMBERED", 10)
    await retain(rig, "t", b"a", *[b"%d" % number for number in range(20)])
    engine = rig.engine.inner
    read, reads = engine.retained_range, [0]

    async def late(*arguments: Any, **more: Any) -> Any:
        answer = await read(*arguments, **more)
        reads[0] += 1
        if reads[0] == 1:
            await rig.publish("t", kept(b"new", b"a"), *[kept(b"new", b"%d" % number) for number in range(20)])
        return answer

    monkeypatch.setattr(engine, "retained_range", late)
    assert await keys(rig, "t", ANY_REST) == []
    assert reads[0] == 2


async def test_who_leaves_leaves_nothing_behind(many: Rig) -> None:
    log = many.core.log
    assert log.tell_published is None
    scan = many.core.retained(many.system, ("t", ANY_REST))
    assert log.tell_published is not None
    page = await first_page(scan)
    del scan
    gc.collect()
    assert log.tell_published is not None, "the page is held"
    [message, *_] = page
    await many.publish("t", kept(b"new", message.record.key))
    assert not page.stands(message)
    del page
    gc.collect()
    assert log.tell_published is None
    assert not many.core.published_keys._pages
    never = many.core.retained(many.system, ("t", ANY_REST))
    del never
    gc.collect()
    assert log.tell_published is None
    reading = asyncio.ensure_future(found(many, "t", ANY_REST))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    del reading
    gc.collect()
    assert log.tell_published is None
    assert not many.core.published_keys._recent


async def test_what_is_remembered_is_bounded(many: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polywire.core.retained._REMEMBERED", 50)
    scan = many.core.retained(many.system, ("t", ANY_REST))
    await many.publish("t", *[kept(b"x", b"%d.x" % number) for number in range(500)])
    assert len(many.core.published_keys._recent) == 50
    del scan


# Access, and the end


async def key(rig: Rig, name: str, *allow: str) -> Principal:
    _, secret = await rig.core.access.create_key(rig.system, name, list(allow))
    return rig.core.access.authenticate(secret)


async def test_a_pattern_needs_the_right_to_all_of_it(rig: Rig) -> None:
    for topic in ("t", "u", "a.b"):
        await retain(rig, topic, b"x", b"y", b"x.y")
    await retain(rig, "_other", b".x")
    one = await key(rig, "one", "subscribe:t.x", "subscribe:*.y", "subscribe:_other.#")
    assert await keys(rig, "t", "x", who=one) == [("t", b"x")]
    assert await keys(rig, "", ANY_REST, who=one) == [("_other", b".x")]
    # "*.y" is not the right to what topic a.b holds.
    assert await keys(rig, ANY_WORD, "y", who=one) == [("t", b"y"), ("u", b"y")]
    for pattern in (("t", ANY_REST), ("t", ANY_WORD), (ANY_WORD, "x"), (ANY_REST,), ("t",), ("u", "x", ANY_REST)):
        with pytest.raises(Denied):
            rig.core.retained(one, pattern)
        with pytest.raises(Unauthenticated):
            rig.core.retained(rig.core.access.anonymous, pattern)
    everything = await key(rig, "all", "subscribe:#")
    assert len(await found(rig, ANY_REST, who=everything)) == 10


async def test_a_right_that_is_taken_away_ends_the_pages(many: Rig) -> None:
    reader = await key(many, "reader", "subscribe:t.#")
    scan = many.core.retained(reader, ("t", ANY_REST))
    await first_page(scan)
    await many.core.access.revoke_key(many.system, "reader")
    with pytest.raises(Denied):
        await first_page(scan)


@pytest.mark.parametrize("what", ["revoked", "narrowed", "deleted"])
async def test_also_while_a_page_is_read(rig: Rig, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    reader = await key(rig, "reader", "subscribe:#")
    for topic in ("a.b", "t"):
        await retain(rig, topic, b"x", b"y")
    engine = rig.engine.inner
    read = engine.retained_range

    async def late(*arguments: Any, **more: Any) -> Any:
        answer = await read(*arguments, **more)
        if what == "revoked":
            await rig.core.access.revoke_key(rig.system, "reader")
        elif what == "narrowed":
            reader.narrow([Permission.parse("subscribe:*.*")])
        elif rig.core.catalog.get("a.b") is not None:
            await rig.core.delete_topic(rig.system, "a.b")
        return answer

    monkeypatch.setattr(engine, "retained_range", late)
    scanning = keys(rig, ANY_WORD, ANY_WORD, who=reader)
    if what == "revoked":
        with pytest.raises(Denied):
            await scanning
    else:
        assert await scanning == [("t", b"x"), ("t", b"y")]


async def test_a_topic_that_is_deleted_meanwhile_has_no_more_pages(many: Rig) -> None:
    await retain(many, "u", b"a")
    scan = many.core.retained(many.system, (ANY_REST,))
    assert len(await first_page(scan)) == 100
    await many.core.delete_topic(many.system, "t")
    assert [m.topic for page in await pages(scan) for m in page] == ["u"]


async def test_a_hub_that_stops_ends_the_pages(many: Rig) -> None:
    scan = many.core.retained(many.system, ("t", ANY_REST))
    await first_page(scan)
    await many.core.drain()
    with pytest.raises(Unavailable):
        await first_page(scan)
    with pytest.raises(Unavailable):
        many.core.retained(many.system, ("t", ANY_REST))


# Keys in order


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=3)), max_size=300), st.binary(max_size=3))
def test_sorted_keys_are_a_sorted_set(steps: list[tuple[bool, bytes]], first: bytes) -> None:
    keys, model = SortedKeys(), set[bytes]()
    for add, key in steps:
        (keys.add if add else keys.discard)(key)
        (model.add if add else model.discard)(key)
    assert list(keys) == sorted(model)
    assert list(keys.from_(first)) == sorted(key for key in model if key >= first)


def test_many_sorted_keys_come_and_go() -> None:
    chance = random.Random(1)
    keys, model = SortedKeys(), set[bytes]()
    for number in range(30_000):
        key = b"%d" % chance.randrange(8_000)
        add = chance.random() < (0.7 if number < 20_000 else 0.2)
        (keys.add if add else keys.discard)(key)
        (model.add if add else model.discard)(key)
    assert list(keys) == sorted(model)
    assert list(keys.from_(b"5")) == sorted(key for key in model if key >= b"5")
    for key in list(model):
        keys.discard(key)
    assert list(keys) == []
