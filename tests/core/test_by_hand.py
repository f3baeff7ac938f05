"""What people do to a subscription: look, pause, purge, reset, remove, move."""

import pytest

from polywire.core.errors import NotFound, Unavailable
from polywire.core.message import Record
from polywire.core.position import Cursor
from polywire.core.streams import Earliest, Latest, Since
from tests.core.harness import DISK_FULL, Rig, numbered, until


async def started(queue: Rig, count: int) -> None:
    await queue.subscribe("s", "t")
    await queue.publish("t", *numbered(count))
    await queue.quiet()


async def test_peeking_takes_nothing(queue: Rig) -> None:
    await started(queue, 10)
    first, second = await queue.pull(max=2)
    first.nack(60_000)
    subscriptions = queue.core.subscriptions
    peeked = await subscriptions.peek(queue.system, "s", limit=3)
    assert [(p.message.record.payload, p.state, p.attempts) for p in peeked] == [
        (b"0", "delayed", 1), (b"1", "unsettled", 0), (b"2", "ready", 0),
    ]  # fmt: skip
    assert peeked[0].due is not None
    following = await subscriptions.peek(queue.system, "s", limit=100, after=peeked[2].seq)
    assert [p.message.record.payload for p in following] == numbered(7, 3)
    assert await subscriptions.peek(queue.system, "s", limit=0) == []
    assert second.ack()


async def test_pausing_stops_deliveries_and_survives(queue: Rig) -> None:
    await started(queue, 3)
    await queue.core.subscriptions.pause(queue.system, "s")
    await queue.crash_and_start()
    assert queue.info().paused
    taker = queue.consume()
    await queue.publish("t", "3")
    await queue.quiet()
    assert taker.got == []
    await queue.core.subscriptions.resume(queue.system, "s")
    await taker.wait(4)
    assert taker.payloads == numbered(4)
    await queue.restart()
    assert not queue.info().paused


async def test_purging_leaves_what_is_with_a_consumer(queue: Rig) -> None:
    await started(queue, 10)
    deliveries = await queue.pull(max=3)
    deliveries[0].nack(60_000)
    deliveries[1].nack()
    again = await queue.pull(max=1)
    assert again[0].attempt == 2
    assert await queue.core.subscriptions.purge(queue.system, "s") == 8
    assert (queue.info().pending, queue.info().unsettled, queue.info().delayed) == (2, 2, 0)
    again[0].nack()
    [delivery] = await queue.pull(max=10)
    assert delivery.attempt == 3
    deliveries[2].ack()
    delivery.ack()
    await queue.core.log.committed()
    await queue.crash_and_start()
    assert await queue.waiting() == []


async def test_resetting_replays(queue: Rig) -> None:
    await started(queue, 10)
    queue.clock.advance(60_000)
    moment = queue.clock.now()
    await queue.publish("t", *numbered(10, 10))
    taker = queue.consume(act=lambda delivery: delivery.ack())
    await taker.wait(20)
    taker.close()
    subscriptions = queue.core.subscriptions
    assert await subscriptions.reset(queue.system, "s", Since(moment)) == 10
    assert await queue.waiting() == numbered(10, 10)
    assert await subscriptions.reset(queue.system, "s", Earliest()) == 20
    assert await subscriptions.reset(queue.system, "s", Cursor(1, 16)) == 3
    await queue.crash_and_start()
    assert await queue.waiting() == numbered(3, 17)
    assert await queue.core.subscriptions.reset(queue.system, "s", Latest()) == 0
    await queue.publish("t", "20")
    assert await queue.waiting() == [b"20"]


async def test_resetting_takes_back_what_consumers_have(queue: Rig) -> None:
    await started(queue, 5)
    taker = queue.consume()
    await taker.wait(5)
    assert await queue.core.subscriptions.reset(queue.system, "s", Earliest()) == 5
    await taker.wait(10)
    assert not taker.got[0].ack()
    assert all(delivery.ack() for delivery in taker.got[5:])
    assert queue.pending() == 0


async def test_a_reset_during_a_replay_ends_it(queue: Rig) -> None:
    await queue.publish("t", *numbered(50))
    await queue.subscribe("s", "t", start=Earliest())
    assert await queue.core.subscriptions.reset(queue.system, "s", Cursor(1, 44)) == 5
    await queue.quiet()
    assert await queue.waiting() == numbered(5, 45)


async def test_redriven_messages_are_not_replayed_twice(queue: Rig) -> None:
    await started(queue, 3)
    taker = queue.consume(act=lambda delivery: delivery.reject("no"))
    await until(lambda: queue.info().dead == 3)
    taker.close()
    await queue.core.subscriptions.redrive(queue.system, "s")
    assert await queue.core.subscriptions.reset(queue.system, "s", Earliest()) == 3
    assert await queue.waiting() == numbered(3)


async def test_removing_one_message(queue: Rig) -> None:
    await started(queue, 4)
    [delivery] = await queue.pull(max=1)
    subscriptions = queue.core.subscriptions
    peeked = await subscriptions.peek(queue.system, "s")
    await subscriptions.remove(queue.system, "s", peeked[0].seq)
    await subscriptions.remove(queue.system, "s", peeked[2].seq)
    for seq in (peeked[2].seq, 0, 1 << 40):
        with pytest.raises(NotFound):
            await subscriptions.remove(queue.system, "s", seq)
    assert not delivery.ack()
    await queue.crash_and_start()
    assert await queue.waiting() == [b"1", b"3"]


async def test_moving_one_message(queue: Rig) -> None:
    await queue.subscribe("s", "t")
    await queue.publish("t", Record(b"1", key=b"k"), Record(b"2", key=b"k"))
    subscriptions = queue.core.subscriptions
    one, two = await subscriptions.peek(queue.system, "s") if not await queue.quiet() else []
    await subscriptions.move(queue.system, "s", one.seq, "u")
    await subscriptions.move(queue.system, "s", two.seq, "u", b"other")
    with pytest.raises(NotFound):
        await subscriptions.move(queue.system, "s", two.seq, "u")
    await queue.crash_and_start()
    assert await queue.waiting() == []
    moved = (await queue.core.read(queue.system, "u", Earliest())).messages
    assert [(m.record.payload, m.record.key) for m in moved] == [(b"1", b"k"), (b"2", b"other")]


async def test_a_move_that_fails_moves_nothing(queue: Rig) -> None:
    await started(queue, 2)
    await queue.publish("u", "x")
    peeked = await queue.core.subscriptions.peek(queue.system, "s")
    await queue.quiet()
    queue.engine.fault = DISK_FULL
    with pytest.raises(Unavailable):
        await queue.core.subscriptions.move(queue.system, "s", peeked[0].seq, "u")
    queue.engine.fault = None
    await queue.checkpoint()
    await queue.crash_and_start()
    assert await queue.waiting() == numbered(2)
    assert queue.core.topic_info(queue.system, "u").count == 1
