"""Handing out and settling."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from polywire.core.errors import NotFound, Unavailable
from polywire.core.limits import Limits
from polywire.core.message import Record
from polywire.core.subscription import Backoff, Delivery
from tests.core.harness import DISK_FULL, Rig, Taker, numbered, until
from tests.core.test_topics import Make


async def started(queue: Rig, *payloads: bytes, **settings: object) -> None:
    await queue.subscribe("s", "t", **settings)
    await queue.publish("t", *payloads)


async def test_everything_is_delivered_once_in_order(queue: Rig) -> None:
    await started(queue, *numbered(300))
    taker = queue.consume(credit=10, act=lambda delivery: delivery.ack())
    await queue.publish("t", *numbered(300, 300))
    await taker.wait(600)
    await queue.quiet()
    assert taker.payloads == numbered(600)
    assert queue.pending() == 0
    assert all(delivery.attempt == 1 and not delivery.redelivered for delivery in taker.got)
    await queue.crash_and_start()
    assert queue.pending() == 0


async def test_consumers_compete(queue: Rig) -> None:
    await started(queue)
    takers = [queue.consume(credit=5, act=lambda delivery: delivery.ack()) for _ in range(3)]
    await queue.publish("t", *numbered(90))
    await until(lambda: sum(len(taker.got) for taker in takers) >= 90)
    got = Counter(payload for taker in takers for payload in taker.payloads)
    assert got == Counter(numbered(90))
    assert all(taker.got for taker in takers)


@pytest.mark.parametrize("count", [2, 3, 4])
async def test_consumers_take_turns(queue: Rig, count: int) -> None:
    """One message at a time, as most come: an idle consumer's turn is not given away."""
    await started(queue)
    takers = [queue.consume(credit=5, act=lambda delivery: delivery.ack()) for _ in range(count)]
    for number in range(6 * count):
        await queue.publish("t", b"%d" % number)
        await until(lambda number=number: sum(len(taker.got) for taker in takers) > number)
    assert [len(taker.got) for taker in takers] == [6] * count


async def test_credit_bounds_what_a_consumer_holds(queue: Rig) -> None:
    await started(queue, *numbered(50))
    taker = queue.consume(credit=3)
    await taker.wait(3)
    await queue.quiet()
    assert taker.payloads == numbered(3)
    assert (queue.info().unsettled, queue.info().pending) == (3, 50)
    taker.got[1].ack()
    await taker.wait(4)
    taker.consumer.grant(10)
    await taker.wait(11)
    await queue.quiet()
    assert taker.payloads == numbered(11)
    taker.consumer.grant(0)
    for delivery in taker.got:
        delivery.ack()
    await queue.quiet()
    assert len(taker.got) == 11


async def test_an_ack_survives_a_crash_once_committed(queue: Rig) -> None:
    await started(queue, *numbered(20))
    taker = queue.consume()
    await taker.wait(20)
    for delivery in taker.got[::2]:
        assert delivery.ack()
    await queue.core.log.committed()
    await queue.crash_and_start()
    assert await queue.waiting() == numbered(20)[1::2]


async def test_acks_of_one_turn_share_a_commit(queue: Rig) -> None:
    await started(queue, *numbered(200))
    taker = queue.consume()
    await taker.wait(200)
    await queue.quiet()
    before = queue.core.log.commits
    for delivery in taker.got:
        delivery.ack()
    await queue.core.log.committed()
    assert queue.core.log.commits == before + 1


@pytest.mark.parametrize("again", ["restart", "crash_and_start"])
async def test_what_is_not_settled_comes_again_after_a_restart(queue: Rig, again: str) -> None:
    await started(queue, *numbered(10))
    await queue.consume().wait(10)
    await getattr(queue, again)()
    taker = queue.consume()
    await taker.wait(10)
    assert taker.payloads == numbered(10)
    assert all(delivery.attempt == 1 for delivery in taker.got), "a hub that stopped is no attempt"


