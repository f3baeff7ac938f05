"""Live readers that do not take all: what they get afterwards, from where, and what they are told."""

import asyncio
from collections.abc import Callable, Iterator

import msgspec
import pytest

from polywire.core.errors import Internal
from polywire.core.limits import Limits
from polywire.core.live import ANY_REST, ANY_WORD, Pattern
from polywire.core.message import Batch, Record
from polywire.core.topics import Topic, TopicSettings
from tests.core.harness import FAST, Rig, numbered, until
from tests.core.listeners import Listener, listen
from tests.core.test_topics import Make

ALL = (ANY_REST,)
A = ("t", "a")


def give_room(rig: Rig, reader: Listener, room: int | None = None) -> None:
    reader.room = room
    rig.core.live.resume(reader)


def behind(rig: Rig) -> float:
    return rig.core.live.metrics()["live_readers_behind"]


async def none_behind(rig: Rig) -> None:
    await until(lambda: not behind(rig), "all readers have caught up")
    assert not rig.core.live._lagging._arriving
    assert rig.core.live._lagging._kept == 0
    assert all(reading.lags is None for reading in rig.core.live._readings.values())


async def test_a_full_reader_goes_on_where_it_stood(queue: Rig) -> None:
    """With a tail in memory from there, without from the disk; a publisher never waits for it."""
    reader = listen(queue, Listener(room=7), A, ("t", "a", ANY_REST))
    await queue.publish("t", *numbered(300), key="a")
    await queue.quiet()
    assert reader.payloads() == numbered(7)
    taken = 7
    while taken < 300:
        give_room(queue, reader, min(41, 300 - taken))
        taken = min(taken + 41, 300)
        assert await reader.wait(taken) == numbered(taken)
    give_room(queue, reader)
    await none_behind(queue)
    await queue.publish("t", "live", key="a")
    assert await reader.wait(301) == [*numbered(300), b"live"]
    assert (reader.gone, reader.why) == ([], None)


async def test_a_full_reader_is_not_asked_again(rig: Rig) -> None:
    reader = listen(rig, Listener(room=2), A)
    for payload in numbered(20):
        await rig.publish("t", payload, key="a")
    await rig.quiet()
    assert len(reader.runs) == 3
    assert reader.runs[-1] == (0, 1), "the last of which it took nothing"
    give_room(rig, reader)
    assert await reader.wait(20) == numbered(20)


async def test_the_other_topics_go_on(queue: Rig) -> None:
    reader = listen(queue, Listener(room=1), ALL)
    await queue.publish("t", *numbered(10), key="a")
    await queue.quiet()
    reader.room = None
    await queue.publish("u", *numbered(5))
    await reader.wait(6)
    assert reader.payloads("u") == numbered(5)
    assert reader.payloads("t") == [b"0"]
    queue.core.live.resume(reader)
    await reader.wait(15)
    assert reader.payloads("t") == numbered(10)
    await none_behind(queue)


async def test_each_topic_has_its_turn(queue: Rig) -> None:
    """A reader that is always full hears of all its topics."""
    reader = listen(queue, Listener(room=0), ALL)
    for topic in ("t", "u", "v"):
        await queue.publish(topic, *numbered(100))
    await queue.quiet()
    for count in (10, 20, 30):
        give_room(queue, reader, 10)
        await reader.wait(count)
    assert {topic: len(reader.payloads(topic)) for topic in ("t", "u", "v")} == {"t": 10, "u": 10, "v": 10}
    give_room(queue, reader)
    await reader.wait(300)
    assert all(reader.payloads(topic) == numbered(100) for topic in ("t", "u", "v"))


async def test_only_what_matches_is_read_again(queue: Rig) -> None:
    reader = listen(queue, Listener(room=1), ("t", "3"), ("t", "33"))
    for number in range(100):
        await queue.publish("t", str(number), key=str(number % 50))
    await queue.quiet()
    assert reader.payloads() == [b"3"]
    give_room(queue, reader)
    assert await reader.wait(4) == [b"3", b"33", b"53", b"83"]
    assert reader.got[1].values == (("t", "33"),)
    await none_behind(queue)


async def test_a_pattern_added_while_behind_takes_what_comes_after_it(queue: Rig) -> None:
    reader = listen(queue, Listener(room=1), A)
    await queue.publish("t", "1", "2", key="a")
    await queue.publish("t", "before", key="b")
    await queue.quiet()
    listen(queue, reader, ("t", "b"))
    await queue.publish("t", "after", key="b")
    give_room(queue, reader)
    assert await reader.wait(3) == [b"1", b"2", b"after"]


