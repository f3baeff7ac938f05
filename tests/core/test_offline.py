"""What a subscription holds while nobody takes it, where it has a limit for that time."""

from __future__ import annotations

import pytest

from polywire.core.dead_letters import dead_name
from polywire.core.message import Flag, Record
from polywire.core.routing import Source
from polywire.core.streams import Earliest
from polywire.core.subscription import SubscriptionSettings
from polywire.core.topics import TopicSettings
from tests.core.harness import Rig, numbered, until


async def test_the_newest_are_dropped_and_counted(queue: Rig) -> None:
    await queue.subscribe("s", "t", offline_limit=10)
    await queue.publish("t", *numbered(100))
    assert await queue.waiting() == numbered(10)
    assert (queue.info().dropped, queue.info().settings.offline_limit) == (90, 10)
    await queue.publish("t", "more")
    await queue.quiet()
    assert queue.info().dropped == 91


async def test_nobody_drops_while_a_consumer_is_there(queue: Rig) -> None:
    await queue.subscribe("s", "t", offline_limit=3)
    taker = queue.consume(credit=0)
    await queue.publish("t", *numbered(50))
    assert await queue.waiting() == numbered(50)
    taker.close()
    await queue.publish("t", "51")
    assert await queue.waiting() == numbered(50)
    assert queue.info().dropped == 1
    taker = queue.consume(act=lambda delivery: delivery.ack())
    await taker.wait(50)
    taker.close()
    await queue.publish("t", *numbered(5))
    assert await queue.waiting() == numbered(3)


async def test_what_was_in_flight_counts_and_stays(queue: Rig) -> None:
    await queue.subscribe("s", "t", offline_limit=4)
    taker = queue.consume()
    await queue.publish("t", *numbered(3))
    await taker.wait(3)
    taker.close()
    await queue.publish("t", *numbered(3, 3))
    assert await queue.waiting() == numbered(4)
    assert queue.info().dropped == 2


async def test_no_limit_is_not_a_limit_of_none(queue: Rig) -> None:
    await queue.subscribe("unlimited", "t")
    await queue.subscribe("none", "t", offline_limit=0)
    await queue.publish("t", *numbered(20))
    assert await queue.waiting("unlimited") == numbered(20)
    assert await queue.waiting("none") == []
    assert (queue.info("unlimited").dropped, queue.info("none").dropped) == (0, 20)


async def test_a_message_of_several_sources_is_dropped_once_and_in_order(queue: Rig) -> None:
    sources = [Source("t", key="#"), Source("t", key="a.*"), Source("#"), Source("t", headers={"h": "1"})]
    await queue.subscribe("s", *sources, offline_limit=7)
    keys = [b"a.b", b"c", None]
    records = [Record(b"%d" % n, key=keys[n % 3], headers=[("h", str(n % 2))]) for n in range(30)]
    await queue.publish("t", *records)
    assert await queue.waiting() == numbered(7)
    assert queue.info().dropped == 23


async def test_what_is_not_to_be_held_is_not_dropped(queue: Rig) -> None:
    await queue.subscribe("s", Source("t", skip_volatile=True), offline_limit=2)
    await queue.publish("t", *[Record(b"%d" % n, flags=Flag.VOLATILE * (n % 2)) for n in range(10)])
    assert await queue.waiting() == [b"0", b"2"]
    assert queue.info().dropped == 3


async def test_in_memory_too(queue: Rig) -> None:
    await queue.core.create_topic(queue.system, TopicSettings("m", durability="memory"))
    await queue.subscribe("s", "m", "t", offline_limit=3)
    await queue.publish("m", *numbered(2))
    await queue.publish("t", *numbered(2, 2))
    assert await queue.waiting() == numbered(3)
    assert queue.info().dropped == 1


async def test_recovery_drops_nothing(queue: Rig) -> None:
    """What a consumer that is gone now may have had is held again: at the most what no checkpoint had yet."""
    await queue.subscribe("s", "t", offline_limit=5)
    await queue.checkpoint()
    queue.core._upkeep.stop()
    taker = queue.consume(credit=0)
    await queue.publish("t", *numbered(30))
    await queue.quiet()
    taker.close()
    await queue.crash_and_start()
    assert await queue.waiting() == numbered(30)
    await queue.publish("t", "31")
    assert await queue.waiting() == numbered(30)
    assert queue.info().dropped == 1
    await queue.checkpoint()
    await queue.crash_and_start()
    assert await queue.waiting() == numbered(30)


async def test_a_replay_and_a_redrive_are_not_dropped(queue: Rig) -> None:
    await queue.publish("t", *numbered(20))
    await queue.subscribe("s", "t", offline_limit=5, start=Earliest())
    await queue.core.subscriptions.filled()
    assert await queue.waiting() == numbered(20)
    taker = queue.consume(act=lambda delivery: delivery.reject("no"))
    await until(lambda: queue.info().dead == 20)
    taker.close()
    await queue.publish("t", *numbered(10))
    assert queue.pending() == 5
    assert await queue.core.subscriptions.redrive(queue.system, "s") == 20
    await queue.quiet()
    assert (queue.pending(), queue.info().dropped) == (25, 5)
    assert await queue.waiting(dead_name("queue", "s"), "dead") == []


@pytest.mark.parametrize("again", ["restart", "crash_and_start"])
async def test_the_limit_is_stored(queue: Rig, again: str) -> None:
    await queue.subscribe("s", Source("t", keyless=True, skip_volatile=True), offline_limit=2)
    await getattr(queue, again)()
    await queue.publish("t", *numbered(5))
    assert await queue.waiting() == numbered(2)
    assert queue.info().sources == [Source("t", keyless=True, skip_volatile=True)]


async def test_one_without_a_limit_beside_one_with(queue: Rig) -> None:
    for name, limit in (("a", 1), ("b", None), ("c", 3)):
        await queue.core.subscriptions.create(
            queue.system, SubscriptionSettings(name, [Source("t")], offline_limit=limit)
        )
    await queue.publish("t", *numbered(4))
    assert [len(await queue.waiting(name)) for name in "abc"] == [1, 4, 3]