async def test_settling_twice_does_nothing(queue: Rig) -> None:
    await started(queue, b"1")
    taker = queue.consume()
    [delivery] = await taker.wait(1)
    assert delivery.ack()
    assert not any([delivery.ack(), delivery.nack(), delivery.reject("x"), delivery.release()])
    await queue.quiet()
    assert queue.pending() == 0
    assert queue.info().dead == 0


async def test_a_nack_requeues_at_the_original_place(queue: Rig) -> None:
    await started(queue, *numbered(10))
    taker = queue.consume(credit=2)
    await taker.wait(2)
    taker.got[0].nack()
    await taker.wait(3)
    again = taker.got[2]
    assert (again.message.record.payload, again.attempt, again.redelivered) == (b"0", 2, True)
    taker.got[1].ack()
    again.ack()
    await taker.wait(5)
    await queue.quiet()
    assert taker.payloads == [b"0", b"1", b"0", b"2", b"3"]


async def test_several_returned_come_in_their_order(queue: Rig) -> None:
    await started(queue, *numbered(20))
    taker = queue.consume(credit=5)
    await taker.wait(5)
    order = list(reversed(taker.got))
    taker.consumer.grant(0)
    for delivery in order:
        delivery.nack()
    await queue.quiet()
    taker.consumer.grant(20)
    await taker.wait(25)
    assert taker.payloads[5:] == numbered(20)


async def test_a_nack_with_a_delay_waits(queue: Rig) -> None:
    await started(queue, *numbered(3))
    taker = queue.consume()
    await taker.wait(3)
    taker.got[1].nack(10_000)
    await queue.quiet()
    assert len(taker.got) == 3
    assert queue.info().delayed == 1
    queue.clock.advance(11_000)
    await taker.wait(4)
    assert taker.payloads[3] == b"1"
    taker.got[3].nack(10_000)
    await queue.core.log.committed()
    await queue.crash_and_start()
    taker = queue.consume()
    await taker.wait(2)
    await queue.quiet()
    assert taker.payloads == [b"0", b"2"], "the delay survives"
    queue.clock.advance(11_000)
    await taker.wait(3)
    assert (taker.got[2].message.record.payload, taker.got[2].attempt) == (b"1", 3)


async def test_a_copy_that_was_fetched_ahead_does_not_end_a_delay(make: Make) -> None:
    """After a restart a message may be reached by its timer and by reading on; it is still one message."""
    rig = await make()
    await started(rig, *numbered(5))
    taker = rig.consume()
    await taker.wait(5)
    taker.got[3].nack(5_000)
    await rig.core.log.committed()
    await rig.crash_and_start()
    taker = rig.consume(credit=1)
    await taker.wait(1)
    rig.clock.advance(6_000)
    seen = []
    while len(seen) < 6:
        await until(lambda: len(taker.got) > len(seen))
        delivery = taker.got[len(seen)]
        seen.append(delivery.message.record.payload)
        delivery.nack(60_000) if seen.count(b"3") == 1 and seen[-1] == b"3" else delivery.ack()
        await rig.quiet()
        if len(taker.got) == len(seen):
            break
    assert seen.count(b"3") == 1


async def test_backoff_grows_and_is_bounded(queue: Rig) -> None:
    await started(queue, b"x", backoff=Backoff(first=1_000, factor=10, max=50_000, jitter=0))
    taker = queue.consume(act=lambda delivery: delivery.nack())
    for attempt, wait in ((2, 1_000), (3, 10_000), (4, 50_000), (5, 50_000)):
        queue.clock.advance(wait - 500)
        await queue.quiet()
        assert len(taker.got) == attempt - 1
        queue.clock.advance(1_000)
        await taker.wait(attempt)
    assert [delivery.attempt for delivery in taker.got] == [1, 2, 3, 4, 5]


