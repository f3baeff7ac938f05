import asyncio
from typing import Literal

import pytest

from polywire.core.dedup import ORIGINAL_STATE
from polywire.core.errors import Conflict, Unavailable
from polywire.core.limits import Limits
from polywire.core.message import Flag, Receipt, Record
from polywire.core.topics import TopicSettings
from tests.core.harness import DISK_FULL, Rig, until
from tests.core.test_topics import Make


def once(payload: bytes, id: str = "k", **more: object) -> Record:
    return Record(payload, id=id, flags=Flag.DEDUP, **more)


async def publish(rig: Rig, *records: Record, topic: str = "t") -> list[Receipt]:
    return await rig.core.publish(rig.system, topic, list(records))


def count(rig: Rig) -> int:
    return rig.core.topic_info(rig.system, "t").count


async def test_a_duplicate_gets_the_originals_position(rig: Rig) -> None:
    [first] = await publish(rig, once(b"x"))
    [again] = await publish(rig, once(b"x"))
    assert (again.position, again.time, again.duplicate) == (first.position, first.time, True)
    assert count(rig) == 1


async def test_a_duplicate_in_flight_is_acknowledged_with_its_original(rig: Rig) -> None:
    await rig.publish("t", "x")
    rig.engine.holding = True
    first, again = (asyncio.ensure_future(publish(rig, once(b"x"))) for _ in range(2))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not first.done()
    assert not again.done()
    rig.engine.let_go()
    [[one], [other]] = await asyncio.gather(first, again)
    assert one.position == other.position
    assert other.duplicate
    assert count(rig) == 2


async def test_if_the_original_fails_so_does_the_duplicate_and_a_third_is_fresh(rig: Rig) -> None:
    await rig.publish("t", "x")
    rig.engine.fault = DISK_FULL
    results = await asyncio.gather(publish(rig, once(b"x")), publish(rig, once(b"x")), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    rig.engine.fault = None
    [receipt] = await publish(rig, once(b"x"))
    assert not receipt.duplicate
    assert count(rig) == 2


async def test_another_body_is_a_conflict(rig: Rig) -> None:
    await publish(rig, once(b"x"))
    for other in (once(b"y"), once(b"x", key=b"k"), once(b"")):
        with pytest.raises(Conflict, match="used with other content"):
            await publish(rig, other)
    assert count(rig) == 1


async def test_the_scope_is_topic_principal_and_id(rig: Rig) -> None:
    _, secret = await rig.core.access.create_key(rig.system, "other", ["publish:#"])
    other = rig.core.access.authenticate(secret)
    await publish(rig, once(b"x"))
    [receipt] = await rig.core.publish(other, "t", [once(b"y")])
    assert not receipt.duplicate
    [receipt] = await publish(rig, once(b"z"), topic="u")
    assert not receipt.duplicate
    [receipt] = await publish(rig, Record(b"no flag", id="k"))
    assert not receipt.duplicate


async def test_after_a_restart_the_window_is_rebuilt_from_the_log(rig: Rig) -> None:
    [first] = await publish(rig, once(b"x"))
    await publish(rig, *[once(b"%d" % number, f"id{number}") for number in range(100)])
    for again in (rig.restart, rig.crash_and_start):
        await again()
        [receipt] = await publish(rig, once(b"x"))
        assert (receipt.position, receipt.duplicate) == (first.position, True)
        with pytest.raises(Conflict):
            await publish(rig, once(b"y", "id7"))
    assert count(rig) == 101


@pytest.mark.parametrize("restart", [False, True])
async def test_the_window_ends_by_time(rig: Rig, restart: bool) -> None:
    await publish(rig, once(b"x"))
    rig.clock.advance(60_000)
    if restart:
        await rig.restart()
    assert (await publish(rig, once(b"x")))[0].duplicate
    rig.clock.advance(61_000)
    if restart:
        await rig.restart()
    assert not (await publish(rig, once(b"x")))[0].duplicate
    assert (await publish(rig, once(b"x")))[0].duplicate


async def test_the_window_ends_by_count(make: Make) -> None:
    rig = await make(Limits(dedup_ids=10))
    for number in range(100):
        await publish(rig, once(b"x", str(number)))
    [topic] = rig.core.log.by_id.values()
    assert topic.dedup is not None
    assert len(topic.dedup) == 10
    assert (await publish(rig, once(b"x", "90")))[0].duplicate
    assert not (await publish(rig, once(b"x", "89")))[0].duplicate


async def test_duplicates_within_a_batch(rig: Rig) -> None:
    receipts = await publish(rig, once(b"x"), Record(b"plain"), once(b"x"), once(b"y", "k2"), once(b"x"))
    assert [receipt.duplicate for receipt in receipts] == [False, False, True, False, True]
    assert receipts[0].position == receipts[2].position == receipts[4].position
    assert count(rig) == 3
    receipts = await publish(rig, once(b"x"), once(b"x"), once(b"z", "k3"))
    assert [receipt.duplicate for receipt in receipts] == [True, True, False]
    assert count(rig) == 4


async def test_a_batch_with_a_conflict_is_refused_whole_and_says_where(rig: Rig) -> None:
    await publish(rig, once(b"x"))
    with pytest.raises(Conflict) as caught:
        await publish(rig, once(b"new", "k2"), once(b"other"))
    assert [field.path for field in caught.value.fields] == ["$[1]"]
    with pytest.raises(Conflict):
        await publish(rig, once(b"new", "k2"), once(b"newer", "k2"))
    assert count(rig) == 1
    assert not (await publish(rig, once(b"new", "k2")))[0].duplicate


async def test_memory_topics(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("t", durability="memory"))
    [first] = await publish(rig, once(b"x"))
    [again] = await publish(rig, once(b"x"))
    assert again.duplicate
    assert again.position == first.position
    await rig.restart()
    assert not (await publish(rig, once(b"x")))[0].duplicate


async def delay(rig: Rig, *records: Record, after: int = 60_000, topic: str = "t") -> list[Receipt]:
    return await rig.core.publish(rig.system, topic, list(records), due=rig.clock.now() + after)


def shown(receipt: Receipt) -> tuple[object, ...]:
    return receipt.id, receipt.position, receipt.time, receipt.key


async def originals(rig: Rig) -> int:
    """How many delayed ones the store knows of."""
    await rig.crash()
    rig.engine.inner.open()
    found = sum(1 for _ in rig.engine.inner.load(ORIGINAL_STATE))
    rig.engine.inner.close()
    await rig.start()
    return found


Again = Literal["restart", "crash_and_start"]


@pytest.mark.parametrize("again", ["restart", "crash_and_start"])
@pytest.mark.parametrize("durability", ["durable", "memory"])
async def test_a_delayed_original_is_known_after_a_restart_while_it_waits(
    rig: Rig, again: Again, durability: Literal["durable", "memory"]
) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("t", durability=durability))
    [first] = await delay(rig, once(b"x", key=b"k"))
    for _ in range(2):
        await getattr(rig, again)()
        for [receipt] in (await delay(rig, once(b"x", key=b"k")), await publish(rig, once(b"x", key=b"k"))):
            assert receipt.duplicate
            assert shown(receipt) == shown(first)
        with pytest.raises(Conflict):
            await publish(rig, once(b"y", key=b"k"))
    rig.clock.advance(61_000)
    await until(lambda: count(rig) == 1)
    await until(lambda: rig.core.delays.count == 0)


