import pytest

from polywire.core.errors import LimitExceeded, Unavailable
from polywire.core.limits import Limits
from polywire.core.message import Record
from polywire.core.streams import Earliest
from polywire.core.topics import TopicSettings
from tests.core.harness import DISK_FULL, Rig, numbered
from tests.core.test_topics import Make


async def _payloads(rig: Rig, topic: str = "t") -> list[bytes]:
    page = await rig.core.read(rig.system, topic, Earliest(), limit=10_000)
    return [message.record.payload for message in page.messages]


async def _rounds(rig: Rig, count: int = 4) -> None:
    for _ in range(count):
        await rig.round()


async def test_messages_go_when_their_time_has_passed(queue: Rig) -> None:
    await queue.core.create_topic(queue.system, TopicSettings("t", retention=60_000))
    await queue.publish("t", *numbered(10))
    queue.clock.advance(50_000)
    await queue.publish("t", *numbered(10, 10))
    queue.clock.advance(20_000)
    await queue.round()
    assert await _payloads(queue) == numbered(10, 10)
    info = queue.core.topic_info(queue.system, "t")
    assert (info.oldest, info.next, info.count, info.size) == (10, 20, 10, 20)
    queue.clock.advance(60_000)
    await queue.round()
    await queue.restart()
    info = queue.core.topic_info(queue.system, "t")
    assert (info.oldest, info.next, info.count, info.size) == (20, 20, 0, 0)
    [receipt] = await queue.publish("t", "next")
    assert receipt.position.offset == 20, "an offset is never given twice"


async def test_the_oldest_go_when_the_topic_is_over_its_size(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("t", retention_size=1_000))
    for number in range(100):
        await rig.publish("t", b"%0100d" % number)
    await rig.round()
    info = rig.core.topic_info(rig.system, "t")
    assert 500 <= info.size <= 1_000
    assert (await _payloads(rig))[-1] == b"%0100d" % 99
    assert not rig.core.log.engine.fault


async def test_what_a_queue_holds_is_kept_beyond_retention(queue: Rig) -> None:
    await queue.core.create_topic(queue.system, TopicSettings("t", retention=1_000))
    await queue.subscribe("s", "t")
    await queue.publish("t", "1", "2")
    queue.clock.advance(60_000)
    await queue.round()
    assert await _payloads(queue) == [], "no longer to be replayed"
    assert await queue.waiting() == [b"1", b"2"]
    await queue.crash_and_start()
    taker = queue.consume(act=lambda delivery: delivery.ack())
    await taker.wait(2)
    await queue.round()
    assert queue.core.topic_info(queue.system, "t").count == 0


async def test_a_sparse_hold_keeps_its_rows_only(make: Make) -> None:
    """Of very many messages a queue holds two: the others' space is given back, at most a row around each is kept."""
    rig = await make(Limits(tail_size=1))
    await rig.core.create_topic(rig.system, TopicSettings("t", retention=1_000))
    await rig.subscribe("s", "t")
    for number in range(3_000):
        rig.core.post(rig.system, "t", [Record(b"%d" % number)])
        if number % 3 == 0:
            await rig.core.log.committed()
    taker = rig.consume(act=lambda d: d.message.record.payload in (b"0", b"2990") or d.ack())
    await taker.wait(3_000)
    rig.clock.advance(60_000)
    await _rounds(rig, 8)
    assert rig.core.topic_info(rig.system, "t").count <= 6
    taker.close()
    await rig.restart()
    assert await rig.waiting() == [b"0", b"2990"]


async def test_stream_readers_hold_nothing(rig: Rig) -> None:
    from tests.core.harness import Reader

    await rig.core.create_topic(rig.system, TopicSettings("t", retention=1_000))
    rig.core.follow(rig.system, "t", Earliest(), Reader(room=1))
    await rig.publish("t", *numbered(5))
    rig.clock.advance(60_000)
    await rig.round()
    assert rig.core.topic_info(rig.system, "t").count == 0


async def test_at_the_hard_limit_publishing_is_refused_while_a_queue_holds_it(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("t", hard_limit=1_000))
    await rig.subscribe("s", "t")
    for _ in range(10):
        await rig.publish("t", b"x" * 100)
    for _ in range(3):
        with pytest.raises(LimitExceeded, match="holds its limit of 1000 bytes"):
            await rig.publish("t", b"x" * 100)
        await rig.round()
    await rig.publish("u", "others are not affected")
    rig.consume(act=lambda delivery: delivery.ack())
    await _rounds(rig)
    await rig.publish("t", b"x" * 100)