def test_backoff_is_spread() -> None:
    delays = {Backoff(first=1_000, jitter=0.1).delay(1) for _ in range(100)}
    assert len(delays) > 10
    assert min(delays) >= 900
    assert max(delays) <= 1_100
    assert Backoff().delay(1_000_000) <= 660_000


async def test_a_consumer_that_leaves_returns_and_that_is_no_attempt(queue: Rig) -> None:
    await started(queue, *numbered(5), attempts=1)
    first = queue.consume()
    await first.wait(5)
    first.got[0].ack()
    first.close()
    first.close()
    second = queue.consume()
    await second.wait(4)
    assert second.payloads == numbered(4, 1)
    assert all(delivery.attempt == 1 and delivery.redelivered for delivery in second.got)
    assert not first.got[2].ack(), "it is with somebody else now"
    assert queue.info().consumers == 1


async def test_a_release_is_no_attempt(queue: Rig) -> None:
    await started(queue, b"x", attempts=1)
    released: list[bool] = []
    taker = queue.consume(
        act=lambda delivery: delivery.release() if not released and not released.append(True) else None
    )
    await taker.wait(2)
    assert [(d.attempt, d.redelivered) for d in taker.got] == [(1, False), (1, True)]


async def test_a_consumer_that_fails_is_taken_off(queue: Rig) -> None:
    class Broken(Taker):
        def deliver(self, deliveries: Sequence[Delivery]) -> None:
            raise ValueError(f"broken at {deliveries}")

    await started(queue, *numbered(5))
    broken = Broken()
    queue.core.subscriptions.consume(queue.system, "s", broken, credit=5)
    await until(lambda: queue.info().consumers == 0)
    healthy = queue.consume()
    await healthy.wait(5)
    assert healthy.payloads == numbered(5)
    assert all(delivery.attempt == 1 for delivery in healthy.got)


async def test_the_ack_timeout_returns_and_counts(queue: Rig) -> None:
    await started(queue, b"x", ack_timeout=10_000)
    taker = queue.consume()
    await taker.wait(1)
    queue.clock.advance(9_000)
    await queue.quiet()
    assert len(taker.got) == 1
    queue.clock.advance(2_000)
    await taker.wait(2)
    assert taker.got[1].attempt == 2
    assert not taker.got[0].ack()
    assert taker.got[1].ack()


async def test_without_one_a_delivery_is_leased_as_long_as_its_consumer_lives(queue: Rig) -> None:
    await started(queue, b"x")
    taker = queue.consume()
    await taker.wait(1)
    queue.clock.advance(7 * 86_400_000)
    await queue.quiet()
    assert len(taker.got) == 1
    assert queue.info().oldest_unsettled >= 7 * 86_400_000
    assert taker.got[0].ack()


async def test_leases_of_settled_deliveries_take_no_memory(make: Make) -> None:
    rig = await make()
    await started(rig, ack_timeout=3_600_000)
    taker = rig.consume(act=lambda delivery: delivery.ack())
    for _ in range(50):
        await rig.core.publish(rig.system, "t", [Record(b"x") for _ in range(100)])
    await taker.wait(5_000)
    assert len(rig.core.subscriptions.find("s")._deadlines) < 1_000


# Pulling


async def test_pulling_leases(queue: Rig) -> None:
    await started(queue, *numbered(5))
    first = await queue.pull(max=3, lease=10_000)
    assert [delivery.message.record.payload for delivery in first] == numbered(3)
    second = await queue.pull(max=10, lease=10_000)
    assert [delivery.message.record.payload for delivery in second] == numbered(2, 3)
    assert await queue.pull(max=10) == []
    assert queue.info().consumers == 0
    subscriptions = queue.core.subscriptions
    queue.clock.advance(8_000)
    await subscriptions.extend(queue.system, "s", [first[0].token], 10_000)
    await subscriptions.ack(queue.system, "s", [first[1].token])
    queue.clock.advance(5_000)
    await queue.quiet()
    again = await queue.pull(max=10)
    assert [(d.message.record.payload, d.attempt) for d in again] == [(b"2", 2), (b"3", 2), (b"4", 2)]
    queue.clock.advance(6_000)
    assert [delivery.message.record.payload for delivery in await queue.pull(max=10)] == [b"0"]


