"""Who gets what of what is published, and who may."""

import asyncio
import gc
import tracemalloc
from typing import Any

import pytest

from polywire.core.access import Permission, Principal
from polywire.core.errors import Denied, Internal, Invalid, TooLarge, Unauthenticated, Unavailable
from polywire.core.live import ANY_REST, ANY_WORD, Pattern
from polywire.core.message import Batch, Record
from polywire.core.subscription import Subscription
from polywire.core.topics import TopicSettings
from tests.core.harness import DISK_FULL, Rig, numbered, until
from tests.core.listeners import Listener, listen
from tests.core.test_topics import Make

ALL = (ANY_REST,)


def holder(*permissions: str) -> Principal:
    return Principal("somebody", "key", [Permission.parse(text) for text in permissions])


async def test_a_reader_gets_what_comes_after_the_commit(queue: Rig) -> None:
    await queue.publish("t", "before")
    reader = listen(queue, Listener(), ALL)
    await queue.publish("t", *numbered(50))
    assert await reader.wait(50) == numbered(50)
    queue.engine.holding = True
    publishing = asyncio.ensure_future(queue.publish("t", "late"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(reader.got) == 50
    queue.engine.let_go()
    await publishing
    assert await reader.wait(51) == [*numbered(50), b"late"]


async def test_what_is_being_committed_is_still_to_come_and_what_was_is_not(rig: Rig) -> None:
    """So that a reader who then asks for retained messages misses none between."""
    await rig.publish("t", "committed")
    rig.engine.holding = True
    publishing = []
    for payload in ("on its way", "waiting"):
        publishing.append(asyncio.ensure_future(rig.publish("t", payload)))
        for _ in range(5):
            await asyncio.sleep(0)
    assert len(rig.engine.held) == 1
    reader = listen(rig, Listener(), ALL)
    rig.engine.let_go()
    await asyncio.gather(*publishing)
    assert await reader.wait(2) == [b"on its way", b"waiting"]


async def test_what_was_committed_before_is_not_delivered_even_if_its_publication_lasts(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polywire.core.log._TURN", 0)
    early = [listen(rig, Listener(), (ANY_WORD, ANY_REST), ("t",)) for _ in range(500)]
    await rig.publish("t", "first")
    assert not all(reader.got for reader in early)
    late = listen(rig, Listener(), ("t",))
    await rig.publish("t", "second")
    assert await late.wait(1) == [b"second"]
    await until(lambda: all(reader.payloads() == [b"first", b"second"] for reader in early))


@pytest.mark.parametrize(
    ("pattern", "topic", "key", "taken"),
    [
        (("t",), "t", None, True),
        (("t",), "t", b"", False),
        (("t",), "t", b"a", False),
        (("t", ""), "t", b"", True),
        (("t", ""), "t", None, False),
        (("t", ANY_REST), "t", None, True),
        (("t", ANY_REST), "t", b"a.b", True),
        (("t", ANY_REST), "tt", b"a", False),
        (("t", "a", ANY_REST), "t", b"a", True),
        (("t", ANY_WORD), "t", b"*", True),
        (("t", "*"), "t", b"a", False),
        (("t", ANY_WORD, "b"), "t", b".b", True),
        (("t", ANY_WORD), "t", b"a.b", False),
        (("a.b", "c"), "a.b", b"c", True),
        (("a", "b", "c"), "a.b", b"c", False),
        ((ANY_WORD, "c"), "a.b", b"c", True),
        ((ANY_WORD,), "a.b", None, True),
        (("t", "\udcff"), "t", b"\xff", True),
        (("default", ANY_REST), "default", None, True),
        (ALL, "default", b"a", True),
        (ALL, "_other", b"/x.y", True),
        (ALL, "_other", None, True),
        (("", "a"), "_other", b".a", True),
        ((ANY_WORD, "a"), "_other", b".a", True),
        (("_other", ANY_REST), "_other", b".a", False),
        (("t", "a"), "_other", b"t.a", False),
    ],
)
async def test_what_a_pattern_means(rig: Rig, pattern: Pattern, topic: str, key: bytes | None, taken: bool) -> None:
    reader = listen(rig, Listener(), pattern)
    await rig.core.publish(rig.system, topic, [Record(b"x", key=key)])
    await rig.quiet()
    assert reader.payloads() == ([b"x"] if taken else [])


async def test_the_hubs_own_topics_are_nobodys(rig: Rig) -> None:
    reader = listen(rig, Listener(), ALL, ("_events", ANY_REST), (ANY_WORD, ANY_REST), (ANY_WORD,))
    rig.core.event("something", detail=1)
    await rig.publish("t", "seen")
    await rig.quiet()
    assert reader.payloads() == [b"seen"]


async def test_topics_made_later_are_taken_from_their_first_message(rig: Rig) -> None:
    reader = listen(rig, Listener(), (ANY_WORD, "a"), ("later", "b"))
    await rig.publish("made", "1", key="a")
    await rig.publish("later", "2", key="b")
    assert await reader.wait(2) == [b"1", b"2"]


async def test_a_record_comes_once_with_the_values_of_all_patterns_that_match(rig: Rig) -> None:
    reader = Listener()
    listen(rig, reader, ("t", "a"), value="exact")
    listen(rig, reader, ALL, value="all")
    listen(rig, reader, ("t", ANY_WORD), value="one")
    for key in ("a", "b", "a.b", "a"):
        await rig.publish("t", key, key=key)
    await reader.wait(4)
    assert [got.values for got in reader.got] == [
        ("exact", "all", "one"),
        ("all", "one"),
        ("all",),
        ("exact", "all", "one"),
    ]
    assert reader.tuples[0] is reader.tuples[3]


async def test_records_that_match_the_same_come_as_one_run(rig: Rig) -> None:
    """Whatever others match."""
    everything, one, both = Listener(), Listener(), Listener()
    listen(rig, everything, ALL)
    listen(rig, one, ("t", "7"))
    listen(rig, both, ("t", "7"), ("t", "8"), ALL)
    records = [Record(b"%d" % number, key=b"%d" % number) for number in (*range(10), 7, 7, 1)]
    await rig.core.publish(rig.system, "t", records)
    await everything.wait(13)
    assert everything.runs == [(0, 13)]
    assert one.runs == [(7, 8), (10, 12)]
    assert both.runs == [(0, 7), (7, 8), (8, 9), (9, 10), (10, 12), (12, 13)]
    assert both.payloads() == everything.payloads()


async def test_a_pattern_given_again_has_its_new_value_and_loses_nothing(rig: Rig) -> None:
    reader = listen(rig, Listener(room=1), ("t", "a"), value="old")
    await rig.publish("t", "1", "2", "3", key="a")
    await rig.quiet()
    listen(rig, reader, ("t", "a"), value="new")
    reader.room = None
    rig.core.live.resume(reader)
    assert await reader.wait(3) == [b"1", b"2", b"3"]
    assert [got.values for got in reader.got] == [("old",), ("new",), ("new",)]
    assert rig.core.live.metrics()["live_patterns"] == 1


async def test_nothing_comes_after_removing_or_leaving(rig: Rig) -> None:
    reader, gone = Listener(), Listener()
    listen(rig, reader, ("t", "a"), ("t", "b"))
    listen(rig, gone, ALL, ("t", "a"))
    rig.core.live.remove(("t", "a"), reader)
    rig.core.live.remove(("t", "never there"), reader)
    rig.core.live.leave(gone)
    rig.core.live.leave(gone)
    await rig.publish("t", "1", key="a")
    await rig.publish("t", "2", key="b")
    assert await reader.wait(1) == [b"2"]
    rig.core.live.remove(("t", "b"), reader)
    await rig.publish("t", "3", key="b")
    await rig.quiet()
    assert (reader.payloads(), gone.payloads()) == ([b"2"], [])
    assert rig.core.metrics()["live_readers"] == rig.core.metrics()["live_patterns"] == 0
    assert not rig.core.live._index
    assert not rig.core.live._owners


async def test_who_leaves_while_a_batch_is_handed_out_gets_nothing_more(rig: Rig) -> None:
    """By themselves, or sent away by another."""
    live = rig.core.live

    class Leaving(Listener):
        def deliver(self, batch: Batch, first: int, end: int, values: tuple[Any, ...]) -> int:
            taken = super().deliver(batch, first, end, values)
            for reader in (self, sent_away):
                live.leave(reader)
            return taken - 1

    class Removing(Listener):
        def deliver(self, batch: Batch, first: int, end: int, values: tuple[Any, ...]) -> int:
            live.remove(("t", "a"), self)
            return super().deliver(batch, first, end, values)

    class Single(Listener):
        def deliver(self, batch: Batch, first: int, end: int, values: tuple[Any, ...]) -> int:
            live.leave(self)
            return super().deliver(batch, first, end, values)

    first = listen(rig, Leaving(), ("t", "a"))
    sent_away = Listener()
    single = listen(rig, Single(), ("t", "a"))
    removing = listen(rig, Removing(), ("t", "a"), ("t", "b"), ("t", "c"))
    listen(rig, sent_away, ("t", "a"))
    await rig.core.publish(rig.system, "t", [Record(k, key=k) for k in (b"a", b"b", b"a", b"c", b"a")])
    await removing.wait(3)
    await rig.quiet()
    assert (first.payloads(), single.payloads(), sent_away.payloads()) == ([b"a"], [b"a"], [])
    assert removing.payloads() == [b"a", b"b", b"c"]
    assert rig.core.live.metrics()["live_readers_behind"] == 0


async def test_a_reader_that_fails_affects_nobody_else(rig: Rig) -> None:
    class Broken(Listener):
        def deliver(self, batch: Batch, first: int, end: int, values: tuple[Any, ...]) -> int:
            raise ValueError(f"broken at {batch}")

        def ended(self, error: object) -> None:
            super().ended(error)  # type: ignore[arg-type]
            raise ValueError("broken to the end")

    broken, several, healthy = Broken(), Broken(), Listener()
    listen(rig, broken, ALL)
    listen(rig, several, ALL, ("t", ANY_REST))
    listen(rig, healthy, ALL)
    await rig.publish("t", "1", "2")
    assert await healthy.wait(2) == [b"1", b"2"]
    assert isinstance(broken.why, Internal)
    assert isinstance(several.why, Internal)
    assert rig.core.live.metrics()["live_readers"] == 1


async def test_fan_out_does_not_hold_the_loop(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polywire.core.log._TURN", 0)
    readers = [listen(rig, Listener(), ALL, *[("t",)] * (number % 2)) for number in range(2_000)]
    turns = 0
    publishing = asyncio.ensure_future(rig.publish("t", "x"))
    while not all(reader.got for reader in readers):
        turns += 1
        await asyncio.sleep(0)
    await publishing
    assert turns > 2_000 / 64


async def test_patterns_may_change_while_a_batch_is_handed_out(rig: Rig) -> None:
    """Each message comes once to who was there, be it under other patterns than before."""
    readers = [listen(rig, Listener(), ("t", "a"), ("t", ANY_REST)) for _ in range(400)]
    singles = [listen(rig, Listener(), ("t", "a")) for _ in range(400)]
    publishing = asyncio.ensure_future(rig.publish("t", *numbered(100), key="a"))
    live = rig.core.live
    left = list(zip(readers, singles, strict=True))
    while not publishing.done() or left:
        for several, single in left[:10]:
            live.remove(("t", "a"), several)
            listen(rig, single, ("t", ANY_REST), ALL)
        del left[:10]
        await asyncio.sleep(0)
    await rig.quiet()
    assert all(reader.payloads() == numbered(100) for reader in readers + singles)


async def test_a_gap_of_a_failed_commit_stops_nobody(queue: Rig) -> None:
    live, paused = listen(queue, Listener(), ALL), listen(queue, Listener(room=1), ALL)
    await queue.publish("t", "1", "2")
    queue.engine.fault = DISK_FULL
    with pytest.raises(Unavailable):
        await queue.publish("t", "lost")
    queue.engine.fault = None
    await queue.publish("t", "3")
    paused.room = None
    queue.core.live.resume(paused)
    assert await live.wait(3) == [b"1", b"2", b"3"]
    assert await paused.wait(3) == [b"1", b"2", b"3"]
    await until(lambda: not queue.core.live.metrics()["live_readers_behind"])


async def test_a_fault_in_publication_costs_nobody_a_message(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = listen(rig, Listener(), ALL)
    await rig.subscribe()
    rig.consume()
    pump = Subscription.pump
    faults = iter([True, False, True])

    def faulty(subscription: Subscription) -> None:
        if next(faults, False):
            raise RuntimeError("a bug")
        pump(subscription)

    monkeypatch.setattr(Subscription, "pump", faulty)
    for payload in numbered(5):
        await rig.publish("t", payload)
    assert await reader.wait(5) == numbered(5)


async def test_a_memory_topic_is_read_like_any_other(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("t", durability="memory"))
    await rig.publish("t", "before")
    reader = listen(rig, Listener(), ALL)
    await rig.publish("t", *numbered(10))
    assert await reader.wait(10) == numbered(10)


async def test_readers_are_told_that_the_hub_stops(rig: Rig) -> None:
    reader = listen(rig, Listener(), ALL)
    await rig.stop()
    assert isinstance(reader.why, Unavailable)
    with pytest.raises(Unavailable):
        listen(rig, Listener(), ALL)
    assert rig.core.live.metrics()["live_readers"] == 0


# Bad patterns, and what they cost


@pytest.mark.parametrize("pattern", [(), (ANY_REST, "a"), ("t", ANY_REST, "a"), ("t", ANY_REST, ANY_REST)])
async def test_what_is_no_pattern_is_refused(rig: Rig, pattern: Pattern) -> None:
    with pytest.raises(Invalid):
        listen(rig, Listener(), pattern)
    assert rig.core.live.metrics()["live_readers"] == 0


async def test_a_pattern_longer_than_any_key_is_refused(rig: Rig) -> None:
    listen(rig, Listener(), ("t" * 249, "k" * 1_024), ("t", *[ANY_WORD] * 512), ("/", "k" * 1_022))
    for pattern in [("t", "k" * 1_025), ("t", *[ANY_WORD] * 513), (ANY_WORD, "k" * 1_025), ("/", "k" * 1_023)]:
        with pytest.raises(TooLarge, match="1024"):
            listen(rig, Listener(), pattern)


async def test_a_reader_has_one_principal(rig: Rig) -> None:
    reader = listen(rig, Listener(), ("t",), principal=holder("subscribe:t.#"))
    with pytest.raises(ValueError, match="principal"):
        listen(rig, reader, ("t", "a"), principal=holder("subscribe:t.#"))


async def test_a_hundred_thousand_patterns(rig: Rig) -> None:
    """A publish reaches its own reader alone; a pattern and its reader take less than 1.5 KiB."""
    readers = [Listener() for _ in range(100_000)]

    def add(numbers: range) -> None:
        for number in numbers:
            pattern = ("cmd", f"id{number}", ANY_REST)
            rig.core.live.add(rig.system, pattern, readers[number], number, lossless=False)

    add(range(90_000))
    gc.collect()
    tracemalloc.start()
    add(range(90_000, 100_000))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 10_000 * 1_536
    await rig.publish("cmd", "go", key="id77777.now")
    assert await readers[77_777].wait(1) == [b"go"]
    assert sum(len(reader.runs) for reader in readers) == 1
    for reader in readers:
        rig.core.live.leave(reader)
    assert not rig.core.live._index


# Access


@pytest.mark.parametrize(
    ("granted", "pattern", "allowed"),
    [
        ("t.#", ("t", ANY_REST), True),
        ("t.#", ("t",), True),
        ("t.*", ("t", ANY_WORD), True),
        ("t.*", ("t", ANY_REST), False),
        ("t.a", ("t", "a"), True),
        ("t.a", ("t", "b"), False),
        ("t.a", ("t", ANY_WORD), False),
        ("t.a", ("t", "*"), False),
        ("t.a.#", ("t", "a", "b", ANY_REST), True),
        ("t.#", ALL, False),
        ("#", ALL, True),
        ("*.#", (ANY_WORD, ANY_REST), True),
        ("*.x", (ANY_WORD, "x"), True),
        ("*.x", (ANY_WORD, ANY_WORD), False),
        ("_other..a", ("", "a"), True),
        (".a", ("", "a"), False),
        ("_other.#", ("", ANY_REST), True),
    ],
)
async def test_a_pattern_needs_a_right_that_covers_it(rig: Rig, granted: str, pattern: Pattern, allowed: bool) -> None:
    principal = holder(f"subscribe:{granted}", "publish:#", "manage:#")
    if allowed:
        listen(rig, Listener(), pattern, principal=principal)
    else:
        with pytest.raises(Denied):
            listen(rig, Listener(), pattern, principal=principal)
    assert rig.core.live.metrics()["live_readers"] == allowed


async def test_any_topic_is_any_that_may_be_seen(rig: Rig) -> None:
    """A topic's name with dots is several words of an address: a right to ``*.x`` does not reach it."""
    wide, narrow, everything = Listener(), Listener(), Listener()
    listen(rig, wide, (ANY_WORD, "x"), principal=holder("subscribe:#.x"))
    listen(rig, narrow, (ANY_WORD, "x"), principal=holder("subscribe:*.x"))
    listen(rig, everything, (ANY_WORD, ANY_REST), principal=holder("subscribe:*.#"))
    for topic, key in [("a", "x"), ("a.b", "x"), ("_other", ".x"), ("c", "x")]:
        await rig.publish(topic, topic, key=key)
    assert await wide.wait(4) == [b"a", b"a.b", b"_other", b"c"]
    assert await everything.wait(4) == wide.payloads()
    assert narrow.payloads() == [b"a", b"c"]


async def test_who_has_no_credentials_is_asked_for_them(make: Make) -> None:
    rig = await make()
    _, secret = await rig.core.access.create_key(rig.system, "k", ["subscribe:t.#"])
    with pytest.raises(Unauthenticated):
        listen(rig, Listener(), ("t",), principal=rig.core.access.anonymous)
    listen(rig, Listener(), ("t",), principal=rig.core.access.authenticate(secret))


async def test_a_right_taken_away_takes_its_patterns_at_once(rig: Rig) -> None:
    principal = holder("subscribe:#")
    reader, other = Listener(), Listener()
    listen(rig, reader, ("t", ANY_REST), ("u", ANY_REST), (ANY_WORD, "x"), principal=principal)
    listen(rig, other, ALL, principal=principal)
    await rig.publish("t", "1", key="a")
    await reader.wait(1)
    principal.narrow([Permission.parse("subscribe:u.#"), Permission.parse("subscribe:*.x")])
    assert [(pattern, value) for pattern, value, _ in reader.lost] == [(("t", ANY_REST), ("t", ANY_REST))]
    assert isinstance(reader.lost[0][2], Denied)
    assert [pattern for pattern, _, _ in other.lost] == [ALL]
    for topic, key in [("t", "a"), ("u", "a"), ("t", "x"), ("t.t", "x")]:
        await rig.publish(topic, f"{topic}.{key}", key=key)
    assert await reader.wait(3) == [b"1", b"u.a", b"t.x"]
    principal.narrow((), active=False)
    assert len(reader.lost) == 3
    await rig.publish("u", "2", key="a")
    await rig.quiet()
    assert (len(reader.got), len(other.got)) == (3, 1)
    assert rig.core.live.metrics()["live_readers"] == 0
    assert not principal._watchers
