"""``ordered``: one unsettled message per key at a time, and the messages of a key in their order."""

import random

import pytest

from polywire.core.limits import Limits
from polywire.core.message import Record
from polywire.core.subscription import Delivery
from tests.core.harness import Rig, numbered, until
from tests.core.test_topics import Make

KEYS = [b"a", b"b", b"c", None]


def keyed(count: int) -> list[Record]:
    return [Record(b"%d" % number, key=KEYS[number % len(KEYS)]) for number in range(count)]


def of_key(deliveries: list[Delivery], key: bytes | None) -> list[int]:
    return [int(d.message.record.payload) for d in deliveries if d.message.record.key == key]


async def started(queue: Rig, count: int, **settings: object) -> None:
    await queue.subscribe("s", "t", ordered=True, **settings)
    await queue.publish("t", *keyed(count))


async def test_one_message_per_key_at_a_time(queue: Rig) -> None:
    await started(queue, 40)
    taker = queue.consume()
    await taker.wait(4)
    await queue.quiet()
    assert taker.payloads == numbered(4)
    taker.got[1].ack()
    await taker.wait(5)
    await queue.quiet()
    assert taker.payloads[4:] == [b"5"]


async def test_each_key_in_its_order_with_several_consumers(queue: Rig) -> None:
    await started(queue, 200)
    done: list[Delivery] = []
    for _ in range(3):
        queue.consume(credit=3, act=lambda delivery: (done.append(delivery), delivery.ack()))
    await until(lambda: len(done) == 200)
    for key in KEYS:
        assert of_key(done, key) == sorted(of_key(done, key))


async def test_a_nack_holds_the_messages_behind_it(queue: Rig) -> None:
    await started(queue, 12)
    taker = queue.consume()
    await taker.wait(4)
    taker.got[0].nack(10_000)
    for delivery in taker.got[1:4]:
        delivery.ack()
    await taker.wait(7)
    await queue.quiet()
    assert of_key(taker.got, b"a") == [0]
    queue.clock.advance(11_000)
    await until(lambda: of_key(taker.got, b"a") == [0, 0])
    taker.got[-1].ack()
    await until(lambda: of_key(taker.got, b"a") == [0, 0, 4])


@pytest.mark.parametrize("again", ["restart", "crash_and_start"])
async def test_also_after_a_restart(queue: Rig, again: str) -> None:
    await started(queue, 12)
    taker = queue.consume()
    await taker.wait(4)
    taker.got[0].nack(10_000)
    taker.got[1].ack()
    await queue.core.log.committed()
    await getattr(queue, again)()
    taker = queue.consume()
    await taker.wait(3)
    await queue.quiet()
    assert taker.payloads == [b"2", b"3", b"5"], "key a waits behind its delayed message"
    queue.clock.advance(11_000)
    await taker.wait(4)
    assert taker.payloads[3] == b"0"
    taker.got[3].ack()
    await taker.wait(5)
    assert taker.payloads[4] == b"4"


async def test_a_consumer_that_leaves_does_not_let_others_overtake(queue: Rig) -> None:
    await started(queue, 12)
    first = queue.consume()
    await first.wait(4)
    first.close()
    second = queue.consume(act=lambda delivery: delivery.ack())
    await second.wait(12)
    for key in KEYS:
        assert of_key(second.got, key) == sorted(of_key(second.got, key))


async def test_removed_and_expired_messages_free_their_key(queue: Rig) -> None:
    await queue.subscribe("s", "t", ordered=True)
    soon = queue.clock.now() + 5_000
    records = [Record(b"%d" % number, key=b"a", expires=soon if number == 1 else None) for number in range(5)]
    await queue.publish("t", *records)
    taker = queue.consume()
    await taker.wait(1)
    await queue.quiet()
    queue.clock.advance(7_000)
    await until(lambda: queue.pending() == 4)
    peeked = await queue.core.subscriptions.peek(queue.system, "s")
    await queue.core.subscriptions.remove(queue.system, "s", peeked[1].seq)
    taker.got[0].nack(60_000)
    await queue.quiet()
    await queue.core.subscriptions.remove(queue.system, "s", peeked[0].seq)
    await taker.wait(2)
    assert taker.payloads == [b"0", b"3"]
    taker.got[1].reject("no")
    await taker.wait(3)
    assert taker.payloads[2] == b"4"


async def test_redriven_messages_come_one_after_the_other_too(queue: Rig) -> None:
    await started(queue, 8)
    taker = queue.consume(act=lambda delivery: delivery.reject("no"))
    await until(lambda: queue.info().dead == 8)
    taker.close()
    await queue.core.subscriptions.redrive(queue.system, "s")
    done: list[Delivery] = []
    queue.consume(act=lambda delivery: (done.append(delivery), delivery.ack()))
    await until(lambda: len(done) == 8, "all redriven")
    for key in KEYS:
        assert of_key(done, key) == sorted(of_key(done, key))


async def test_purging_and_going_on(queue: Rig) -> None:
    await started(queue, 20)
    taker = queue.consume()
    await taker.wait(4)
    await queue.quiet()
    assert await queue.core.subscriptions.purge(queue.system, "s") == 16
    await queue.publish("t", Record(b"new", key=b"a"))
    await queue.quiet()
    assert len(taker.got) == 4
    taker.got[0].ack()
    await taker.wait(5)
    assert taker.payloads[4] == b"new"


async def test_whatever_happens_a_key_is_never_blocked_nor_overtaken(queue: Rig) -> None:
    chance = random.Random(7)
    await started(queue, 120)
    settled: list[Delivery] = []
    open_keys: set[bytes | None] = set()
    held: list[Delivery] = []

    def taking(delivery: Delivery) -> None:
        key = delivery.message.record.key
        assert key not in open_keys
        open_keys.add(key)
        held.append(delivery)

    takers = [queue.consume(credit=2, act=taking) for _ in range(3)]
    for step in range(2_000):
        if len(settled) == 120:
            break
        if not held:
            queue.clock.advance(500)
            await queue.quiet()
            continue
        delivery = held.pop(chance.randrange(len(held)))
        open_keys.discard(delivery.message.record.key)
        match chance.randrange(6):
            case 0:
                delivery.nack()
            case 1:
                delivery.nack(300)
            case 2:
                delivery.release()
            case 3 if step % 7 == 0:
                held.append(delivery)
                gone = takers.pop(0)
                for other in [d for d in held if d.consumer is gone.consumer]:
                    held.remove(other)
                    open_keys.discard(other.message.record.key)
                gone.close()
                takers.append(queue.consume(credit=2, act=taking))
            case _:
                delivery.ack()
                settled.append(delivery)
        await queue.quiet()
    assert len(settled) == 120
    for key in KEYS:
        assert of_key(settled, key) == sorted(of_key(settled, key))


async def test_it_looks_past_so_many_messages_of_a_busy_key(make: Make) -> None:
    rig = await make(Limits(parked=20, dispatch_batch=16))
    await rig.subscribe("s", "t", ordered=True)
    await rig.publish("t", *[Record(b"%d" % number, key=b"busy") for number in range(400)], Record(b"other", key=b"x"))
    taker = rig.consume()
    await taker.wait(1)
    await rig.quiet()
    subscription = rig.core.subscriptions.find("s")
    assert subscription is not None
    assert subscription._turns.waiting <= 20 + 16
    assert taker.payloads == [b"0"], "it waits, rather than remember them all"
    handled = 0
    while handled < 401:
        await taker.wait(handled + 1)
        taker.got[handled].ack()
        handled += 1
    assert [payload for payload in taker.payloads if payload != b"other"] == numbered(400)