async def test_a_pull_waits_for_the_first(queue: Rig) -> None:
    await started(queue)
    pulling = asyncio.ensure_future(queue.pull(max=5, wait=30_000))
    await until(lambda: queue.info().consumers)
    await queue.publish("t", "1")
    assert [delivery.message.record.payload for delivery in await pulling] == [b"1"]
    assert await queue.pull(max=5, wait=5) == []


async def test_a_cancelled_pull_takes_nothing(queue: Rig) -> None:
    await started(queue)
    pulling = asyncio.ensure_future(queue.pull(max=5, wait=30_000))
    await until(lambda: queue.info().consumers)
    pulling.cancel()
    await asyncio.gather(pulling, return_exceptions=True)
    await queue.publish("t", "1")
    assert await queue.waiting() == [b"1"]
    assert (queue.info().consumers, queue.info().unsettled) == (0, 0)


async def test_pulling_the_same_message_twice_within_a_millisecond(make: Make) -> None:
    rig = await make()
    await started(rig, b"x")
    for _ in range(200):
        [delivery] = await rig.pull(max=1, lease=10_000)
        delivery.nack()
    rig.clock.advance(20_000)
    assert rig.pending() == 1


async def test_tokens_that_are_unknown_are_named_and_none_is_settled(queue: Rig) -> None:
    await started(queue, *numbered(3))
    one, two, three = await queue.pull(max=3)
    subscriptions = queue.core.subscriptions
    await subscriptions.ack(queue.system, "s", [one.token, one.token])
    wrong = [one.token, two.token, "", "x", "1-zz", "-", "9" * 50 + "-1", "\u0661-1"]
    for act in (
        subscriptions.ack(queue.system, "s", wrong),
        subscriptions.nack(queue.system, "s", wrong),
        subscriptions.reject(queue.system, "s", wrong, "no"),
        subscriptions.extend(queue.system, "s", wrong, 1_000),
    ):
        with pytest.raises(NotFound) as caught:
            await act
        assert caught.value.extra["unknown"] == [token for token in wrong if token != two.token]
    assert queue.info().unsettled == 2
    await subscriptions.nack(queue.system, "s", [two.token], 5_000)
    await subscriptions.reject(queue.system, "s", [three.token], "no")
    assert (queue.info().delayed, queue.info().dead) == (1, 1)


# Expiry


async def test_a_message_expires_by_timer(queue: Rig) -> None:
    await queue.subscribe("s", "t")
    soon = queue.clock.now() + 5_000
    await queue.publish("t", Record(b"1"), Record(b"2", expires=soon), Record(b"3"))
    await queue.quiet()
    assert queue.pending() == 3
    queue.clock.advance(7_000)
    await until(lambda: queue.pending() == 2)
    await queue.core.log.committed()
    await queue.crash_and_start()
    assert await queue.waiting() == [b"1", b"3"]


async def test_one_that_expires_with_its_consumer_is_not_given_back(queue: Rig) -> None:
    await queue.subscribe("s", "t", ordered=True)
    soon = queue.clock.now() + 5_000
    await queue.publish("t", Record(b"1", expires=soon), Record(b"2"))
    taker = queue.consume()
    await taker.wait(1)
    queue.clock.advance(7_000)
    await until(lambda: queue.pending() == 1)
    taker.got[0].nack()
    await taker.wait(2)
    assert taker.payloads == [b"1", b"2"]
    assert not queue.core.subscriptions.find("s").pending.extras


