"""Backpressure, and commits that fail: nothing is half done, and everything goes on when the disk does."""

import asyncio

import pytest

from polywire.core.errors import Unavailable
from polywire.core.limits import Limits
from polywire.core.message import Record
from polywire.core.streams import Earliest, Latest
from polywire.core.topics import TopicSettings
from tests.core.harness import DISK_FULL, Reader, Rig, numbered, until
from tests.core.test_topics import Make


async def payloads(rig: Rig, topic: str = "t") -> list[bytes]:
    return [
        message.record.payload
        for message in (await rig.core.read(rig.system, topic, Earliest(), limit=10_000)).messages
    ]


# Backpressure


async def test_publishers_wait_for_the_log_and_are_told_of_relief(make: Make) -> None:
    rig = await make(Limits(uncommitted_size=5_400))  # a message of 100 bytes counts 500: ten have room
    await rig.publish("t", "x")
    await rig.quiet()
    rig.engine.holding = True
    relieved: list[bool] = []
    rig.core.on_relief(lambda: relieved.append(True))
    assert relieved == [True], "at once when there is room"
    for _ in range(11):
        rig.core.post(rig.system, "t", [Record(b"x" * 100)])
    assert rig.core.congested
    rig.core.on_relief(lambda: relieved.append(True))
    waiting = [asyncio.ensure_future(rig.publish("t", b"y" * 100)) for _ in range(100)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert rig.core.metrics()["uncommitted_bytes"] <= 5_500
    assert len(relieved) == 1
    rig.engine.let_go()
    await asyncio.gather(*waiting)
    assert len(relieved) == 2
    assert not rig.core.congested
    assert rig.core.topic_info(rig.system, "t").count == 112


async def test_who_does_not_wait_is_refused_and_nothing_grows(make: Make) -> None:
    rig = await make(Limits(uncommitted_size=1_000))
    await rig.publish("t", "x")
    await rig.quiet()
    rig.engine.holding = True
    refused = 0
    for _ in range(400):
        try:
            rig.core.post(rig.system, "t", [Record(b"x" * 100)])
        except Unavailable:
            refused += 1
    assert refused > 300
    assert rig.core.metrics()["uncommitted_bytes"] < 5_000
    rig.engine.let_go()
    await rig.quiet()
    assert rig.core.topic_info(rig.system, "t").count == 401 - refused


async def test_consumers_never_hold_up_a_publisher(make: Make) -> None:
    rig = await make(Limits(tail_size=1_000))
    await rig.subscribe("s", "t")
    taker, reader = rig.consume(credit=1), Reader(room=1)
    rig.core.follow(rig.system, "t", Latest(), reader)
    rig.batch = 100
    await rig.publish("t", *numbered(5_000))
    await rig.quiet()
    assert (len(taker.got), rig.pending()) == (1, 5_000)
    assert rig.core.metrics()["tail_bytes"] <= 1_000
    assert len(rig.core.subscriptions.find("s")._fetched) <= 2 * rig.limits.dispatch_batch


async def test_settling_goes_on_while_publishes_are_held(make: Make) -> None:
    rig = await make(Limits(uncommitted_size=1_000))
    await rig.subscribe("s", "t")
    await rig.publish("t", "1")
    [delivery] = await rig.consume().wait(1)
    await rig.quiet()
    rig.engine.holding = True
    rig.core.post(rig.system, "t", [Record(b"x" * 2_000)])
    assert rig.core.congested
    assert delivery.ack()
    assert rig.pending() == 0
    rig.engine.let_go()


# Failure


async def test_a_failed_commit_tells_everybody_and_leaves_nothing(queue: Rig) -> None:
    await queue.subscribe("s", "t")
    await queue.publish("t", "before")
    reader = Reader()
    queue.core.follow(queue.system, "t", Latest(), reader)
    await queue.quiet()
    before = queue.core.topic_info(queue.system, "t")
    queue.engine.fault = DISK_FULL
    results = await asyncio.gather(*(queue.publish("t", str(n)) for n in range(20)), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    await queue.quiet()
    assert queue.core.topic_info(queue.system, "t") == before
    assert reader.got == []
    assert await queue.waiting() == [b"before"]
    assert queue.core.metrics()["uncommitted_bytes"] == 0
    queue.engine.fault = None
    await queue.publish("t", "after")
    assert await payloads(queue) == [b"before", b"after"]
    assert await queue.waiting() == [b"before", b"after"]
    assert await reader.wait(1) == [b"after"]
    await queue.crash_and_start()
    assert await payloads(queue) == [b"before", b"after"]
    assert await queue.waiting() == [b"before", b"after"]


async def test_a_topic_whose_first_publish_failed_keeps_what_comes_then(queue: Rig) -> None:
    """Memory knows it; what is acknowledged in it must be found after a crash."""
    queue.engine.fault = DISK_FULL
    with pytest.raises(Unavailable):
        await queue.publish("t", "lost")
    with pytest.raises(Unavailable):
        await queue.core.create_topic(queue.system, TopicSettings("u", retention=5_000))
    queue.engine.fault = None
    await queue.publish("t", "1")
    await queue.publish("u", "2")
    await queue.crash_and_start()
    assert await payloads(queue) == [b"1"]
    assert await payloads(queue, "u") == [b"2"]
    assert queue.core.topic_info(queue.system, "u").settings.retention == 5_000


async def test_what_was_deleted_stays_deleted(queue: Rig) -> None:
    await queue.subscribe("s", "t")
    await queue.subscribe("kept", "u")
    await queue.publish("t", "x")
    queue.engine.fault = DISK_FULL
    for doing in (queue.core.delete_topic(queue.system, "t"), queue.core.subscriptions.delete(queue.system, "s")):
        with pytest.raises(Unavailable):
            await doing
    queue.engine.fault = None
    await queue.checkpoint()
    await queue.crash_and_start()
    assert [topic.name for topic in queue.core.topics(queue.system)] == ["u"]
    assert [info.name for info in queue.core.subscriptions.list(queue.system)] == ["kept"]
    await queue.publish("t", "y")
    assert queue.core.topic_info(queue.system, "t").epoch == 2


async def test_while_the_disk_is_full_it_is_not_tried_all_the_time(rig: Rig) -> None:
    await rig.subscribe("s", "t")
    await rig.publish("t", "1")
    [delivery] = await rig.consume().wait(1)
    await rig.quiet()
    rig.engine.fault = DISK_FULL
    delivery.ack()
    with pytest.raises(Unavailable):
        await rig.publish("new", "x")
    for _ in range(100):
        await asyncio.sleep(0)
    assert rig.engine.refused <= 3


async def test_a_checkpoint_that_failed_is_repeated(queue: Rig) -> None:
    await queue.subscribe("s", "t")
    await queue.checkpoint()
    await queue.publish("t", *numbered(10))
    await queue.quiet()
    queue.engine.fault = DISK_FULL
    with pytest.raises(Unavailable):
        await queue.checkpoint()
    queue.engine.fault = None
    await queue.publish("t", "10")
    await queue.checkpoint()
    await queue.crash_and_start()
    assert await queue.waiting() == numbered(11)


async def test_a_hub_stops_though_the_disk_is_full(make: Make) -> None:
    rig = await make()
    await rig.subscribe("s", "t")
    await rig.publish("t", *numbered(5))
    rig.engine.fault = DISK_FULL
    await rig.stop()
    assert rig.core.phase == "stopped"
    await rig.start()
    assert await rig.waiting() == numbered(5)


async def test_reading_that_fails_is_tried_again(make: Make) -> None:
    rig = await make(Limits(tail_size=1))
    await rig.subscribe("s", "t")
    await rig.publish("t", *numbered(5))
    broken = [True]
    read = rig.engine.inner.read_seqs

    async def failing(seqs: list[int]) -> object:
        if broken:
            broken.pop()
            raise Unavailable("a reader died")
        return await read(seqs)

    rig.engine.read_seqs = failing  # type: ignore[attr-defined]
    taker = rig.consume()
    await until(lambda: not broken)
    await rig.quiet()
    rig.clock.advance(2_000)
    await taker.wait(5)
    assert taker.payloads == numbered(5)
