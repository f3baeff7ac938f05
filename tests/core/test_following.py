import asyncio
from collections.abc import Sequence

import pytest

from polywire.core.errors import Internal, NotFound, PolywireError, TooLarge, Unavailable
from polywire.core.limits import Limits
from polywire.core.message import Batch, Record
from polywire.core.position import Cursor
from polywire.core.routing import Source
from polywire.core.streams import Earliest, Latest, Since
from polywire.core.subscription import Subscription, SubscriptionSettings
from polywire.core.topics import TopicSettings
from tests.core.harness import DISK_FULL, Reader, Rig, numbered, until
from tests.core.test_topics import Make


def follow(rig: Rig, reader: Reader, start: object = Latest(), **more: object) -> object:
    return rig.core.follow(rig.system, "t", start, reader, create=True, **more)


async def test_a_follower_gets_what_comes_after_the_commit(queue: Rig) -> None:
    await queue.publish("t", "before")
    reader = Reader()
    follow(queue, reader)
    await queue.publish("t", *numbered(50))
    assert await reader.wait(50) == numbered(50)
    queue.engine.holding = True
    publishing = asyncio.ensure_future(queue.publish("t", "late"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(reader.got) == 50
    queue.engine.let_go()
    await publishing
    await reader.wait(51)


@pytest.mark.parametrize("start", [Earliest(), Cursor(1, -1), Since(0)])
async def test_a_follower_catches_up_and_goes_on_live(queue: Rig, start: object) -> None:
    await queue.publish("t", *numbered(200))
    reader = Reader()
    follower = follow(queue, reader, start)
    await queue.publish("t", *numbered(100, 200))
    assert await reader.wait(300) == numbered(300)
    await queue.publish("t", *numbered(100, 300))
    assert await reader.wait(400) == numbered(400)
    assert follower.cursor == Cursor(1, 399)
    assert queue.core.topic_info(queue.system, "t").followers == 1
    follower.close()
    await queue.publish("t", "more")
    await queue.quiet()
    assert len(reader.got) == 400
    assert queue.core.topic_info(queue.system, "t").followers == 0


async def test_following_from_a_cursor_after_a_restart(queue: Rig) -> None:
    await queue.publish("t", *numbered(20))
    await queue.crash_and_start()
    reader = Reader()
    follow(queue, reader, Cursor(1, 9))
    await queue.publish("t", *numbered(5, 20))
    assert await reader.wait(15) == numbered(15, 10)


async def test_a_pattern_longer_than_any_key_is_refused(rig: Rig) -> None:
    await rig.publish("t", "1")
    pattern = "#.a." * 256
    rig.core.follow(rig.system, "t", Latest(), Reader(), key=pattern[:1_024]).close()
    for topic, key in (("t", pattern + "a"), ("#.a." * 256 + "a", "#")):
        source = SubscriptionSettings(name="s", sources=[Source(topic, key=key)])
        with pytest.raises(TooLarge, match="1024"):
            await rig.core.subscriptions.create(rig.system, source)
    with pytest.raises(TooLarge, match="1024"):
        rig.core.follow(rig.system, "new", Latest(), Reader(), key=pattern + "a", create=True)
    with pytest.raises(TooLarge, match="1024"):
        await rig.core.read(rig.system, "t", Earliest(), key=pattern + "a")
    assert [info.name for info in rig.core.topics(rig.system)] == ["t"]


async def test_a_key_pattern_filters(queue: Rig) -> None:
    one, early = Reader(), Reader()
    follow(queue, one, key="a.*")
    for number in range(20):
        await queue.publish("t", str(number), key="a.x" if number % 2 else "b.x")
    follow(queue, early, Earliest(), key="a.#")
    odd = [b"%d" % number for number in range(1, 20, 2)]
    assert await one.wait(10) == odd
    assert await early.wait(10) == odd


async def test_a_full_follower_is_paused_and_goes_on_without_loss(queue: Rig) -> None:
    """A publisher never waits for it."""
    reader = Reader(room=2)
    follower = follow(queue, reader, Earliest())
    await queue.publish("t", *numbered(500))
    await queue.quiet()
    assert next(reader.batches) <= 2
    got = len(reader.got)
    while len(reader.got) < 500:
        reader.room = 1
        follower.resume()
        await until(lambda got=got: len(reader.got) > got)
        got = len(reader.got)
    assert reader.payloads == numbered(500)
    reader.room = None
    follower.resume()
    await queue.publish("t", "last")
    await reader.wait(501)
    assert reader.payloads[-1] == b"last"


async def test_a_follower_behind_retention_is_told(queue: Rig) -> None:
    await queue.core.create_topic(queue.system, TopicSettings("t", retention=1_000))
    reader = Reader(room=1)
    follower = follow(queue, reader, Earliest())
    await queue.publish("t", "0", "1", "2")
    await queue.quiet()
    queue.clock.advance(10_000)
    await queue.publish("t", "3")
    await queue.round()
    reader.room = None
    follower.resume()
    await until(lambda: reader.got[-1].record.payload == b"3")
    if queue.batch == 1:
        assert reader.payloads == [b"0", b"3"]
        [reset] = reader.resets
        assert (reset.reason, reset.oldest, reset.resumed) == ("expired", Cursor(1, 2), Cursor(1, 2))


@pytest.mark.parametrize(("cursor", "reason"), [(Cursor(7, 0), "epoch"), (Cursor(1, 99), "ahead")])
async def test_a_cursor_of_no_use_is_a_reset_to_the_newest(queue: Rig, cursor: Cursor, reason: str) -> None:
    await queue.publish("t", "0", "1")
    reader = Reader()
    follow(queue, reader, cursor)
    await queue.publish("t", "2")
    assert await reader.wait(1) == [b"2"]
    assert [reset.reason for reset in reader.resets] == [reason]


async def test_an_expired_cursor_is_a_reset_to_the_oldest(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("t", retention=1_000))
    await rig.publish("t", "0", "1")
    rig.clock.advance(10_000)
    await rig.publish("t", "2")
    await rig.round()
    reader = Reader()
    follow(rig, reader, Cursor(1, 0))
    assert await reader.wait(1) == [b"2"]
    assert [reset.reason for reset in reader.resets] == ["expired"]


async def test_a_memory_topic_forgets_behind_a_slow_follower(make: Make) -> None:
    rig = await make()
    await rig.core.create_topic(rig.system, TopicSettings("t", durability="memory", hard_limit=4_100))
    reader = Reader(room=1)
    follower = follow(rig, reader)
    await rig.publish("t", "first")
    for number in range(100):
        await rig.publish("t", b"%010d" % number)
    assert rig.core.topic_info(rig.system, "t").size <= 4_100, "ten messages"
    reader.room = None
    follower.resume()
    await until(lambda: len(reader.got) > 5)
    assert reader.payloads[-1] == b"%010d" % 99
    assert [reset.reason for reset in reader.resets] == ["expired"]


async def test_a_gap_of_a_failed_commit_stops_nobody(queue: Rig) -> None:
    live, paused = Reader(), Reader(room=1)
    follow(queue, live, Earliest())
    follower = follow(queue, paused, Earliest())
    await queue.publish("t", "1")
    queue.engine.fault = DISK_FULL
    with pytest.raises(Unavailable):
        await queue.publish("t", "lost")
    queue.engine.fault = None
    await queue.publish("t", "2")
    paused.room = None
    follower.resume()
    assert await live.wait(2) == [b"1", b"2"]
    assert await paused.wait(2) == [b"1", b"2"]


async def test_followers_are_told_of_the_end(rig: Rig) -> None:
    stopped, deleted = Reader(), Reader()
    follow(rig, stopped)
    await rig.publish("u", "x")
    rig.core.follow(rig.system, "u", Latest(), deleted)
    await rig.core.delete_topic(rig.system, "u")
    assert isinstance(deleted.why, NotFound)
    await rig.stop()
    assert isinstance(stopped.why, Unavailable)


async def test_a_reader_that_fails_affects_nobody_else(rig: Rig) -> None:
    class Broken(Reader):
        def deliver(self, batch: Batch, indexes: Sequence[int] | None) -> bool:
            raise ValueError(f"broken at {batch}, {indexes}")

    broken, healthy = Broken(), Reader()
    follow(rig, broken)
    follow(rig, healthy)
    await rig.publish("t", "1", "2")
    assert await healthy.wait(2) == [b"1", b"2"]
    assert isinstance(broken.why, Internal)
    assert rig.core.topic_info(rig.system, "t").followers == 1


async def test_a_damaged_read_ends_only_its_follower(make: Make) -> None:
    rig = await make(Limits(tail_size=1))
    await rig.publish("t", "1")

    async def damaged(*args: object, **kwargs: object) -> list[Batch]:
        raise Internal("damaged log")

    rig.engine.read = damaged  # type: ignore[attr-defined]
    rig.engine.offset_at = damaged  # type: ignore[attr-defined]
    behind, since, live = Reader(), Reader(), Reader()
    follow(rig, behind, Earliest())
    follow(rig, since, Since(0))
    follow(rig, live)
    await until(lambda: behind.why and since.why)
    await rig.publish("t", "2")
    assert await live.wait(1) == [b"2"]


async def test_fan_out_does_not_hold_the_loop(rig: Rig) -> None:
    """With thousands of readers other work goes on between slices."""
    readers = [Reader() for _ in range(5_000)]
    for reader in readers:
        follow(rig, reader)
    turns = 0
    publishing = asyncio.ensure_future(rig.publish("t", "x"))
    while not all(reader.got for reader in readers):
        turns += 1
        await asyncio.sleep(0)
    await publishing
    assert turns > 3


async def test_a_fault_in_publication_costs_nobody_a_message(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader()
    follow(rig, reader)
    await rig.subscribe()
    taker = rig.consume()
    pump = Subscription.pump
    faults = iter([True, False, True])

    def faulty(subscription: Subscription) -> None:
        if next(faults, False):
            raise RuntimeError("a bug")
        pump(subscription)

    monkeypatch.setattr(Subscription, "pump", faulty)
    for payload in numbered(5):
        await rig.publish("t", payload)
    await reader.wait(5)
    assert reader.payloads == numbered(5)
    await taker.wait(5)
    assert taker.payloads == numbered(5)


async def test_a_callback_that_fails_keeps_nobody_waiting(rig: Rig) -> None:
    def broken(error: PolywireError | None) -> None:
        raise RuntimeError("a bug")

    for durability in ("durable", "memory"):
        await rig.core.create_topic(rig.system, TopicSettings(durability, durability=durability))
        rig.core.post(rig.system, durability, [Record(b"1")], broken)
        await rig.core.publish(rig.system, durability, [Record(b"2")])
        page = await rig.core.read(rig.system, durability, Earliest())
        assert [message.record.payload for message in page.messages] == [b"1", b"2"]