async def test_expired_messages_of_memory_topics(make: Make) -> None:
    from polywire.core.topics import TopicSettings

    rig = await make()
    await rig.core.create_topic(rig.system, TopicSettings("t", durability="memory"))
    await rig.subscribe("s", "t")
    await rig.publish("t", Record(b"1", expires=rig.clock.now() + 1_000), Record(b"2"))
    rig.clock.advance(3_000)
    await until(lambda: rig.pending() == 1)


# Stopping, failing


async def test_stopping_ends_consumers(queue: Rig) -> None:
    await started(queue, *numbered(3))
    taker = queue.consume()
    await taker.wait(3)
    await queue.stop()
    assert isinstance(taker.why, Unavailable)
    await queue.start()
    assert await queue.waiting() == numbered(3)


async def test_acks_whose_commit_fails_are_stored_later(queue: Rig) -> None:
    await started(queue, *numbered(10))
    deliveries = await queue.pull(max=10)
    queue.engine.fault = DISK_FULL
    with pytest.raises(Unavailable):
        await queue.core.subscriptions.ack(queue.system, "s", [d.token for d in deliveries[:5]])
    with pytest.raises(Unavailable):
        await queue.core.subscriptions.ack(queue.system, "s", [d.token for d in deliveries[5:6]])
    queue.engine.fault = None
    queue.clock.advance(2_000)  # a checkpoint
    await until(lambda: not queue.core.log.unsaved)
    await queue.quiet()
    await queue.crash_and_start()
    assert await queue.waiting() == numbered(4, 6)


async def test_an_ack_during_a_failing_commit_is_not_told_as_stored(queue: Rig) -> None:
    await started(queue, *numbered(2))
    one, two = await queue.pull(max=2)
    await queue.quiet()
    queue.engine.holding = True
    first = asyncio.ensure_future(queue.core.subscriptions.ack(queue.system, "s", [one.token]))
    await until(lambda: queue.engine.held)
    second = asyncio.ensure_future(queue.core.subscriptions.ack(queue.system, "s", [two.token]))
    await asyncio.sleep(0)
    queue.engine.fault = DISK_FULL
    queue.engine.let_go()
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable, Unavailable]
    queue.engine.fault = None


async def test_acks_of_a_failed_commit_are_stored_at_stop(queue: Rig) -> None:
    await started(queue, *numbered(4))
    taker = queue.consume()
    await taker.wait(4)
    await queue.quiet()
    queue.engine.fault = DISK_FULL
    taker.got[0].ack()
    with pytest.raises(Unavailable):
        await queue.core.log.committed()
    queue.engine.fault = None
    await queue.restart()
    assert await queue.waiting() == numbered(3, 1)


async def test_a_backlog_taken_at_once_does_not_hold_the_loop(make: Make) -> None:
    rig = await make(Limits())
    await started(rig)
    rig.batch = 10_000
    await rig.publish("t", *numbered(10_000))
    await rig.quiet()
    taker = rig.consume(act=lambda delivery: delivery.ack(), credit=256)
    turns = 0
    while len(taker.got) < 10_000:
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 5
    assert taker.payloads == numbered(10_000)


async def test_a_peek_is_bounded_by_size_and_goes_on(make: Make) -> None:
    rig = await make(Limits(tail_size=1))
    await rig.subscribe()
    await rig.publish("t", *[bytes([number]) * 100_000 for number in range(40)])
    seen: list[int] = []
    after: int | None = 0
    pages = 0
    while after is not None:
        found, after = await rig.core.subscriptions.peek_page(rig.system, "s", limit=1_000, after=after)
        assert sum(len(one.message.record.payload) for one in found) < 3 << 20
        seen += [one.message.record.payload[0] for one in found]
        pages += 1
    assert seen == list(range(40))
    assert pages > 1
    await rig.core.subscriptions.purge(rig.system, "s")
    assert await rig.core.subscriptions.peek_page(rig.system, "s") == ([], None)