async def test_a_pattern_removed_while_behind_takes_nothing_more(queue: Rig) -> None:
    reader = listen(queue, Listener(room=1), A, ("t", "b"))
    for number in range(6):
        await queue.publish("t", str(number), key="ab"[number % 2])
    await queue.quiet()
    queue.core.live.remove(A, reader)
    give_room(queue, reader)
    assert await reader.wait(4) == [b"0", b"1", b"3", b"5"]
    queue.core.live.leave(reader)
    await none_behind(queue)


async def test_without_a_lossless_pattern_it_goes_on_with_what_memory_has(make: Make) -> None:
    rig = await make(Limits(tail_size=20 * 401))
    lossy, lossless = Listener(room=5), Listener(room=5)
    listen(rig, lossy, A, lossless=False)
    listen(rig, lossless, ALL, lossless=False)
    listen(rig, lossless, ("u", "x"))
    for payload in numbered(100):
        await rig.publish("t", payload, key="a")
    await rig.quiet()
    in_memory = rig.core.catalog.existing("t").tail.first_number()
    assert in_memory is not None
    assert 50 < in_memory < 99
    give_room(rig, lossy)
    give_room(rig, lossless)
    await none_behind(rig)
    assert lossy.gone == [("t", in_memory - 5)]
    assert lossy.payloads() == numbered(5) + numbered(100 - in_memory, in_memory)
    assert (lossless.gone, lossless.payloads()) == ([], numbered(100))
    assert rig.core.live.metrics()["live_messages_missed"] == in_memory - 5


async def test_with_nothing_in_memory_it_goes_on_live(make: Make) -> None:
    rig = await make(Limits(tail_size=1))
    reader = listen(rig, Listener(room=1), A, lossless=False)
    await rig.publish("t", "1", "2", "3", key="a")
    await rig.quiet()
    give_room(rig, reader)
    await none_behind(rig)
    assert reader.gone == [("t", 2)]
    await rig.publish("t", "4", key="a")
    assert await reader.wait(2) == [b"1", b"4"]


async def test_retention_that_passes_a_reader_is_told(queue: Rig) -> None:
    await queue.core.create_topic(queue.system, TopicSettings("t", retention=1_000))
    reader = listen(queue, Listener(room=1), A)
    for payload in numbered(4):
        await queue.publish("t", payload, key="a")
    await queue.quiet()
    queue.clock.advance(10_000)
    await queue.publish("t", "new", key="a")
    await queue.round()
    oldest = queue.core.catalog.existing("t").oldest
    assert oldest > 1
    give_room(queue, reader)
    await until(lambda: reader.got[-1].payload == b"new")
    assert reader.gone == [("t", oldest - 1)]
    assert len(reader.got) == 1 + 5 - oldest


async def test_a_memory_topic_forgets_behind_a_slow_reader(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("t", durability="memory", hard_limit=4_100))
    reader = listen(rig, Listener(room=1), A)
    await rig.publish("t", "first", key="a")
    for number in range(100):
        await rig.publish("t", b"%010d" % number, key="a")
    give_room(rig, reader)
    await none_behind(rig)
    kept = len(reader.got) - 1
    assert 5 < kept < 15, "ten messages"
    assert reader.payloads() == [b"first", *[b"%010d" % number for number in range(100 - kept, 100)]]
    assert reader.gone == [("t", 100 - kept)]


async def test_a_topic_deleted_takes_what_was_not_taken(queue: Rig) -> None:
    reader = listen(queue, Listener(room=3), ALL)
    await queue.publish("t", *numbered(10))
    await queue.quiet()
    await queue.core.delete_topic(queue.system, "t")
    assert reader.gone == [("t", 7)]
    reader.room = None
    await queue.publish("t", "of another life")
    await reader.wait(4)
    assert reader.payloads() == [*numbered(3), b"of another life"]
    await none_behind(queue)


@pytest.mark.parametrize("pattern", [ALL, ("t", ANY_WORD)])
async def test_a_topic_deleted_while_it_is_read(make: Make, monkeypatch: pytest.MonkeyPatch, pattern: Pattern) -> None:
    monkeypatch.setattr("polywire.core.slices._TURN", 0)
    rig = await make(Limits(tail_size=1), batch=100)
    reader = listen(rig, Listener(room=1), pattern, ("t",))
    for first in range(0, 3_000, 100):
        await rig.core.publish(rig.system, "t", [Record(b"%d" % n, key=b"%d" % n) for n in range(first, first + 100)])
    await rig.quiet()
    listen(rig, Listener(), ("t", "other"))  # so that no match is remembered, and each takes a turn of the loop
    give_room(rig, reader)
    await until(lambda: len(reader.got) > 1)
    await rig.core.delete_topic(rig.system, "t")
    [(_, count)] = reader.gone
    assert len(reader.got) + count == 3_000
    await rig.round()
    await rig.publish("t", "of another life")
    await until(lambda: reader.got[-1].payload == b"of another life")
    assert len(reader.got) + count == 3_001
    await none_behind(rig)