@pytest.mark.parametrize("again", ["restart", "crash_and_start"])
async def test_a_delayed_original_is_known_after_it_came_due_and_a_restart(rig: Rig, again: Again) -> None:
    [first] = await delay(rig, once(b"x"), after=10_000)
    rig.clock.advance(11_000)
    await until(lambda: count(rig) == 1)
    for _ in range(2):
        await getattr(rig, again)()
        for [receipt] in (await delay(rig, once(b"x")), await publish(rig, once(b"x"))):
            assert receipt.duplicate
            assert shown(receipt) == shown(first)
    assert (count(rig), rig.core.delays.count) == (1, 0)


@pytest.mark.parametrize("restart", [False, True])
async def test_the_window_of_a_delayed_original_begins_when_it_is_published(rig: Rig, restart: bool) -> None:
    """Neither its coming due nor a restart makes it longer; and what was published with its id since counts."""
    [first] = await delay(rig, once(b"x"), after=240_000)
    rig.clock.advance(121_000)
    if restart:
        await rig.restart()
    [second] = await publish(rig, once(b"y"))
    assert not second.duplicate
    rig.clock.advance(110_000)
    if restart:
        await rig.restart()
    assert (await publish(rig, once(b"y")))[0].position == second.position
    rig.clock.advance(10_000)
    await until(lambda: count(rig) == 2)
    if restart:
        await rig.restart()
    [third] = await publish(rig, once(b"z"))
    assert not third.duplicate
    assert first.id not in (second.id, third.id)


async def test_a_key_used_again_while_its_first_message_waits_names_the_second(rig: Rig) -> None:
    """Whatever order they are found in: by the log, or among what is delayed."""
    await publish(rig, once(b"log", "a"))
    await delay(rig, once(b"delayed", "b"))
    rig.clock.advance(121_000)
    [b] = await publish(rig, once(b"log", "b"))
    [a] = await delay(rig, once(b"delayed", "a"))
    for _ in range(2):
        assert shown((await publish(rig, once(b"log", "b")))[0]) == shown(b)
        assert shown((await publish(rig, once(b"delayed", "a")))[0]) == shown(a)
        await rig.restart()


async def test_a_batch_of_delayed_ones_after_a_restart(rig: Rig) -> None:
    batch = [once(b"%d" % number, f"id{number}") for number in range(5)]
    first = await delay(rig, *batch[:3])
    await rig.restart()
    again = await delay(rig, *batch)
    assert [receipt.duplicate for receipt in again] == [True] * 3 + [False] * 2
    assert [shown(receipt) for receipt in again[:3]] == [shown(receipt) for receipt in first]
    assert rig.core.delays.count == 5


async def test_one_whose_commit_failed_is_fresh_after_a_restart(rig: Rig) -> None:
    await rig.publish("t", "x")
    rig.engine.fault = DISK_FULL
    with pytest.raises(Unavailable):
        await delay(rig, once(b"x"))
    rig.engine.fault = None
    await rig.restart()
    assert not (await delay(rig, once(b"x")))[0].duplicate


async def test_delayed_originals_do_not_gather_in_the_store(make: Make) -> None:
    rig = await make(Limits(dedup_ids=10))
    for number in range(30):
        await delay(rig, once(b"x", str(number)), after=600_000)
    assert await originals(rig) == 10
    await rig.core.create_topic(rig.system, TopicSettings("memory", durability="memory"))
    await delay(rig, once(b"x"), after=1_000, topic="memory")
    assert await originals(rig) == 11
    rig.clock.advance(2_000)
    await until(lambda: rig.core.delays.count == 30)
    assert await originals(rig) == 10
    rig.clock.advance(121_000)
    await rig.restart()
    assert await originals(rig) == 0
    await delay(rig, once(b"x"))
    await rig.core.delete_topic(rig.system, "t")
    await rig.restart()
    assert await originals(rig) == 0
