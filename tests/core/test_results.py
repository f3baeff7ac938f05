"""What came of a delivery is published in the commit that acknowledges it."""

import pytest

from polywire.core.errors import Invalid, TooLarge
from polywire.core.limits import Limits
from polywire.core.message import Record
from polywire.core.streams import Earliest
from polywire.core.topics import TopicSettings
from tests.core.harness import DISK_FULL, Rig, numbered, until
from tests.core.test_topics import Make


async def results(rig: Rig, topic: str) -> list[bytes]:
    page = await rig.core.read(rig.system, topic, Earliest())
    return [message.record.payload for message in page.messages]


async def test_result_and_ack_are_one_commit(queue: Rig) -> None:
    await queue.subscribe("s", "t")
    await queue.publish("t", "1")
    taker = queue.consume()
    [delivery] = await taker.wait(1)
    await queue.publish("out", "x")
    await queue.quiet()
    queue.engine.holding = True
    queue.core.publish_settling(
        queue.system, [delivery], [("out", [Record(b"r1"), Record(b"r2")]), ("more", [Record(b"r3")])]
    )
    await until(lambda: queue.engine.held)
    [(commit, _)] = queue.engine.held
    assert [record.payload for batch in commit.appends for record in batch.records] == [b"r1", b"r2", b"r3"]
    assert [chunk.subscription for chunk in commit.pending] == [queue.core.subscriptions.find("s").id]
    queue.engine.let_go()
    await queue.quiet()
    await queue.crash_and_start()
    assert queue.pending() == 0
    assert await results(queue, "out") == [b"x", b"r1", b"r2"]
    assert await results(queue, "more") == [b"r3"]


async def test_a_crash_before_that_commit_takes_both(queue: Rig) -> None:
    await queue.subscribe("s", "t")
    await queue.publish("t", "1")
    await queue.publish("out", "x")
    [delivery] = await queue.consume().wait(1)
    await queue.quiet()
    queue.engine.holding = True
    queue.core.publish_settling(queue.system, [delivery], [("out", [Record(b"r")])])
    await until(lambda: queue.engine.held)
    await queue.crash_and_start()
    assert await queue.waiting() == [b"1"]
    assert await results(queue, "out") == [b"x"]


@pytest.mark.parametrize("memory_first", [False, True])
async def test_if_it_fails_the_delivery_comes_again(queue: Rig, memory_first: bool) -> None:
    await queue.subscribe("s", "t", attempts=5)
    await queue.core.create_topic(queue.system, TopicSettings("m", durability="memory"))
    await queue.publish("t", *numbered(3))
    await queue.publish("out", "x")
    taker = queue.consume()
    await taker.wait(3)
    await queue.quiet()
    queue.engine.fault = DISK_FULL
    topics = ["m", "out"] if memory_first else ["out", "m"]
    queue.core.publish_settling(queue.system, taker.got[:2], [(topic, [Record(b"r")]) for topic in topics])
    await until(lambda: queue.engine.refused)
    await queue.quiet()
    queue.engine.fault = None
    assert queue.pending() == 3
    queue.clock.advance(2_000)
    await taker.wait(5)
    assert taker.payloads[3:] == numbered(2)
    queue.core.publish_settling(queue.system, taker.got[3:], [("out", [Record(b"again")])])
    await queue.quiet()
    assert await results(queue, "out") == [b"x", b"again"]
    await queue.crash_and_start()
    assert await queue.waiting() == [b"2"]


async def test_an_ack_in_the_next_commit_does_not_carry_the_failed_one(queue: Rig) -> None:
    """Between a failed commit and what undoes it nothing may be stored of it."""
    await queue.subscribe("s", "t")
    await queue.publish("t", *numbered(2))
    await queue.publish("out", "x")
    taker = queue.consume()
    await taker.wait(2)
    await queue.quiet()
    queue.engine.holding = True
    queue.core.publish_settling(queue.system, taker.got[:1], [("out", [Record(b"r")])])
    await until(lambda: queue.engine.held)
    taker.got[1].ack()
    [(commit, done)] = queue.engine.held
    queue.engine.held.clear()
    done(commit, RuntimeError("broken"))
    await until(lambda: queue.engine.held)
    [pending] = queue.engine.held[0][0].pending
    queue.engine.let_go()
    for _ in range(3):
        await queue.core.log.published()
    await queue.crash_and_start()
    assert await queue.waiting() == [b"0"]
    assert int.from_bytes(pending.bits, "little").bit_count() == 1


async def test_a_result_that_is_refused_leaves_everything_as_it_was(make: Make) -> None:
    rig = await make(Limits(message_size=10))
    await rig.subscribe("s", "t")
    await rig.publish("t", "1")
    [delivery] = await rig.consume().wait(1)
    for topic, record, error in (("out", Record(b"x" * 11), TooLarge), ("_dead", Record(b"x"), Invalid)):
        with pytest.raises(error):
            rig.core.publish_settling(rig.system, [delivery], [("ok", [Record(b"r")]), (topic, [record])])
    await rig.quiet()
    assert rig.info().unsettled == 1
    assert rig.core.topic_info(rig.system, "ok").count == 0
    assert delivery.ack()


async def test_a_delivery_that_went_back_publishes_nothing(queue: Rig) -> None:
    """Its result comes of the attempt that settles it."""
    await queue.subscribe("s", "t", ack_timeout=1_000)
    await queue.publish("t", "1")
    taker = queue.consume()
    await taker.wait(1)
    queue.clock.advance(2_000)
    await taker.wait(2)
    for delivery in taker.got:
        queue.core.publish_settling(queue.system, [delivery], [("out", [Record(b"attempt %d" % delivery.attempt)])])
    await queue.quiet()
    assert await results(queue, "out") == [b"attempt 2"]
    assert queue.pending() == 0