async def test_readers_catch_up_under_publication_without_gap_or_repeat(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While batches are handed to others, one in each turn of the loop."""
    monkeypatch.setattr("polywire.core.log._TURN", 0)
    monkeypatch.setattr("polywire.core.live._FANOUT_SLICE", 1)
    rig = await make(batch=10)
    others = [listen(rig, Listener(), ALL) for _ in range(100)]
    slow = [listen(rig, Listener(room=number), ALL, *extra) for number, extra in enumerate([(), (A,)] * 10)]
    publishing = asyncio.ensure_future(rig.publish("t", *numbered(300), key="a"))
    handed_over = 0
    while not publishing.done() or any(len(reader.got) < 300 for reader in slow + others):
        for number, reader in enumerate(slow):
            give_room(rig, reader, 1 + number % 7)
        handed_over += bool(rig.core.live._lagging._arriving)
        await asyncio.sleep(0)
    for reader in slow + others:
        assert reader.payloads() == numbered(300)
    for reader in slow:
        give_room(rig, reader)
    await none_behind(rig)
    assert handed_over, "some came up to a batch that was being handed out"


async def test_what_is_stored_but_not_yet_published_is_not_read_ahead(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would come again with its publication. A row of the disk holds some of both batches."""
    monkeypatch.setattr("polywire.core.log._TURN", 0)
    monkeypatch.setattr("tests.core.harness.FAST", msgspec.structs.replace(FAST, row_size=1 << 20))
    rig = await make(Limits(tail_size=1))
    reader = listen(rig, Listener(room=1), ALL)

    def publish_slowly(topic: Topic, batch: Batch) -> Iterator[None]:
        yield from rig.core.live.publish(topic, batch)
        while len(reader.got) < 150 or behind(rig):
            yield

    rig.core.log.offer_live = publish_slowly
    for first in (0, 150):
        records = [Record(b"%01000d" % number) for number in range(first, first + 150)]
        rig.core.post(rig.system, "t", records)
    await until(lambda: reader.got)
    give_room(rig, reader)
    await reader.wait(300)
    await rig.quiet()
    assert [int(payload) for payload in reader.payloads()] == list(range(300))


async def test_a_fault_while_readers_come_up_to_a_batch_costs_them_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polywire.core.log._TURN", 0)
    monkeypatch.setattr("polywire.core.live._FANOUT_SLICE", 1)
    slow = listen(rig, Listener(room=0), ALL)
    for _ in range(100):
        listen(rig, Listener(), ALL)
    lagging = rig.core.live._lagging
    hand_over = lagging.hand_over
    monkeypatch.setattr(lagging, "hand_over", broken)
    publishing = asyncio.ensure_future(rig.publish("t", *numbered(10)))
    while not lagging._arriving:
        if behind(rig):
            give_room(rig, slow)
        await asyncio.sleep(0)
    await until(lambda: not lagging._arriving)
    monkeypatch.setattr(lagging, "hand_over", hand_over)
    await publishing
    assert await slow.wait(10) == numbered(10)


async def test_a_topic_deleted_as_a_reader_comes_up_to_a_batch(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader goes on with its other topics."""
    monkeypatch.setattr("polywire.core.log._TURN", 0)
    monkeypatch.setattr("polywire.core.live._FANOUT_SLICE", 1)
    slow = listen(rig, Listener(room=0), ALL)
    await rig.publish("t", "1")
    await rig.publish("u", "2")
    await rig.quiet()
    for _ in range(100):
        listen(rig, Listener(), ALL)
    publishing = asyncio.ensure_future(rig.publish("t", "3"))
    lagging = rig.core.live._lagging
    while not lagging._arriving:
        if lagging.publishing is not None:
            slow.room = 0 if slow.got else 1
            rig.core.live.resume(slow)
        await asyncio.sleep(0)
    slow.room = None
    await rig.core.delete_topic(rig.system, "t")
    await publishing
    assert await slow.wait(2) == [b"1", b"2"]
    assert slow.gone == [("t", 1)]
    await none_behind(rig)


async def test_what_is_no_longer_on_the_disk_was_missed(make: Make) -> None:
    rig = await make(Limits(tail_size=1))
    reader = listen(rig, Listener(room=1), ALL)
    await rig.publish("t", "1", "2", "3")
    await rig.quiet()

    async def nothing(*arguments: object, **more: object) -> list[Batch]:
        return []

    rig.engine.read = nothing  # type: ignore[attr-defined]
    give_room(rig, reader)
    await none_behind(rig)
    assert reader.gone == [("t", 2)]


async def test_many_behind_are_read_for_by_few(make: Make) -> None:
    """Memory for what is read from the disk is bounded over all of them."""
    rig = await make(Limits(tail_size=1), batch=100)
    readers = [listen(rig, Listener(room=0), ALL) for _ in range(100)]
    await rig.publish("t", *[b"%0100d" % number for number in range(400)])
    await rig.quiet()
    reading = most = 0
    read = rig.engine.inner.read

    async def counted(*arguments: int, **more: int) -> list[Batch]:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        found = await read(*arguments, **more)
        reading -= 1
        return found

    rig.engine.inner.read = counted  # type: ignore[method-assign]
    for _ in range(100):
        for reader in readers:
            give_room(rig, reader, 4)
        await until(lambda: not rig.core.live._lagging._queue and not rig.core.live._lagging._tasks)
        assert rig.core.live._lagging._kept < 17 << 20
    assert most == 4
    for reader in readers:
        give_room(rig, reader)
    await none_behind(rig)
    assert all(reader.payloads() == [b"%0100d" % number for number in range(400)] for reader in readers)


async def test_what_was_read_ahead_is_let_go_where_there_is_too_much(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polywire.core.lagging._KEPT_SIZE", 50_000)
    rig = await make(Limits(tail_size=1), batch=100)
    readers = [listen(rig, Listener(room=0), ALL) for _ in range(10)]
    await rig.publish("t", *numbered(200))
    await rig.quiet()
    for _ in range(20):
        for reader in readers:
            give_room(rig, reader, 10)
        await until(lambda: not rig.core.live._lagging._tasks)
        assert rig.core.live._lagging._kept <= 50_000
    for reader in readers:
        assert reader.payloads() == numbered(200)
        give_room(rig, reader)
    await none_behind(rig)


def broken(*_: object) -> int:
    raise ValueError("broken")


@pytest.mark.parametrize("tail", [1, 1 << 20])
@pytest.mark.parametrize("method", ["deliver", "missed"])
async def test_a_reader_that_fails_while_behind_ends_alone(make: Make, tail: int, method: str) -> None:
    rig = await make(Limits(tail_size=tail))
    await rig.core.create_topic(rig.system, TopicSettings("t", retention=1_000))
    bad, good = Listener(room=1), Listener(room=1)
    for reader in (bad, good):
        listen(rig, reader, ALL)
    await rig.publish("t", "1", "2", "3")
    await rig.quiet()
    if method == "missed":
        rig.clock.advance(10_000)
        await rig.publish("t", "4")
        await rig.round()
    setattr(bad, method, broken)
    for reader in (bad, good):
        give_room(rig, reader)
    await none_behind(rig)
    assert isinstance(bad.why, Internal)
    assert good.why is None
    assert good.got[-1].payload == (b"4" if method == "missed" else b"3")


async def test_a_damaged_read_ends_only_its_reader(make: Make) -> None:
    rig = await make(Limits(tail_size=1))

    async def damaged(*arguments: object, **more: object) -> list[Batch]:
        raise Internal("damaged log")

    behind, live = listen(rig, Listener(room=1), ALL), listen(rig, Listener(), ALL)
    await rig.publish("t", "1", "2")
    await rig.quiet()
    rig.engine.read = damaged  # type: ignore[attr-defined]
    give_room(rig, behind)
    await until(lambda: behind.why)
    assert behind.why is not None
    assert behind.why.detail == "damaged log"
    await rig.publish("t", "3")
    assert await live.wait(3) == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    "act", [lambda rig, reader: rig.core.live.leave(reader), lambda rig, reader: rig.core.live.remove(ALL, reader)]
)
async def test_leaving_while_the_disk_is_read(make: Make, act: Callable[[Rig, Listener], None]) -> None:
    rig = await make(Limits(tail_size=1))
    reader = listen(rig, Listener(room=0), ALL)
    await rig.publish("t", *numbered(10))
    await rig.quiet()
    give_room(rig, reader)
    await asyncio.sleep(0)
    assert rig.core.live._lagging._tasks
    act(rig, reader)
    await until(lambda: not rig.core.live._lagging._tasks)
    assert reader.got == []
    await none_behind(rig)


async def test_the_hub_stops_while_the_disk_is_read(make: Make) -> None:
    rig = await make(Limits(tail_size=1))
    reader = listen(rig, Listener(room=0), ALL)
    await rig.publish("t", *numbered(10))
    await rig.quiet()
    give_room(rig, reader)
    await asyncio.sleep(0)
    await rig.stop()
    assert reader.why is not None
    assert not rig.core.live._lagging._tasks
