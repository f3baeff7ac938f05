import asyncio

import pytest

from polywire.core.errors import Conflict, Invalid, LimitExceeded, NotFound
from polywire.core.limits import Limits
from polywire.core.message import Flag, Receipt, Record
from polywire.core.streams import Earliest
from tests.core.harness import DISK_FULL, Rig, until
from tests.core.test_topics import Make


async def delay(rig: Rig, payload: bytes, after: int, topic: str = "t", **more: object) -> Receipt:
    [receipt] = await rig.core.publish(rig.system, topic, [Record(payload, **more)], due=rig.clock.now() + after)
    return receipt


async def stored(rig: Rig, topic: str = "t") -> list[bytes]:
    page = await rig.core.read(rig.system, topic, Earliest())
    return [message.record.payload for message in page.messages]


def arrived(rig: Rig, count: int, topic: str = "t") -> object:
    return until(lambda: rig.core.topic_info(rig.system, topic).count == count, f"{count} messages in {topic}")


async def test_a_delayed_message_has_no_position_until_it_is_due(rig: Rig) -> None:
    receipt = await delay(rig, b"later", 60_000)
    assert receipt.position is None
    assert receipt.id
    await rig.publish("t", "now")
    rig.clock.advance(59_000)
    await rig.quiet()
    assert await stored(rig) == [b"now"]
    rig.clock.advance(2_000)
    await arrived(rig, 2)
    assert await stored(rig) == [b"now", b"later"]
    assert rig.core.metrics()["delayed_messages"] == 0


async def test_they_come_in_order_of_their_time(rig: Rig) -> None:
    for after in (30_000, 10_000, 20_000):
        await delay(rig, b"%d" % after, after)
    rig.clock.advance(15_000)
    await arrived(rig, 1)
    rig.clock.advance(60_000)
    await arrived(rig, 3)
    assert await stored(rig) == [b"10000", b"20000", b"30000"]


async def test_a_sooner_one_does_not_wait_for_a_later(rig: Rig) -> None:
    await delay(rig, b"later", 60_000)
    await delay(rig, b"soon", 1_000)
    rig.clock.advance(2_000)
    await arrived(rig, 1)


async def test_what_was_due_already_is_published_at_once(rig: Rig) -> None:
    receipt = await delay(rig, b"x", -5)
    assert receipt.position is not None


@pytest.mark.parametrize("way", ["restart", "crash_and_start"])
async def test_they_survive_and_are_at_most_a_second_late(rig: Rig, way: str) -> None:
    await delay(rig, b"x", 60_000)
    await delay(rig, b"y", 3_600_000)
    await getattr(rig, way)()
    assert rig.core.metrics()["delayed_messages"] == 2
    await rig.stop()
    rig.clock.advance(100_000)  # its time comes while the hub is down
    before = rig.clock.now()
    await rig.start()
    await arrived(rig, 1)
    assert rig.clock.now() - before < 1_000
    assert await stored(rig) == [b"x"]
    rig.clock.advance(3_600_000)
    await arrived(rig, 2)
    await rig.crash_and_start()
    assert await stored(rig) == [b"x", b"y"]


async def test_they_are_listed_and_cancelled(rig: Rig) -> None:
    receipts = [await delay(rig, b"%d" % number, 60_000 - 1_000 * number) for number in range(3)]
    await rig.publish("u", "x")
    listed, _ = await rig.core.delayed(rig.system, "t")
    assert [one.record.payload for one in listed if one.record] == [b"2", b"1", b"0"]
    assert await rig.core.delayed(rig.system, "u") == ([], None)
    with pytest.raises(NotFound):
        await rig.core.cancel_delayed(rig.system, "u", receipts[0].id)
    await rig.core.cancel_delayed(rig.system, "t", receipts[0].id)
    with pytest.raises(NotFound):
        await rig.core.cancel_delayed(rig.system, "t", receipts[0].id)
    assert rig.core.metrics()["delayed_messages"] == 2
    await rig.crash_and_start()
    rig.clock.advance(100_000)
    await arrived(rig, 2)
    assert await stored(rig) == [b"2", b"1"]


async def test_two_with_the_same_message_id_both_arrive(rig: Rig) -> None:
    """The id is the publisher's, also of different publishers and topics; an acknowledged message is never replaced."""
    first = await delay(rig, b"1", 10_000, id="same")
    second = await delay(rig, b"2", 10_000, id="same")
    await delay(rig, b"3", 10_000, topic="u", id="same")
    assert first.id != second.id
    rig.clock.advance(20_000)
    await arrived(rig, 2)
    await arrived(rig, 1, "u")
    [one, other] = (await rig.core.read(rig.system, "t", Earliest())).messages
    assert one.record.id == other.record.id == "same"


async def test_a_repeated_delayed_publish_with_an_idempotency_key_is_one(rig: Rig) -> None:
    first = await delay(rig, b"1", 10_000, id="k", flags=Flag.DEDUP)
    again = await delay(rig, b"1", 10_000, id="k", flags=Flag.DEDUP)
    assert again.duplicate
    assert again.id == first.id
    with pytest.raises(Conflict):
        await delay(rig, b"2", 10_000, id="k", flags=Flag.DEDUP)
    rig.clock.advance(20_000)
    await arrived(rig, 1)
    assert rig.core.metrics()["delayed_messages"] == 0