async def test_a_hard_limit_below_the_retention_size_refuses_nobody_when_nothing_is_held(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("t", hard_limit=1_000))
    for _ in range(100):
        try:
            await rig.publish("t", b"x" * 100)
        except LimitExceeded:
            await rig.round()
            await rig.publish("t", b"x" * 100)
    assert rig.core.topic_info(rig.system, "t").size <= 1_000


async def test_or_the_oldest_are_dropped_and_counted(queue: Rig) -> None:
    await queue.core.create_topic(queue.system, TopicSettings("t", hard_limit=1_000, overflow="drop-oldest"))
    await queue.subscribe("s", "t")
    queue.batch = 1
    for number in range(50):
        await queue.publish("t", b"%0100d" % number)
        await queue.round()
    info = queue.core.topic_info(queue.system, "t")
    assert info.size <= 1_100
    left = await queue.waiting()
    assert 5 <= len(left) <= 11
    assert left[-1] == b"%0100d" % 49
    topic = next(topic for topic in queue.core.log.by_id.values() if topic.name == "t")
    assert topic.dropped == 50 - len(left)


async def test_or_they_become_dead_letters(queue: Rig) -> None:
    await queue.core.create_topic(queue.system, TopicSettings("t", hard_limit=1_000, overflow="dead-letter"))
    await queue.subscribe("s", "t")
    queue.batch = 1
    for number in range(30):
        await queue.publish("t", b"%0100d" % number)
        await queue.round()
    await _rounds(queue)
    left, dead = await queue.waiting(), await queue.waiting("s", "dead")
    assert dead + left == [b"%0100d" % number for number in range(30)]
    assert len(left) <= 11
    peeked = await queue.core.subscriptions.peek(queue.system, "s", kind="dead")
    assert dict(peeked[0].message.record.headers)["polywire-reason"] == "its topic reached its hard limit"
    await queue.crash_and_start()
    assert await queue.waiting("s", "dead") == dead


async def test_the_whole_hub_has_a_limit_and_recovers(make: Make) -> None:
    rig = await make(Limits(hub_size=300_000))
    await rig.core.create_topic(rig.system, TopicSettings("t", retention=1_000))
    rig.batch = 20
    await rig.publish("t", *[b"x" * 20_000 for _ in range(20)])
    await rig.core._upkeep._check_space()
    with pytest.raises(Unavailable, match="limit of 300000 bytes"):
        await rig.publish("u", "x")
    assert rig.core.metrics()["accepting"] == 0
    rig.clock.advance(10_000)
    await rig.round()
    await rig.publish("u", "x")


async def test_the_disk_has_a_limit(make: Make) -> None:
    rig = await make(Limits(disk_fraction=0.0))
    await rig.core._upkeep._check_space()
    with pytest.raises(Unavailable, match="of the disk's room"):
        await rig.publish("t", "x")


async def test_rows_of_a_failed_removal_are_removed_later(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("t", retention=1_000))
    await rig.publish("t", *numbered(5))
    await rig.quiet()
    rig.clock.advance(10_000)
    rig.engine.fault = DISK_FULL
    await rig.round()
    assert rig.core.topic_info(rig.system, "t").count == 5
    rig.engine.fault = None
    await rig.round()
    assert rig.core.topic_info(rig.system, "t").count == 0
    await rig.crash_and_start()
    assert rig.core.topic_info(rig.system, "t").count == 0


async def test_memory_topics_have_retention_too(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("m", durability="memory", retention=1_000))
    await rig.publish("m", *numbered(5))
    rig.clock.advance(5_000)
    await rig.publish("m", "5")
    await rig.round()
    assert await _payloads(rig, "m") == [b"5"]


async def test_a_memory_topic_drops_and_counts_at_its_limit(rig: Rig) -> None:
    await rig.core.create_topic(
        rig.system, TopicSettings("m", durability="memory", hard_limit=1_000, overflow="drop-oldest")
    )
    await rig.subscribe("s", "m")
    for number in range(100):
        await rig.publish("m", b"%0100d" % number)
    assert rig.core.topic_info(rig.system, "m").size <= 1_000
    left = await rig.waiting()
    assert left[-1] == b"%0100d" % 99
    assert len(left) <= 10


async def test_retention_keeps_up_with_many_small_commits(make: Make) -> None:
    rig = await make(Limits(retention=60_000))
    for first in range(0, 2_500, 50):
        # Each of these waits for its own commit: one stored run each.
        for number in range(first, first + 50):
            await rig.core.publish(rig.system, "t", [Record(b"%d" % number)])
    rig.clock.advance(61_000)
    await rig.round()
    topic = rig.core.topic_info(rig.system, "t")
    assert (topic.count, topic.size, topic.oldest) == (0, 0, 2_500)