async def test_moving_into_the_log_is_not_compared(rig: Rig) -> None:
    await rig.publish("t", Record(b"now", id="k", flags=Flag.DEDUP))
    await delay(rig, b"later", 10_000, id="k2", flags=Flag.DEDUP)
    rig.clock.advance(20_000)
    await arrived(rig, 2)
    assert await stored(rig) == [b"now", b"later"]


async def test_they_are_listed_page_by_page(rig: Rig) -> None:
    for number in range(9):  # about 3 MiB, three at a time due at once
        await delay(rig, b"%d" % number + b"x" * 350_000, 10_000 + number // 3)
    await delay(rig, b"elsewhere", 5_000, topic="u")
    for limit in (1, 2, 3, 100):
        found: list[bytes] = []
        after: tuple[int, str] | None = None
        while True:
            page, after = await rig.core.delayed(rig.system, "t", after=after, limit=limit)
            assert len(page) <= min(limit, 3)  # about 1 MiB
            found += [one.record.payload[:1] for one in page if one.record]
            if after is None:
                break
        assert found == [b"%d" % number for number in range(9)]


async def test_a_delayed_batch_is_all_or_nothing(make: Make) -> None:
    rig = await make(Limits(delayed=10))
    due = rig.clock.now() + 60_000
    for _ in range(5):
        await rig.core.publish(rig.system, "t", [Record(b"x"), Record(b"y")], due=due)
    for size in (1, 100):
        with pytest.raises(LimitExceeded):
            await rig.core.publish(rig.system, "t", [Record(b"x") for _ in range(size)], due=due)
    await rig.restart()
    with pytest.raises(LimitExceeded):
        await rig.core.publish(rig.system, "t", [Record(b"x")], due=due)
    rig.clock.advance(100_000)
    await arrived(rig, 10)
    await rig.core.publish(rig.system, "t", [Record(b"x")], due=rig.clock.now() + 1_000)


async def test_a_delay_has_a_limit(make: Make) -> None:
    rig = await make(Limits(delay=1_000))
    with pytest.raises(Invalid, match="1000 ms at most"):
        await delay(rig, b"x", 60_000)


async def test_a_failed_commit_delays_them_further_and_loses_none(rig: Rig) -> None:
    await delay(rig, b"x", 10_000)
    rig.engine.fault = DISK_FULL
    with pytest.raises(Exception, match=DISK_FULL):
        await delay(rig, b"never", 10_000)
    assert rig.core.metrics()["delayed_messages"] == 1
    rig.clock.advance(20_000)
    refused = rig.engine.refused
    await until(lambda: rig.engine.refused > refused)
    rig.engine.fault = None
    rig.clock.advance(2_000)
    await until(lambda: rig.core.delays._releasing is None)
    rig.clock.advance(2_000)
    await arrived(rig, 1)
    assert await stored(rig) == [b"x"]


async def test_cancelling_and_coming_due_at_once_does_one_of_them(rig: Rig) -> None:
    receipts = [await delay(rig, b"%d" % number, 1_000) for number in range(20)]
    cancels = [asyncio.ensure_future(rig.core.cancel_delayed(rig.system, "t", receipt.id)) for receipt in receipts[::2]]
    rig.clock.advance(2_000)
    results = await asyncio.gather(*cancels, return_exceptions=True)
    cancelled = sum(result is None for result in results)
    await arrived(rig, 20 - cancelled)
    assert rig.core.metrics()["delayed_messages"] == 0
    assert await rig.core.delayed(rig.system, "t") == ([], None)


async def test_subscriptions_hold_them_from_then_on(queue: Rig) -> None:
    await delay(queue, b"1", 10_000)
    await queue.subscribe("s", "t")
    taker = queue.consume()
    queue.clock.advance(20_000)
    await taker.wait(1)
    assert taker.payloads == [b"1"]


async def test_they_go_with_their_topic(rig: Rig) -> None:
    await delay(rig, b"x", 10_000)
    await rig.core.delete_topic(rig.system, "t")
    await rig.publish("t", "new")
    rig.clock.advance(60_000)
    await until(lambda: rig.core.delays.count == 0)
    assert await stored(rig) == [b"new"]


async def test_one_stored_while_others_are_released_is_not_late(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await delay(rig, b"a", 1_000)
    await delay(rig, b"later", 500_000)
    asked = rig.engine.next_due

    async def slow() -> int | None:
        soonest = await asked()
        monkeypatch.undo()
        await delay(rig, b"b", 1_000)  # stored before the answer to "what comes next?" is acted on
        return soonest  # type: ignore[no-any-return]

    monkeypatch.setattr(rig.engine, "next_due", slow, raising=False)
    rig.clock.advance(1_500)
    await arrived(rig, 1)
    await until(lambda: rig.core.delays.count == 2)
    rig.clock.advance(1_500)
    await arrived(rig, 2)
    assert await stored(rig) == [b"a", b"b"]
